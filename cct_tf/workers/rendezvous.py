"""How the workers of a run find one another, before TensorFlow would wait for them without an end.

Worker 0 listens on its port of TF_CONFIG, the others connect to it and say who they are and what they were started
with; when all have come and agree, it welcomes them. Then it listens no more: TensorFlow's server takes the port.
"""

import contextlib
import errno
import json
import selectors
import socket
import time

from cct_tf.errors import OutsideFault, UserError
from cct_tf.workers import wire

_MAGIC = "cct_tf workers 1"
_ATTEMPT_SECONDS = 5.0
_PAUSE_SECONDS = 0.3


def find_peers(cluster, facts, timeout):
    """Connect the workers.

    Args:
        cluster: `cluster.Cluster`.
        facts: dict that JSON can hold, flag or package -> value, the same on every worker.
        timeout: float, seconds that the others may take to come.

    Returns:
        list of `wire.Link`: of worker 0, one to each other worker; of another worker, the one to worker 0.

    Raises:
        OutsideFault: this worker's port is in use, or somebody did not come in time.
        UserError: the workers were started with different facts, or two as the same worker.
    """
    deadline = time.monotonic() + timeout
    with contextlib.closing(_listen(cluster)) as listening:
        if cluster.is_chief:
            return _gather(cluster, facts, listening, deadline, timeout)
    return [_join(cluster, facts, deadline, timeout)]


def _listen(cluster):
    """A listening socket on this worker's port. TensorFlow would share the port with whoever listens there already."""
    both = socket.has_dualstack_ipv6()
    family, host = (socket.AF_INET6, "::") if both else (socket.AF_INET, "")
    try:
        return socket.create_server((host, cluster.port), family=family, dualstack_ipv6=both)
    except OSError as error:
        raise OutsideFault(f"TF_CONFIG: expected a free port for {cluster.name(cluster.index)}, found {cluster.port} "
                           f"not to be had ({error.strerror}); a worker of an earlier start may still be "
                           "there") from None


# Worker 0.

def _gather(cluster, facts, listening, deadline, timeout):
    links = {}  # index -> Link
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(listening, selectors.EVENT_READ)
            while len(links) < cluster.num_workers - 1:
                ready = selector.select(max(deadline - time.monotonic(), 0.0))
                if not ready:
                    raise OutsideFault(_missing(cluster, links, timeout))
                for key, _ in ready:
                    if key.fileobj is listening:
                        _greet(cluster, facts, listening, links, selector)
                    else:  # nobody speaks now: it has gone, and its place is free again
                        selector.unregister(key.fileobj)
                        links.pop(key.fileobj.index).close()
    except (OutsideFault, UserError) as error:
        for link in links.values():
            link.try_to_send(b"E", {"status": error.exit_status, "line": f"{cluster.name(0)} ended: {error}"})
            link.close()
        raise
    for link in links.values():
        link.try_to_send(b"W")
    return list(links.values())


def _missing(cluster, links, timeout):
    missing = [cluster.name(index) for index in range(1, cluster.num_workers) if index not in links]
    return (f"--startup_timeout: expected all {cluster.num_workers} workers within {timeout:g} s, found no "
            f"{', no '.join(missing[:8])}{' ...' if len(missing) > 8 else ''}")


def _greet(cluster, facts, listening, links, selector):
    """Take a connection if it is a worker's, into `links` and `selector`."""
    connection, _ = listening.accept()
    link = wire.Link(connection)
    try:
        (kind, payload), *_ = link.wait(time.monotonic() + _ATTEMPT_SECONDS)
        hello = json.loads(payload)
        if kind != b"H" or hello.get("magic") != _MAGIC:
            raise wire.Garbage("another greeting")
        link.index = hello["index"]
    except (EOFError, OSError, ValueError, KeyError, AttributeError, wire.Garbage):
        link.close()  # a port scanner, a probe of liveness
        return
    problem = _disagreement(cluster, facts, hello, links)
    if problem:
        link.try_to_send(b"E", {"status": UserError.exit_status, "line": problem})
        link.close()
        raise UserError(problem)
    links[link.index] = link
    selector.register(link, selectors.EVENT_READ)


def _disagreement(cluster, facts, hello, links):
    """What is wrong with a worker that greets, or None."""
    index = hello["index"]
    if hello["workers"] != list(cluster.workers):
        return (f"TF_CONFIG: expected the same cluster on every worker, found {', '.join(cluster.workers)} on worker 0 "
                f"and {', '.join(hello['workers'])} on worker {index}")
    if index in links or not 0 < index < cluster.num_workers:
        return f"TF_CONFIG: expected one process for each task index, found two for {cluster.name(index)}"
    theirs = hello["facts"]
    ours = json.loads(json.dumps(facts))  # tuples are lists there
    different = [f"{name} ({ours.get(name)} on worker 0, {theirs.get(name)} on worker {index})"
                 for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    if different:
        return "expected every worker to be started alike, found different " + ", ".join(different)
    return None


# The others.

def _join(cluster, facts, deadline, timeout):
    hello = {"magic": _MAGIC, "index": cluster.index, "workers": cluster.workers, "facts": facts}
    reason = "not tried"
    while time.monotonic() < deadline:
        try:
            seconds = min(_ATTEMPT_SECONDS, deadline - time.monotonic())
            link = wire.Link(socket.create_connection(cluster.address(0), timeout=seconds), 0)
        except OSError as error:
            reason = error.strerror or str(error)
        else:
            try:
                return _welcomed(link, hello, deadline)
            except (EOFError, TimeoutError, wire.Garbage, OSError) as error:
                link.close()
                reason = _no_welcome(error)
        time.sleep(_PAUSE_SECONDS)
    raise OutsideFault(f"--startup_timeout: expected {cluster.name(0)} to answer within {timeout:g} s, found none "
                       f"({reason})")


def _no_welcome(error):
    if isinstance(error, TimeoutError):
        return "it answers, but other workers did not come"
    if isinstance(error, wire.Garbage) or getattr(error, "errno", None) == errno.ECONNRESET:
        return "another program answers, or a run that is under way"
    return str(error)


def _welcomed(link, hello, deadline):
    """`link` when worker 0 has welcomed this one."""
    link.send(b"H", hello)
    # Worker 0 tells by itself when others do not come; its line is the better one.
    (kind, payload), *_ = link.wait(deadline + _ATTEMPT_SECONDS)
    if kind == b"E":
        ended = json.loads(payload)
        raise (UserError if ended["status"] == UserError.exit_status else OutsideFault)(ended["line"])
    if kind != b"W":
        raise wire.Garbage("another answer")
    return link
