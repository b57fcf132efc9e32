# shellcheck shell=bash
# Sourced by the scripts beside it. `setup_venv [test]` makes sure that the virtual environment holds what
# requirements.txt asks for ([test]: and launch/requirements-test.txt and -export.txt) and leaves its Python in $PYTHON.
# The project is installed into it too (editable), so that its commands work in any folder once it is active; the scripts
# beside this file do without that, so what stands in its way is a message, no error.
#
#   CCT_VENV    where the environment is; default .venv in the repository, whatever the current folder
#   CCT_PYTHON  the Python that makes it; default the first fitting one in PATH
#   CCT_CUDA    1: with the CUDA libraries, 0: without, unset: with them where an NVIDIA driver is present
#
# In $VENV/.cct: `base`, `cuda`, `test` are stamps, written last, each holding the key its part was installed under;
# `project` says which checkout was, with the checksum of its pyproject.toml, or what was tried in vain;
# `installing` is there from before the first change until the stamps are written; `ours` says that this script may
# delete what is in the environment; `lock` lets one start at a time install. Messages go to stderr: with --json,
# stdout belongs to the command. Exit statuses: 2 mend it first, 75 worth another try (network, disk).

ROOT=$(dirname -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")")
VENV=$(realpath -m -- "${CCT_VENV:-$ROOT/.venv}")
PYTHON=$VENV/bin/python
STATE=$VENV/.cct
LOG=$STATE/install.log
PARTS=(base)

say() { printf 'cct_tf: %s\n' "$*" >&2; }
die() { local status=$1; shift; say "$@"; exit "$status"; }

# Names the reason in $CUDA_REASON. No nvidia-smi: it takes a second or two on some machines.
wants_cuda() {
  case ${CCT_CUDA:-} in
    1) CUDA_REASON="CCT_CUDA=1" && return ;;
    0) CUDA_REASON="CCT_CUDA=0" && return 1 ;;
    '') ;;
    *) die 2 "CCT_CUDA: expected 0, 1 or unset, found '$CCT_CUDA'" ;;
  esac
  local file
  for file in /proc/driver/nvidia/version /dev/nvidiactl /usr/lib/wsl/lib/libcuda.so.1; do
    [[ -e $file ]] && CUDA_REASON="NVIDIA driver found" && return
  done
  CUDA_REASON="no NVIDIA driver found"
  return 1
}

# Prints the version of a Python that runs and fits. A pyenv shim may be in PATH and yet only print an error.
fitting_version() {
  "$1" -I -S -c 'import sys
v = sys.version_info[:2]
print("%d.%d" % v)
sys.exit(not (3, 11) <= v <= (3, 13))' 2>/dev/null
}

# Every part has its stamp under the key of now. Changes nothing, so a read-only environment will do.
is_ready() {
  local part stamp
  VERSION=$(fitting_version "$PYTHON") || return 1
  KEY="$VERSION $(cat "$ROOT/requirements.txt" "$ROOT"/launch/requirements-{test,export}.txt | sha256sum)" || return 1
  [[ ! -e $STATE/installing ]] || return 1
  for part in "${PARTS[@]}"; do
    read -r stamp 2>/dev/null <"$STATE/$part" || return 1
    [[ "$stamp" == "$KEY" ]] || return 1
  done
}

