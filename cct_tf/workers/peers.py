"""What the workers of a run tell one another, outside TensorFlow's collectives.

Every worker but the first holds one connection to worker 0, which passes on what concerns all. Over these connections
the workers agree on where the run goes on, how many steps come next, when to stop and what an evaluation found, so that
all call the same collectives in the same order. They also learn here which worker is gone, hangs or has failed:
TensorFlow ends a collective when a worker is lost, but does not say which. A thread listens; it can't run while native
code holds Python's lock, as TensorFlow's start does.
"""

import abc
import json
import math
import selectors
import signal
import threading
import time

from cct_tf.errors import OUTSIDE_FAULT, STOP_SIGNALS, WRONG_INPUT, OutsideFault
from cct_tf.machine import process_exit
from cct_tf.workers import output, patience, wire


class PeerEnded(OutsideFault):
    """Another worker is gone, hangs or has ended, and so must this one.

    Args:
        line: what happened to whom.
        exit_status: int, of this worker too.
    """

    def __init__(self, line, exit_status=OUTSIDE_FAULT):
        super().__init__(line)
        self.exit_status = exit_status


class Group(abc.ABC):
    """The workers of a run, as one of them sees them: `Peers`, or `Alone` for a run of one process.

    Every worker calls `exchange`, `exchange_bytes` and `wait_for_chief` in the same order and equally often: each waits
    until all have called it, and raises PeerEnded where one never will.

    Attributes:
        index: int, which worker this is.
        num_workers: int.
        is_chief: bool, whether it is worker 0, which alone writes.
    """

    index: int
    num_workers: int
    is_chief: bool

    @abc.abstractmethod
    def exchange(self, value=None):
        """Give every worker everyone's value.

        Args:
            value: what JSON can hold.

        Returns:
            list of values, one of each worker in their order.
        """

    @abc.abstractmethod
    def exchange_bytes(self, blob):
        """As `exchange`, for bytes."""

    @abc.abstractmethod
    def wait_for_chief(self):
        """Until worker 0 calls this too: what it does first, the others do after it."""

    @abc.abstractmethod
    def judge_exchanges(self, seconds):
        """From now on so many seconds between two exchanges end the run, though every worker gives signs of life."""


class Alone(Group):
    """A run of one process: it has its own word back at once, and waits for nobody."""

    index, num_workers, is_chief = 0, 1, True

    def exchange(self, value=None):
        return [value]

    def exchange_bytes(self, blob):
        return [blob]

    def wait_for_chief(self):
        pass

    def judge_exchanges(self, seconds):
        pass


