"""What workers say to one another, each a thread here. No TensorFlow."""

import contextlib
import socket
import threading
import time

import pytest

from cct_tf.errors import OutsideFault, UserError
from cct_tf.workers import peers as peers_lib
from cct_tf.workers import rendezvous, wire
from cct_tf.workers.cluster import Cluster
from cct_tf.workers.peers import PeerEnded, Peers

FACTS = {"--seed": 0}


def addresses(count):
    """Free ports of this machine."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return tuple(f"127.0.0.1:{each.getsockname()[1]}" for each in sockets)


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
        thread.join(timeout=30)
        assert not thread.is_alive(), "a worker waits without an end"
    return results


def joining(workers, index, facts=None, timeout=10.0):
    return lambda: rendezvous.find_peers(Cluster(workers, index), facts or FACTS, timeout)


@pytest.fixture
def crew():
    """Makes a number of `Peers` that have found one another; stops[i] lists the signals that worker i hears of."""
    made = []

    def make(count):
        workers = addresses(count)
        links = at_once(*(joining(workers, index) for index in range(count)))
        stops = [[] for _ in range(count)]
        made.extend(Peers(Cluster(workers, index), links[index], stops[index].append) for index in range(count))
        return made, stops

    yield make
    for each in made:
        if not each._closed:
            each.leave(0, "")


def soon(condition):
    deadline = time.monotonic() + 5.0
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
    crew[2].tell_stop(15)
    assert soon(lambda: stops == [[15], [15], []])
    crew[0].tell_stop(2)
    assert soon(lambda: stops == [[15], [15, 2], [2]])


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_silent_worker_is_named_when_tensorflow_fails(crew, stopped, monkeypatch):
    monkeypatch.setattr(peers_lib, "_SUSPECT", 0.6)
    monkeypatch.setattr(peers_lib, "_BEAT", 0.1)
    crew, _ = crew(3)
    crew[stopped]._closed = True  # its thread says nothing any more, its connections stay
    time.sleep(0.8)

    class UnavailableError(Exception):
        pass

    others = [each for each in crew if each is not crew[stopped]]
    for error in at_once(*(lambda each=each: each.explain(UnavailableError()) for each in others)):
        assert error.exit_status == 75
        assert str(error).startswith(f"{crew[0].cluster.name(stopped)} does not answer (silent for 1 s)")


def test_silence_ends_a_wait_without_tensorflow_too(crew, monkeypatch):
    monkeypatch.setattr(peers_lib, "_SILENT", 0.5)
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
    began = time.monotonic()
    chief, other = at_once(joining(workers, 0, timeout=1.0), joining(workers, 1, timeout=1.0))
    assert isinstance(chief, OutsideFault) and isinstance(other, OutsideFault)
    assert str(chief) == ("--startup_timeout: expected all 3 workers within 1 s, found no "
                          f"{Cluster(workers, 0).name(2)}")
    assert str(chief) in str(other) and time.monotonic() - began < 3.0
    with pytest.raises(OutsideFault, match=r"expected worker 0 \(.*\) to answer within 0.5 s, found none .*refused"):
        joining(workers, 2, timeout=0.5)()


def test_different_flags_are_named_to_both():
    workers = addresses(2)
    chief, other = at_once(joining(workers, 0), joining(workers, 1, {"--seed": 3}))
    assert isinstance(chief, UserError) and str(chief) == str(other)
    assert "found different --seed (0 on worker 0, 3 on worker 1)" in str(chief)


def test_two_with_the_same_index_are_refused():
    workers = addresses(3)
    chief, *others = at_once(joining(workers, 0), joining(workers, 1), joining(workers, 1))
    assert isinstance(chief, UserError) and "found two for worker 1" in str(chief)
    assert all(isinstance(other, UserError) for other in others)


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


def test_packed_blobs_come_out_again():
    blobs = [b"", b"abc", bytes(1000)]
    assert wire.unpack(wire.pack(blobs)) == blobs
