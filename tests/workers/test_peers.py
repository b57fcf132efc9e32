"""What workers say to one another, each a thread here. No TensorFlow."""

import contextlib
import errno
import io
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from cct_tf.errors import Interrupted, OutsideFault, UserError, exit_status
from cct_tf.machine import runtime, streams
from cct_tf.settings import config
from cct_tf.workers import joining as joined_lib
from cct_tf.workers import output, patience, rendezvous, wire
from cct_tf.workers.cluster import Cluster
from cct_tf.workers.peers import PeerEnded, Peers

FACTS = {"--seed": 0}
ROOT = pathlib.Path(__file__).resolve().parents[2]


def addresses(count):
    """Free ports of this machine, below those that outgoing connections get."""
    found = []
    for port in random.sample(range(20000, 32768), 1000):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(f"127.0.0.1:{port}")
        if len(found) == count:
            return tuple(found)
    raise AssertionError("no free ports")


def at_once(*functions):
    """Results of functions that wait for one another; an exception is a result too."""
    results = [None] * len(functions)

    def call(index):
        try:
            results[index] = functions[index]()
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=call, args=(index,)) for index in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
        assert not thread.is_alive(), "a worker waits without an end"
    return results


def joining(workers, index, facts=None, timeout=100.0, port=True):
    """A function that joins; `port` False as on a machine of its own, where the port is free."""
    if not port:
        return lambda: rendezvous._join(Cluster(workers, index), facts or FACTS, time.monotonic() + timeout, timeout)
    return lambda: rendezvous.find_peers(Cluster(workers, index), facts or FACTS, timeout)


def wait_for_port(address):
    host, _, port = address.partition(":")
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection((host, int(port))):
            return
        time.sleep(0.01)
    raise AssertionError("nobody listens")


@pytest.fixture
def crew():
    """Makes a number of `Peers` that have found one another; stops[i] lists what worker i hears of signals."""
    made = []

    def make(count):
        workers = addresses(count)
        links = at_once(*(joining(workers, index) for index in range(count)))
        stops = [[] for _ in range(count)]
        made.extend(Peers(Cluster(workers, index), links[index], lambda *heard, index=index: stops[index].append(heard))
                    for index in range(count))
        return made, stops

    yield make
    for each in made:
        if not each._closed:
            each.leave(0, "")


def soon(condition):
    deadline = time.monotonic() + 60.0
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_all_get_all_values_in_the_order_of_the_workers(crew):
    crew, _ = crew(4)
    for turn in range(3):
        found = at_once(*(lambda each=each, turn=turn: each.exchange([turn, each.index]) for each in crew))
        assert found == [[[turn, index] for index in range(4)]] * 4


def test_bytes_of_any_size_arrive_whole(crew):
    crew, _ = crew(3)
    blobs = [bytes([index]) * (index * 3_000_000) for index in range(3)]
    assert at_once(*(lambda each=each: each.exchange_bytes(blobs[each.index]) for each in crew)) == [blobs] * 3


def test_one_that_hastens_ahead_waits_for_the_others(crew):
    crew, _ = crew(2)

    def slow():
        time.sleep(0.3)
        return [crew[0].exchange("a"), crew[0].exchange("b")]

    found = at_once(slow, lambda: [crew[1].exchange("x"), crew[1].exchange("y")])
    assert found == [[["a", "x"], ["b", "y"]]] * 2


@pytest.mark.parametrize("lost", [0, 2])
def test_a_lost_worker_is_named_to_all_others(crew, lost):
    crew, _ = crew(3)
    dead = crew[lost]
    dead._closed = True  # its thread ends, as a killed process does, without a word
    dead._thread.join()
    others = [each for each in crew if each is not dead]
    waits = [each.exchange for each in others]

    def die():
        for link in dead._links.values():
            link.close()

    for error in at_once(*waits, die)[:2]:
        assert isinstance(error, PeerEnded) and error.exit_status == 75
        assert str(error).startswith(f"{dead.cluster.name(lost)} is gone (")


@pytest.mark.parametrize("status", [2, 75, 143, 1])
def test_one_that_ends_takes_the_others_with_it_and_its_reason(crew, status):
    crew, _ = crew(3)
    first, second, _ = at_once(crew[0].exchange, crew[2].exchange, lambda: crew[1].leave(status, "disk full"))
    for error in (first, second):
        assert (error.exit_status, str(error)) == (status, f"{crew[1].cluster.name(1)} ended: disk full")