class Peers(Group):
    """The other workers.

    Args:
        cluster: `cluster.Cluster`.
        links: of `rendezvous.find_peers`.
        on_stop: function of a signal number and a worker's name, called in a thread when that worker was asked to stop.
        start_seconds: float, --startup_timeout.

    Attributes:
        cluster, and its index, num_workers and is_chief.
    """

    def __init__(self, cluster, links, on_stop, start_seconds=math.inf):
        self.index, self.num_workers, self.is_chief = cluster.index, cluster.num_workers, cluster.is_chief
        self.cluster = cluster
        self._links = {link.index: link for link in links}
        self._on_stop = on_stop
        self._news = threading.Condition()
        self._parts = {}  # worker 0: number of an exchange -> {worker: blob}
        self._answers = {}  # the others: number -> blobs
        self._number = 0
        self._failure = None
        self._failed_at = None
        self._leaving = False
        self._closed = False
        self._patience = patience.Patience(start_seconds)
        self._thread = threading.Thread(target=self._listen, daemon=True, name="peers")
        self._thread.start()

    # The main thread.

    def exchange_bytes(self, blob):
        number, self._number = self._number, self._number + 1
        if self.is_chief:
            blobs = self._collect(number, blob)
            answer = number.to_bytes(8, "big") + wire.pack(blobs)
            for link in self._links.values():
                link.try_to_send(b"A", answer)  # if it is gone, the next exchange says so
            return blobs
        link = self._links[0]
        link.try_to_send(b"V", number.to_bytes(8, "big") + blob)
        return self._await(lambda: self._answers.pop(number, None))

    def _collect(self, number, own):
        def whole():
            parts = self._parts.get(number, {})
            return parts if len(parts) == self.num_workers - 1 else None

        parts = self._await(whole)
        with self._news:
            del self._parts[number]
        return [own, *(parts[index] for index in range(1, self.num_workers))]

    def exchange(self, value=None):
        return [json.loads(blob) for blob in self.exchange_bytes(json.dumps(value).encode())]

    def wait_for_chief(self):
        self.exchange()

    def _await(self, found):
        """What `found()` gives when it is not None."""
        with self._news:
            self._patience.waits = True
            while (value := found()) is None:
                if self._failure is not None:
                    raise self._failure
                self._news.wait()
            self._patience.met()
            return value

    def judge_silence(self):
        """TensorFlow has started on all workers: from now on the shorter limit of silence applies."""
        with self._news:
            now = time.monotonic()
            for link in self._links.values():
                link.heard = max(link.heard, now)
            self._patience.shorten()

    def judge_exchanges(self, seconds):
        self._patience.limit_between(seconds)

    def tell_stop(self, number):
        """Tell all that this worker was asked to stop by a signal."""
        for link in self._links.values():
            link.try_to_send(b"S", {"signal": int(number), "worker": self.index})

    def explain(self, error):
        """The worker whose loss made TensorFlow fail, if one was lost. Waits a while for the news of it.

        Args:
            error: tf.errors.OpError.

        Returns:
            PeerEnded, or None.
        """
        lost = any(word in f"{type(error).__name__} {error}" for word in (
            "Unavailable", "Aborted", "Cancelled", "Deadline", "Internal", "FailedPrecondition", "Unknown",
            "Collective ops is aborted"))  # in the last, TensorFlow names the fault on another worker
        deadline = time.monotonic() + (patience.NEWS if lost else 0.0)
        while self._failure is None and (left := deadline - time.monotonic()) > 0:
            self._blame_silent(patience.SUSPECT)
            with self._news:
                if self._failure is None:
                    self._news.wait(min(left, patience.BEAT))
        return self._failure

    def leave(self, status, line):
        """Tell the others that this worker ends, and close. If `status` is not 0 they end too and say `line`."""
        with self._news:
            self._leaving = True
            if self._failure is None or str(self._failure) != line:
                line = f"{self.cluster.name(self.index)} ended: {line}"
        for link in self._links.values():
            link.try_to_send(b"E", {"status": status, "line": line})
        self._closed = True
        self._thread.join(timeout=2 * patience.BEAT)
        for link in self._links.values():
            link.close()

    # The thread.

    def _listen(self):
        # Signals belong to the main thread: no other may receive them while that one holds them back.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        while not self._closed:
            try:
                self._listen_and_beat()
            except Exception as error:  # without this thread nobody would ever learn of anything
                self._fail(1, f"{self.cluster.name(self.index)}: {type(error).__name__}: {error}")
                time.sleep(patience.BEAT)
                self._judge()

    def _listen_and_beat(self):
        with selectors.DefaultSelector() as selector:
            for link in self._links.values():
                if not link.is_done:
                    selector.register(link, selectors.EVENT_READ)
            looked = beat = time.monotonic()
            while not self._closed:
                for key, _ in selector.select(patience.BEAT / 4):
                    self._read(key.fileobj, selector)
                now = time.monotonic()
                if now - looked > patience.SUSPECT:  # this process stood still, so the others' silence means nothing
                    for link in self._links.values():
                        link.heard = now
                looked = now
                if now - beat > patience.BEAT:
                    beat = now
                    for link in self._links.values():
                        if not link.is_done:
                            link.try_to_send(b"P", waits=False)
                self._judge()

    def _read(self, link, selector):
        try:
            for kind, payload in link.receive():
                self._take(link, kind, payload)
        except (EOFError, OSError, wire.Garbage) as error:
            selector.unregister(link)
            has_left, link.is_done = link.is_done, True
            if not has_left:
                self._fail(OUTSIDE_FAULT, f"{self.cluster.name(link.index)} is gone ({_reason(error)})")

    def _take(self, link, kind, payload):
        if kind == b"V":
            with self._news:
                number = int.from_bytes(payload[:8], "big")
                self._parts.setdefault(number, {})[link.index] = payload[8:]
                self._news.notify_all()
        elif kind == b"A":
            with self._news:
                self._answers[int.from_bytes(payload[:8], "big")] = wire.unpack(payload[8:])
                self._news.notify_all()
        elif kind == b"S":
            self._pass_on(link, kind, payload)
            asked = json.loads(payload)
            self._on_stop(asked["signal"], self.cluster.name(asked["worker"]))
        elif kind == b"E":
            ended = json.loads(payload)
            link.is_done = True
            if ended["status"]:
                self._fail(ended["status"], ended["line"])

    def _pass_on(self, source, kind, payload):
        for link in self._links.values():
            if link is not source:
                link.try_to_send(kind, payload)

    def _fail(self, status, line):
        """Note the first failure; worker 0 tells the others of it."""
        with self._news:
            if self._failure is not None:
                return
            self._failure = PeerEnded(line, status)
            self._failed_at = time.monotonic()
            self._news.notify_all()
        if self.is_chief:
            for link in self._links.values():
                if not link.is_done:
                    link.try_to_send(b"E", {"status": status, "line": line})

    def _blame_silent(self, seconds=None):
        link = self._patience.silent(self._links.values(), seconds)
        if link is not None:
            self._fail(OUTSIDE_FAULT, f"{self.cluster.name(link.index)} does not answer (silent for "
                                      f"{time.monotonic() - link.heard:.0f} s)")

    def _blame_late(self):
        seconds = self._patience.is_late(self.is_chief)
        if seconds is None:
            return
        if not self._patience.waits:
            found = f"{self.cluster.name(self.index)} busy, or waiting in a sum"
        elif self.is_chief:
            parts = self._parts.get(self._number - 1, {})
            found = "no " + ", no ".join(self.cluster.name(index) for index in self._links if index not in parts)
        else:
            found = f"no answer of {self.cluster.name(0)}"
        self._fail(OUTSIDE_FAULT, f"--collective_timeout: expected the workers to meet within {seconds:g} s, found "
                                  f"{found}; a longer one, where a save or an evaluation takes so long")

    def _judge(self):
        if not self._leaving:
            self._blame_silent()
            self._blame_late()
        if self._failed_at is not None and not self._leaving and time.monotonic() - self._failed_at > patience.GRACE:
            # The main thread is in a collective that never ends.
            label = "error" if self._failure.exit_status == WRONG_INPUT else "stopped"
            try:
                output.say_last(f"{label}: {self._failure}")
            finally:
                process_exit.at_once(self._failure.exit_status)


def _reason(error):
    return getattr(error, "strerror", None) or str(error)
