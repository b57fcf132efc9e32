#!/usr/bin/env bash
# Trains with N processes on this machine, each a worker as on a cluster, and starts them again after a fault (--help
# tells when); the first start makes .venv (see setup.sh beside this file):
#
#   ./launch/workers.sh [--max_restarts=R] N --flagfile=configs/quickstart.cfg [--flag=value ...]
#
# Relative paths are meant from the current folder.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/setup.sh"
setup_venv
# No -P: for a script, Python looks for modules in the script's folder, not in the current one.
exec "$PYTHON" "$ROOT/launch/workers.py" "$@"