def test_what_leaves_when_all_is_done_ends_nobody(crew):
    crew, _ = crew(2)
    at_once(*(each.exchange for each in crew))
    crew[1].leave(0, "")
    assert crew[0].explain(ValueError()) is None


def test_a_signal_is_heard_by_all_others(crew):
    crew, stops = crew(3)
    names = [crew[0].cluster.name(index) for index in range(3)]
    crew[2].tell_stop(15)
    assert soon(lambda: stops == [[(15, names[2])], [(15, names[2])], []])
    crew[0].tell_stop(2)
    assert soon(lambda: stops == [[(15, names[2])], [(15, names[2]), (2, names[0])], [(2, names[0])]])


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_silent_worker_is_named_when_tensorflow_fails(crew, stopped, monkeypatch):
    monkeypatch.setattr(patience, "SUSPECT", 1.5)
    monkeypatch.setattr(patience, "BEAT", 0.1)
    crew, _ = crew(3)
    crew[stopped]._closed = True  # its thread says nothing any more, its connections stay
    time.sleep(1.6)

    class UnavailableError(Exception):
        pass

    others = [each for each in crew if each is not crew[stopped]]
    for error in at_once(*(lambda each=each: each.explain(UnavailableError()) for each in others)):
        assert error.exit_status == 75
        assert re.match(rf"{re.escape(crew[0].cluster.name(stopped))} does not answer \(silent for \d+ s\)", str(error))


def test_silence_ends_a_wait_without_tensorflow_too(crew, monkeypatch):
    monkeypatch.setattr(patience, "SILENT", 0.5)
    crew, _ = crew(2)
    crew[1]._closed = True
    crew[0].judge_silence()
    with pytest.raises(PeerEnded, match="does not answer"):
        crew[0].exchange()


# Finding one another.

def test_they_may_come_in_any_order_and_beside_strangers():
    workers = addresses(3)

    def chief():
        time.sleep(0.5)
        return joining(workers, 0)()

    def stranger():
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(
                    ("127.0.0.1", int(workers[0].split(":")[1])), timeout=1.0) as connection:
                connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
                return
            time.sleep(0.05)

    links = at_once(chief, joining(workers, 1), joining(workers, 2), stranger)
    assert sorted(link.index for link in links[0]) == [1, 2] and [link.index for link in links[2]] == [0]
    for each in (*links[0], *links[1], *links[2]):
        each.close()


def test_who_does_not_come_is_named_in_time():
    workers = addresses(3)
    chief, other = at_once(joining(workers, 0, timeout=2.0), joining(workers, 1, timeout=2.0))
    assert isinstance(chief, OutsideFault) and isinstance(other, OutsideFault)
    assert str(chief) == ("--startup_timeout: expected all 3 workers within 2 s, found no "
                          f"{Cluster(workers, 0).name(2)}")
    assert str(chief) in str(other)
    with pytest.raises(OutsideFault, match=r"expected worker 0 \(.*\) to answer within 0.5 s, found none .*refused"):
        joining(workers, 2, timeout=0.5)()


def test_different_flags_are_named_to_both():
    workers = addresses(2)
    chief, other = at_once(joining(workers, 0), joining(workers, 1, {"--seed": 3}))
    assert isinstance(chief, UserError) and str(chief) == str(other)
    assert "found different --seed (0 on worker 0, 3 on worker 1)" in str(chief)


def test_a_second_one_with_the_same_index_takes_the_place(monkeypatch):
    workers, greeted, replaced, hello = addresses(2 + 1), threading.Event(), threading.Event(), rendezvous._hello

    def heard(messages):
        found = hello(messages)
        if found:
            greeted.set()  # read by worker 0, in whose order greetings count
        return found

    monkeypatch.setattr(rendezvous, "_hello", heard)

    def first():
        try:
            return joining(workers, 1)()
        finally:
            replaced.set()

    chief, first, second, _ = at_once(
        joining(workers, 0), first, lambda: greeted.wait(100) and joining(workers, 1, port=False)(),
        lambda: replaced.wait(100) and joining(workers, 2)())
    assert isinstance(first, UserError) and "found another one for worker 1" in str(first)
    assert sorted(link.index for link in chief) == [1, 2] and second.index == 0