# The commands of an active environment are those of this checkout, as its pyproject.toml is now; or, where checkouts share
# an environment outside of them, of the first one that is still there: else each start would undo the other's.
has_project() {
  local sum root
  [[ -w $STATE ]] || return 0 # nothing to be done
  { read -r sum && read -r root; } 2>/dev/null <"$STATE/project" || return 1
  if [[ $root == "$ROOT" ]]; then
    [[ $sum == "$(sha256sum <"$ROOT/pyproject.toml")" ]]
  else
    [[ $VENV != "$ROOT"/* && -e $root/pyproject.toml ]]
  fi
}

find_python() {
  local names=(python3 python3.13 python3.12 python3.11) name path version without_venv="" seen=""
  [[ -z ${CCT_PYTHON:-} ]] || names=("$CCT_PYTHON")
  for name in "${names[@]}"; do
    while read -r path; do
      version=$(fitting_version "$path") || { seen+=" $path${version:+ ($version)}"; continue; }
      # Debian and Ubuntu ship `venv` without the part that puts pip into it.
      if "$path" -I -c 'import ensurepip, venv' 2>/dev/null; then
        FOUND=$path VERSION=$version
        return
      fi
      without_venv=${without_venv:-$version $path}
    done < <(type -aP -- "$name")
  done
  if [[ $without_venv ]]; then
    die 2 "Python $without_venv has no venv module. Install it, then start again:" \
      "sudo apt-get install python3-venv python${without_venv%% *}-venv"
  fi
  die 2 "no Python 3.11, 3.12 or 3.13 that runs; looked at ${names[*]} in PATH, found:${seen:- none}." \
    "Install one, then start again: sudo apt-get install python3 python3-venv (Debian 12 and 13, Ubuntu 24.04)," \
    "elsewhere python3.13 and python3.13-venv; or name one: CCT_PYTHON=/path/to/python3"
}

# Runs an installer with its output in the log. A signal ends it too, so none goes on behind a start that was stopped.
logged() {
  local child status=0
  "$@" >>"$LOG" 2>&1 </dev/null &
  child=$!
  trap 'stop "$child" 130' INT
  trap 'stop "$child" 143' TERM
  trap 'stop "$child" 129' HUP
  wait "$child" || status=$?
  trap - INT TERM HUP
  return "$status"
}

stop() {
  kill "$1" 2>/dev/null || true
  wait "$1" || true
  forget_if_untouched
  die "$2" "stopped while setting up; the next start does it again"
}

# An environment whose packages pip was not yet writing is as good as before.
forget_if_untouched() { grep -q '^Installing collected packages' "$LOG" || rm -f "$STATE/installing"; }

make_venv() {
  if [[ -e $STATE/ours ]]; then
    if [[ ! -e $STATE/installing ]] && fitting_version "$PYTHON" >/dev/null && "$PYTHON" -I -c 'import pip' 2>/dev/null
    then return; fi
    say "$VENV is unfinished or its Python is gone: making it again"
  elif [[ -n $(find -H "$VENV" -mindepth 1 -maxdepth 1 ! -name .cct -print -quit) ]]; then
    # Somebody else's: used if it will do, deleted never.
    fitting_version "$PYTHON" >/dev/null && "$PYTHON" -I -c 'import pip' 2>/dev/null && return
    rm -r "$STATE"
    die 2 "$VENV: expected a virtual environment of Python 3.11-3.13 with pip, or nothing; found something else," \
      "not made by this script. Remove it, or name another place: CCT_VENV=/path"
  fi
  find_python
  rm -f "$STATE/base" "$STATE/cuda" "$STATE/test" "$STATE/project"
  touch "$STATE/ours"
  find -H "$VENV" -mindepth 1 -maxdepth 1 ! -name .cct -exec rm -rf {} +
  say "making $VENV with $FOUND ($VERSION)"
  logged "$FOUND" -I -m venv "$VENV" || fail "could not make $VENV"
}

# PIP_USER: a `user = true` in the machine's pip configuration fails in a virtual environment. -I: nor may the user's
# PYTHONPATH pass for installed packages.
pip_install() {
  PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 logged "$PYTHON" -I -m pip install --no-input "$@"
}

install() {
  local part args=(-r "$ROOT/requirements.txt") what="requirements.txt" size=3
  for part in "${PARTS[@]}"; do
    case $part in
      cuda) args+=("tensorflow[and-cuda]"); what+=", CUDA libraries"; size=7 ;;
      test)
        args+=(-r "$ROOT/launch/requirements-test.txt" -r "$ROOT/launch/requirements-export.txt")
        what+=", test packages" ;;
    esac
  done
  say "installing into $VENV: $what ($CUDA_REASON). The first time takes a few minutes and about $size GB of disk;" \
    "output in $LOG"
  touch "$STATE/installing"
  pip_install "${args[@]}" || fail "pip could not install the packages"
  logged "$PYTHON" -I -c 'import tensorflow' || fail "TensorFlow is installed but cannot be imported"
  is_ready || true  # for $KEY: requirements.txt may have changed meanwhile
  for part in "${PARTS[@]}"; do
    printf '%s\n' "$KEY" >"$STATE/$part"
  done
  rm "$STATE/installing"
}

install_project() {
  # A checkout that was moved took its environment along, whose `activate` still names the old place.
  if [[ -e $STATE/ours && -e $STATE/project && $(tail -n 1 "$STATE/project") != "$ROOT" ]]; then
    logged "$PYTHON" -I -m venv --without-pip "$VENV" || true
  fi
  # Without isolation, which would fetch the build system anew each time: without a network too, once it is there.
  if pip_install "setuptools>=77" && pip_install --no-deps --no-build-isolation -e "$ROOT"; then
    say "installed the project into $VENV: after 'source $VENV/bin/activate' its commands work in any folder"
  else
    say "could not install the project into $VENV, see $LOG; this script works all the same, and with it active the" \
      "commands work in $ROOT. To have it tried again: rm $STATE/project"
  fi
  printf '%s\n' "$(sha256sum <"$ROOT/pyproject.toml")" "$ROOT" >"$STATE/project" || true
}

fail() {
  forget_if_untouched
  tail -n 40 "$LOG" >&2
  die 75 "$1; the end of $LOG is above. The next start tries again"
}

setup_venv() {
  [[ ${1:-} != test ]] || PARTS+=(test)
  if wants_cuda; then PARTS+=(cuda); fi
  if ! { is_ready && has_project; }; then
    mkdir -p "$STATE" || die 2 "cannot write to $VENV; name another place: CCT_VENV=/path"
    # Held by the installers too, and given back before the command starts.
    exec 9>>"$STATE/lock"
    flock -n 9 || { say "another start is setting up $VENV: waiting for it" && flock 9; } ||
      say "no locks on this file system: let one start at a time set up $VENV"
    if ! is_ready; then
      : >"$LOG"
      make_venv
      install
    fi
    has_project || install_project
    exec 9>&-
  fi
  say "$VENV is ready: Python $VERSION, $CUDA_REASON"
  # The package is found from any folder, and paths in the arguments keep meaning what they mean in that folder.
  export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}
}
