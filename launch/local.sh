#!/usr/bin/env bash
# Trains on this machine; the first start makes .venv (setup.sh beside this file tells how, and what CCT_VENV,
# CCT_PYTHON and CCT_CUDA do):
#
#   ./launch/local.sh --flagfile=configs/quickstart.cfg [--flag=value ...]
#
# Every argument goes to `python -m cct_tf.train`. Relative paths are meant from the current folder, so `configs/...`
# works from the repository's root.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/setup.sh"
setup_venv
# exec: signals reach the training process and its exit status is ours. -P: a file in the current folder can't pass
# for a module.
exec "$PYTHON" -P -m cct_tf.train "$@"
