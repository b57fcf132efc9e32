"""Messages over a TCP connection: a mark (a byte that other protocols do not begin with), kind, length, payload.

    kind     b"H" hello, b"W" welcome, b"P" I am there, b"V" a value, b"A" everyone's values, b"S" asked to stop,
             b"E" ended
    length   4 bytes, big-endian
"""

import contextlib
import json
import socket
import struct
import threading
import time

_HEAD = struct.Struct("!BcI")
_FIRST = 0xCC
_KINDS = (b"H", b"W", b"P", b"V", b"A", b"S", b"E")
_SEND_SECONDS = 15.0  # a peer that reads nothing for so many seconds is stopped or gone
_LONGEST_GREETING, _LONGEST = 2**20, 2**31  # bytes


class Garbage(Exception):
    """What came over a connection is not ours."""


class Link:
    """One end of a connection.

    Args:
        connection: connected socket; the Link owns it.
        index: int, the worker at the other end, or None while that is not known.

    Attributes:
        index: as given.
        is_welcome: bool, it is known to be a worker; until then messages are short.
        heard: time.monotonic() of the last bytes that came.
        is_done: bool, the other end has said that it ends, or has ended.
    """

    def __init__(self, connection, index=None):
        self.index = index
        self.heard = time.monotonic()
        self.is_done = False
        self.is_welcome = index is not None
        self._socket = connection
        self._received = bytearray()
        self._sending = threading.Lock()
        connection.settimeout(_SEND_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def fileno(self):
        return self._socket.fileno()

    def send(self, kind, payload=b"", waits=True):
        """Send a message.

        Args:
            kind: one of the kinds above.
            payload: bytes, or what JSON can hold.
            waits: False sends nothing while another thread is sending.

        Raises:
            OSError: the other end is gone or takes nothing; the connection is closed, for half a message may be out.
        """
        if not isinstance(payload, bytes):
            payload = json.dumps(payload).encode()
        if not self._sending.acquire(blocking=waits):
            return
        try:
            self._socket.sendall(_HEAD.pack(_FIRST, kind, len(payload)) + payload)
        except OSError:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # so that the reading side learns of it
            raise
        finally:
            self._sending.release()

    def try_to_send(self, kind, payload=b"", waits=True):
        """Send a message to an end that may be gone."""
        with contextlib.suppress(OSError):
            self.send(kind, payload, waits)

    def receive(self):
        """Read what has come: a list of (kind, bytes), empty while a message is incomplete.

        Raises:
            EOFError: the other end has closed. Whole messages before the end are given first.
            Garbage: no message of ours.
            OSError: the connection is broken.
        """
        data = self._socket.recv(2**20)
        self.heard = time.monotonic()
        if not data:
            raise EOFError("its connection closed")
        self._received += data
        messages = []
        while len(self._received) >= _HEAD.size:
            first, kind, length = _HEAD.unpack_from(self._received)
            longest = _LONGEST if self.is_welcome else _LONGEST_GREETING
            if first != _FIRST or kind not in _KINDS or length > longest:
                raise Garbage("not a message of a worker")
            end = _HEAD.size + length
            if len(self._received) < end:
                break
            messages.append((kind, bytes(self._received[_HEAD.size:end])))
            del self._received[:end]
        return messages

    def wait(self, deadline):
        """The messages that come next, at least one, before time.monotonic() is `deadline`; TimeoutError after it."""
        while True:
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                messages = self.receive()
            finally:
                self._socket.settimeout(_SEND_SECONDS)
            if messages:
                return messages

    def close(self):
        self._socket.close()


def pack(blobs):
    """A list of bytes as bytes."""
    return b"".join([struct.pack("!I", len(blobs)), *(struct.pack("!I", len(blob)) for blob in blobs), *blobs])


def unpack(data):
    """What `pack` was given."""
    count, = struct.unpack_from("!I", data)
    lengths = struct.unpack_from(f"!{count}I", data, 4)
    blobs, place = [], 4 + 4 * count
    for length in lengths:
        blobs.append(data[place:place + length])
        place += length
    return blobs
