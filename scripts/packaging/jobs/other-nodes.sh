#!/bin/bash
#SBATCH --job-name=licensed-mpi
#SBATCH --nodes=2
#SBATCH --time=01:00:00
# A Slurm job whose other nodes use the license too: they ask the first node.
# Every module load comes before the line: the software's module may set the variable, too.

lic=$(licfwd --listen "$(hostname -i)" --allow "$(scontrol show hostnames)" \
  tri-gw ANSYSLMD_LICENSE_FILE=licserver:1055) && eval "$lic" || exit

srun solver
