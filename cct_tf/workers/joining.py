"""Joining a run of several processes and leaving it: every worker learns how the others ended."""

import contextlib
import importlib.metadata
import os
import re
import subprocess
import sys

import cct_tf
from cct_tf import errors
from cct_tf.machine import compile_cache, process_exit
from cct_tf.settings.config import PLACES
from cct_tf.workers.peers import Alone, PeerEnded, Peers
from cct_tf.workers.rendezvous import find_peers

# What may differ from worker to worker: where things are on its machine.
_OWN = (*PLACES, "workdir")
_PACKAGES = ("tensorflow", "keras", "numpy")
_ends_at_once = False  # see `end_at_once`
# The program of `deadline`. A process of its own, because TensorFlow's start keeps Python's threads from running. It
# ends when its stdin is closed.
_DEADLINE = """
import os, select, signal, sys
pid, seconds, line = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
if not select.select([0], [], [], seconds)[0]:
    sys.stderr.write(line + "\\n")
    sys.stderr.flush()
    os.kill(pid, signal.SIGKILL)
"""


@contextlib.contextmanager
def joined(cluster, config, interrupts):
    """Join the run; at the end tell the other workers how this one ended.

    TensorFlow's error for a lost connection does not say which worker was lost. Such an error in the block is replaced
    by a PeerEnded that names the worker and what happened to it.

    Args:
        cluster: `cluster.Cluster`, or None for a run of one process.
        config: `config.Config`, that of the other workers too.
        interrupts: `interrupts.Interrupts`, which learns that another worker was asked to stop.

    Yields:
        `peers.Peers`, or `peers.Alone`.

    Raises:
        PeerEnded: another worker is gone, hangs or has ended. OutsideFault, UserError: as `find_peers`.
    """
    if cluster is None:
        yield Alone()
        return
    seconds = config.run.startup_timeout
    peers = Peers(cluster, find_peers(cluster, _facts(config), seconds), interrupts.ask, seconds)
    interrupts.tell = peers.tell_stop
    try:
        yield peers
        peers.exchange()  # nobody leaves before all have done their part
    except BaseException as error:
        named = _named(peers, error)
        status, line = errors.exit_status(named)
        peers.leave(status, line or f"{type(named).__name__}, a bug; what it printed says where")
        if named is error:
            raise
        raise named from error
    peers.leave(0, "")


def _facts(config):
    """What must be equal on all workers, {flag or package: value}."""
    facts = {f"--{name}": value for name, value in config.as_dict().items() if name not in _OWN}
    return facts | {"cct_tf": cct_tf.__version__} | {name: importlib.metadata.version(name) for name in _PACKAGES}


def _named(peers, error):
    """The error itself; or the loss of a worker as PeerEnded, where that is why TensorFlow failed."""
    if isinstance(error, errors.HardwareFault):
        named = _named(peers, error.__cause__)
        return error if named is error.__cause__ else named
    # pybind11: TensorFlow's error came together with a signal, which TensorFlow turns into a RuntimeError.
    of_tensorflow = type(error).__module__.startswith("tensorflow.") or "pybind11::error_already_set" in str(error)
    if not of_tensorflow or errors.storage_fault(error):
        return error
    found = peers.explain(error)
    if found is not None:
        return found
    aborted = re.search("Collective ops is aborted by: (.*)", str(error))
    if aborted and type(error).__name__ in ("UnavailableError", "AbortedError", "DeadlineExceededError"):
        return PeerEnded("expected TensorFlow of all workers, which still answer one another, to stay connected, found "
                         f"a connection lost: {aborted[1][:200]}")
    return error


@contextlib.contextmanager
def deadline(seconds, line):
    """End this process with SIGKILL, after `line` on stderr, if the block takes longer than `seconds`."""
    watch = subprocess.Popen([sys.executable, "-I", "-S", "-c", _DEADLINE, str(os.getpid()), str(seconds), line],
                             stdin=subprocess.PIPE)
    try:
        yield
    finally:
        watch.stdin.close()
        watch.wait()


def end_at_once():
    """From now on `leave` skips TensorFlow's own shutdown, which would wait for workers that are gone."""
    global _ends_at_once
    _ends_at_once = True


def leave(status):
    """End the process: as sys.exit does, or by os._exit after `end_at_once`."""
    if not _ends_at_once:
        sys.exit(status)
    try:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        compile_cache.close()
    finally:
        process_exit.at_once(status)
