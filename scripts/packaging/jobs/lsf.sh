#!/bin/bash
#BSUB -J licensed
#BSUB -n 1
#BSUB -W 60
#BSUB -Q "69 75"
# An LSF job with a license from behind a gateway; -Q queues it again when gateway or license server are away.
# Change the gateway, the server and the last line.
# Every module load comes before the line: the software's module may set the variable, too.

lic=$(licfwd tri-gw MLM_LICENSE_FILE=licserver:27000) && eval "$lic" || exit

matlab -batch main