def test_those_who_say_nothing_keep_nobody_waiting(monkeypatch):
    workers, silent, connected = addresses(2), [], threading.Event()

    def connect():
        for _ in range(5):
            wait_for_port(workers[0])
            silent.append(socket.create_connection(("127.0.0.1", int(workers[0].split(":")[1]))))
        connected.set()

    def late():
        connected.wait(100)
        return joining(workers, 1)()

    monkeypatch.setattr(rendezvous, "_ATTEMPT_SECONDS", 600.0)  # what they have, and `at_once` hasn't
    chief, other, _ = at_once(joining(workers, 0), late, connect)
    assert len(chief) == len(other) == 1 and len(silent) == 5
    for each in silent:
        each.close()


@pytest.mark.parametrize("greeting", [
    b"[]", b"{}", b"not json", b'{"magic": "cct_tf workers 1", "index": "1", "workers": [], "facts": {}}',
    b'{"magic": "cct_tf workers 1", "index": 1, "facts": {}}', bytes(2**20 + 1)])
def test_an_odd_greeting_is_no_worker(greeting):
    workers, answered = addresses(2), threading.Event()

    def stranger():
        wait_for_port(workers[0])
        with contextlib.suppress(OSError), socket.create_connection(
                ("127.0.0.1", int(workers[0].split(":")[1])), timeout=20.0) as connection:
            connection.sendall(wire._HEAD.pack(wire._FIRST, b"H", len(greeting)) + greeting)
            connection.recv(1)
        answered.set()

    def late():
        answered.wait(100)
        return joining(workers, 1)()

    chief, other, _ = at_once(joining(workers, 0), late, stranger)
    assert [link.index for link in chief] == [1] and [link.index for link in other] == [0]


def test_a_port_in_use_is_named():
    workers = addresses(2)
    port = int(workers[1].split(":")[1])
    with socket.create_server(("", port)), pytest.raises(OutsideFault, match=rf"found {port} not to be had"):
        joining(workers, 1)()


def test_messages_come_whole_however_they_are_cut():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        sender = socket.create_connection(listening.getsockname())
        link = wire.Link(listening.accept()[0])
    with contextlib.closing(sender), contextlib.closing(link):
        found = []
        for byte in wire._HEAD.pack(wire._FIRST, b"V", 3) + b"abc" + wire._HEAD.pack(wire._FIRST, b"P", 0):
            sender.sendall(bytes([byte]))
            found += link.receive()
        assert found == [(b"V", b"abc"), (b"P", b"")]
        sender.sendall(b"HTTP/1.1 200 OK")
        with pytest.raises(wire.Garbage):
            link.receive()


def test_workers_that_live_but_do_not_meet_end_the_run(crew):
    crew, _ = crew(2)
    for each in crew:
        each.judge_exchanges(2.0)
    at_once(*(each.exchange for each in crew))
    with pytest.raises(PeerEnded, match=r"--collective_timeout: .* within 2 s, found no worker 1"):
        crew[0].exchange()


