#!/usr/bin/env bash
# Checks the style and runs the tests; the first start makes .venv (see setup.sh beside this file):
#
#   ./launch/test.sh                                      the whole suite
#   ./launch/test.sh tests/test_launch.py -k parallel     arguments go to pytest
#
# The whole suite runs in three processes, a file in one of them, and takes about 10 GB of memory. Relative paths are
# meant from the current folder; from outside the repository, too, no path means the whole suite.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/setup.sh"
setup_venv test
"$PYTHON" -P -m ruff check --quiet --config "$ROOT/pyproject.toml" "$ROOT" ||
  die 1 "ruff check: the faults above; tests not run"
paths=(-n 3 --dist=loadfile --no-loadscope-reorder "$ROOT/tests")
for arg in "$@"; do
  [[ ! -e ${arg%%::*} ]] || paths=()
done
exec "$PYTHON" -P -m pytest -c "$ROOT/pyproject.toml" ${paths[@]+"${paths[@]}"} "$@"
