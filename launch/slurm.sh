#!/usr/bin/env bash
# Trains on the machines of a Slurm job, one worker each, and asks to be run again when stopped or lost. From the
# repository's root, which all machines see, as they see --workdir:
#
#   sbatch [--nodes=4 --gpus-per-node=4 --cpus-per-task=32 --time=24:00:00 ...] launch/slurm.sh \
#       --flagfile=FILE --workdir=DIR [--flag=value ...]
#
#   CCT_ROOT          the repository, if sbatch is called from elsewhere
#   CCT_MAX_RESTARTS  how often the job is put back into the queue at most (20); Slurm counts its own requeues too
#   CCT_PORT          the workers' port, if the one made from the job's number is taken
#   CCT_VENV, CCT_PYTHON, CCT_CUDA   see setup.sh; make the environment before: launch/local.sh --help does
#
# Options given to sbatch win over those here.
#SBATCH --job-name=cct_tf
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=cct_tf-%j.log
# The workers get SIGTERM so many seconds before the time limit, save and leave.
#SBATCH --signal=TERM@300
set -euo pipefail
# Slurm runs a copy of this file, so the repository is not where it lies.
ROOT=${CCT_ROOT:-${SLURM_SUBMIT_DIR:-.}}
if [[ ! ${SLURM_JOB_ID:-} || ! -e $ROOT/launch/setup.sh ]]; then
  echo "error: slurm.sh: expected to be started by sbatch from the repository's root (or CCT_ROOT to name it)," \
    "found job '${SLURM_JOB_ID:-}' in $ROOT" >&2
  exit 2
fi
# shellcheck source-path=SCRIPTDIR source=setup.sh
source "$ROOT/launch/setup.sh"
setup_venv

# srun no longer takes this over from sbatch, and without it a worker may be bound to one core.
[[ ! ${SLURM_CPUS_PER_TASK:-} ]] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
# Workers end by themselves when one is lost. --kill-on-bad-exit=1 would kill those that are still saving the moment
# the first has left; --wait kills what hangs, so many seconds after it.
status=0
srun --ntasks-per-node=1 --kill-on-bad-exit=0 --wait=300 \
  "$PYTHON" -P "$ROOT/launch/tf_config.py" "$PYTHON" -P -m cct_tf.train "$@" || status=$?

# 75 a fault from outside, 143, 130 and 129 asked to stop, the others above 128 killed. cct_tf/errors.py has the list.
if ((status != 75 && status <= 128)); then exit "$status"; fi
restarts=${SLURM_RESTART_COUNT:-0} most=${CCT_MAX_RESTARTS:-20}
if ((restarts >= most)); then
  die "$status" "slurm.sh: status $status; run again $restarts times already (CCT_MAX_RESTARTS=$most), given up"
fi
say "slurm.sh: status $status; back into the queue for restart $((restarts + 1)) of $most"
if scontrol requeue "$SLURM_JOB_ID"; then sleep 60; fi # Slurm ends this script meanwhile
die "$status" "slurm.sh: job $SLURM_JOB_ID was not put back into the queue"
