#!/bin/bash
#PBS -N licensed
#PBS -l select=1:ncpus=1
#PBS -l walltime=01:00:00
# A PBS job with a license from behind a gateway. Change the gateway, the server and the last line.
# Every module load comes before the line: the software's module may set the variable, too.

cd "${PBS_O_WORKDIR:-.}" || exit
lic=$(licfwd tri-gw MLM_LICENSE_FILE=licserver:27000) && eval "$lic" || exit

matlab -batch main