def test_a_send_to_one_that_takes_nothing_ends_the_connection(monkeypatch):
    monkeypatch.setattr(wire, "_SEND_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        sender = wire.Link(socket.create_connection(listening.getsockname()), 1)
        taker = listening.accept()[0]
    with contextlib.closing(taker), contextlib.closing(sender), pytest.raises(TimeoutError):
        sender.send(b"V", bytes(2**25))
    with contextlib.closing(taker), pytest.raises((EOFError, OSError)):
        sender.receive()  # who listens there learns of it


@pytest.mark.parametrize(("error", "status"), [
    (OSError(errno.ENOSPC, "No space left on device", "metrics.jsonl"), 75), (UserError("wrong"), 2),
    (OutsideFault("gone"), 75), (Interrupted(15, "saved"), 143), (KeyError("a bug"), 1)])
def test_the_others_end_with_the_status_of_the_first(error, status):
    workers, statuses = addresses(2), [None, None]

    class NoSignals:
        ask, tell = None, None

    def run(index, fails):
        def inside():
            with joined_lib.joined(Cluster(workers, index), config.from_dict({}), NoSignals()) as peers:
                if fails:
                    raise error
                peers.exchange()
        try:
            inside()
        except BaseException as raised:
            statuses[index] = exit_status(raised)[0]

    at_once(lambda: run(0, False), lambda: run(1, True))
    assert statuses == [status, status]


_DEADLINE = """
import sys, time
from cct_tf.workers.joining import deadline
with deadline(float(sys.argv[1]), "[1] stopped: too late"):
    time.sleep(0.3)
print("came through")
"""


@pytest.mark.parametrize(("seconds", "status", "out", "err"), [
    ("600", 0, "came through\n", ""), ("0.05", -signal.SIGKILL, "", "[1] stopped: too late\n")])
def test_a_deadline_needs_no_thread_of_the_process(seconds, status, out, err):
    done = subprocess.run([sys.executable, "-c", _DEADLINE, seconds], capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stdout, done.stderr) == (status, out, err)


def test_packed_blobs_come_out_again():
    blobs = [b"", b"abc", bytes(1000)]
    assert wire.unpack(wire.pack(blobs)) == blobs


def test_silence_ends_a_start_after_startup_timeout(monkeypatch):
    monkeypatch.setattr(patience, "SILENT", 0.1)
    monkeypatch.setattr(patience, "BEAT", 0.05)
    workers = addresses(2)
    links = at_once(joining(workers, 0), joining(workers, 1))
    starting = Peers(Cluster(workers, 0), links[0], None, start_seconds=0.6)
    began = time.monotonic()
    with contextlib.closing(links[1][0]), pytest.raises(PeerEnded, match="worker 1 .* does not answer"):
        starting.exchange()
    assert time.monotonic() - began > 0.3  # not after SILENT
    starting.leave(75, "")


def test_a_signal_to_worker_0_sends_those_away_who_have_come(monkeypatch):
    def interrupt(*_):
        raise Interrupted(15, "SIGTERM before the first step, nothing to save")

    monkeypatch.setattr(rendezvous, "_missing", interrupt)
    workers = addresses(3)

    def chief():
        with pytest.raises(Interrupted):
            joining(workers, 0, timeout=1.0)()

    _, other = at_once(chief, joining(workers, 1))
    assert isinstance(other, PeerEnded) and other.exit_status == 143
    assert str(other).startswith("worker 0 ") and "ended: SIGTERM before" in str(other)


@pytest.mark.parametrize("kind, status", [("UnavailableError", 75), ("AbortedError", 75), ("InvalidArgumentError", 1)])
def test_what_aborts_a_collective_with_all_workers_there(crew, monkeypatch, kind, status):
    monkeypatch.setattr(patience, "NEWS", 0.2)
    crew, _ = crew(2)
    error = type(kind, (Exception,), {"__module__": "tensorflow.python"})(
        "Graph execution error:\n\nCollective ops is aborted by: errors resolving b:1\nThe error could be ...")
    named = joined_lib._named(crew[0], error)
    assert getattr(named, "exit_status", 1) == status
    if status == 75:
        assert str(named).endswith("found a connection lost: errors resolving b:1")
    else:
        assert named is error


def test_a_signal_in_the_middle_of_tensorflows_error(crew):
    crew, _ = crew(2)
    crew[1].leave(143, "SIGTERM before the first step")
    error = RuntimeError("pybind11::error_already_set: MISMATCH of original and normalized active exception types: "
                         "ORIGINAL UnavailableError REPLACED BY Interrupted: SIGTERM before the first step")
    named = joined_lib._named(crew[0], error)
    assert isinstance(named, PeerEnded) and named.exit_status == 143 and "worker 1 " in str(named)


def test_last_words_are_seen_while_stderr_is_held_back(capfd, monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))  # as it was, afterwards
    monkeypatch.setattr(output, "_last", None)
    monkeypatch.setattr(output, "_out", None)
    output.prefix_lines(Cluster(("a:1", "b:1"), 1))
    with streams.watched(lambda: None), runtime.quiet_stderr():  # as in a training
        print("opening ...", end="")
        output.say_last("stopped: worker 0 is gone")
    assert capfd.readouterr() == ("[1] opening ...\n", "[1] stopped: worker 0 is gone\n")


def test_a_line_long_in_coming_is_shown_as_far_as_it_goes(monkeypatch):
    monkeypatch.setattr(output, "_LONG", 1.0)
    stream = io.StringIO()
    prefixed = output.Prefixed(stream, "[1] ")
    print("opening ...", end="", file=prefixed, flush=True)
    print(" 0.1 s\ncompiling ...", end="", file=prefixed, flush=True)
    assert soon(lambda: stream.getvalue().endswith("compiling ...\n"))
    print(" 7.0 s", file=prefixed, flush=True)
    assert stream.getvalue() == "[1] opening ... 0.1 s\n[1] compiling ...\n[1] compiling ... 7.0 s\n"
