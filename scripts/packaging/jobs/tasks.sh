#!/bin/bash
#SBATCH --job-name=licensed-tasks
#SBATCH --ntasks=4
#SBATCH --time=01:00:00
# A Slurm job whose tasks have a tunnel each, on whichever node they run: licfwd becomes the command behind --.
# Change the gateway, the server and the command. Every module load comes before: the software's module may set the
# variable, too.

srun licfwd tri-gw MLM_LICENSE_FILE=licserver:27000 -- matlab -batch main
