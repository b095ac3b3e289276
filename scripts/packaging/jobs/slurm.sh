#!/bin/bash
#SBATCH --job-name=licensed
#SBATCH --nodes=1
#SBATCH --time=01:00:00
# A Slurm job with a license from behind a gateway. Change the gateway, the server and the last line.
# Every module load comes before the line: the software's module may set the variable, too.

lic=$(licfwd tri-gw MLM_LICENSE_FILE=licserver:27000) && eval "$lic"
status=$?
case $status in
  0) ;;
  69 | 75)
    # The license server or the gateway is away: later, three times at most.
    if [ "${SLURM_RESTART_COUNT:-0}" -lt 3 ]; then
      scontrol requeuehold "$SLURM_JOB_ID" && scontrol update JobId="$SLURM_JOB_ID" StartTime=now+10minutes &&
        scontrol release "$SLURM_JOB_ID"
    fi
    exit "$status"
    ;;
  *) exit "$status" ;;
esac

matlab -batch main
