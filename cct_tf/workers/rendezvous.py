"""How the workers of a run find one another, before TensorFlow starts, which would wait for a missing one for ever.

Worker 0 listens on its port of TF_CONFIG, the others connect to it and say who they are and what they were started
with; when all have come and agree, it welcomes them. Then it listens no more: TensorFlow's server takes the port.
"""

import contextlib
import errno
import json
import selectors
import socket
import time

from cct_tf.errors import OutsideFault, UserError, exit_status
from cct_tf.workers import wire
from cct_tf.workers.peers import PeerEnded

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
            strangers = {}  # Link that has not greeted -> when it must have
            while len(links) < cluster.num_workers - 1:
                if time.monotonic() >= deadline:
                    raise OutsideFault(_missing(cluster, links, timeout))
                for key, _ in selector.select(_PAUSE_SECONDS):
                    if key.fileobj is listening:
                        link = wire.Link(listening.accept()[0])
                        strangers[link] = time.monotonic() + _ATTEMPT_SECONDS
                        selector.register(link, selectors.EVENT_READ)
                    else:
                        _read(key.fileobj, cluster, facts, links, strangers, selector)
                for link in [link for link, limit in strangers.items() if time.monotonic() > limit]:
                    _drop(link, links, strangers, selector)  # a probe, a port scanner
            for link in list(strangers):
                _drop(link, links, strangers, selector)
    except BaseException as error:
        status, line = exit_status(error)
        ended = {"status": status, "line": f"{cluster.name(0)} ended: {line or type(error).__name__}"}
        for link in links.values():
            link.try_to_send(b"E", ended)
            link.close()
        raise
    for link in links.values():
        link.try_to_send(b"W")
    return list(links.values())


def _missing(cluster, links, timeout):
    missing = [cluster.name(index) for index in range(1, cluster.num_workers) if index not in links]
    return (f"--startup_timeout: expected all {cluster.num_workers} workers within {timeout:g} s, found no "
            f"{', no '.join(missing[:8])}{' ...' if len(missing) > 8 else ''}")


def _drop(link, links, strangers, selector):
    selector.unregister(link)
    strangers.pop(link, None)
    if links.get(link.index) is link:
        del links[link.index]
    link.close()


def _read(link, cluster, facts, links, strangers, selector):
    """Read a link. A worker that has greeted sends nothing more, so it has gone; another one sends its greeting."""
    try:
        hello = _hello(link.receive())
    except (EOFError, OSError, ValueError, KeyError, TypeError, wire.Garbage):
        _drop(link, links, strangers, selector)
        return
    if hello is None or link not in strangers:
        return
    problem = _disagreement(cluster, facts, hello)
    index = hello["index"]
    if problem is None and index in links:
        # An earlier process of this worker may have gone without a word, or both run: the newer one takes its place.
        before = links[index]
        before.try_to_send(b"E", {"status": UserError.exit_status, "line": "TF_CONFIG: expected one process for each "
                                  f"task index, found another one for {cluster.name(index)}"})
        _drop(before, links, strangers, selector)
    if problem:
        link.try_to_send(b"E", {"status": UserError.exit_status, "line": problem})
        raise UserError(problem)
    link.index, link.is_welcome = index, True
    del strangers[link]
    links[index] = link


def _hello(messages):
    """The greeting, or None while it is incomplete. TypeError, KeyError, ValueError or Garbage: it is no greeting."""
    if not messages:
        return None
    kind, payload = messages[0]
    hello = json.loads(payload)
    if kind != b"H" or hello["magic"] != _MAGIC:
        raise wire.Garbage("another greeting")
    if type(hello["index"]) is not int or not isinstance(hello["facts"], dict):
        raise wire.Garbage("a greeting of other parts")
    return hello | {"workers": [str(address) for address in hello["workers"]]}


def _disagreement(cluster, facts, hello):
    """What is wrong with a worker that greets, or None."""
    index = hello["index"]
    if hello["workers"] != list(cluster.workers) or not 0 < index < cluster.num_workers:
        return (f"TF_CONFIG: expected the same cluster on every worker, found {', '.join(cluster.workers)} on worker 0 "
                f"and {', '.join(hello['workers'])} on worker {index}")
    theirs = hello["facts"]
    ours = json.loads(json.dumps(facts))  # JSON makes lists of tuples
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
        if ended["status"] == UserError.exit_status:
            raise UserError(ended["line"])
        raise PeerEnded(ended["line"], ended["status"])
    if kind != b"W":
        raise wire.Garbage("another answer")
    return link
