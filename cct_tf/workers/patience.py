"""How long a worker may be silent, and how long the workers may go without an exchange. All times in seconds."""

import math
import time

BEAT = 1.0  # between two signs of life
SUSPECT = 4.0  # of silence: enough to blame a worker for an error of TensorFlow
SILENT = 30.0  # of silence: enough to end the run without such an error
SILENT_AT_START = 50.0  # as SILENT, while TensorFlow starts, which keeps Python's threads from running
GRACE = 20.0  # that the main thread gets to leave by itself once a worker is lost
NEWS = 8.0  # to wait for the news that explains an error of TensorFlow


class Patience:
    """The limits that one worker sets the others.

    Args:
        start_seconds: float, --startup_timeout; limits the silence allowed before `shorten`.

    Attributes:
        waits: bool, whether this worker is in an exchange.
    """

    def __init__(self, start_seconds=math.inf):
        self.waits = False
        self._silence = max(min(start_seconds, SILENT_AT_START), SILENT)
        self._between = math.inf
        self._met = time.monotonic()

    def met(self):
        """An exchange has come to its end."""
        self.waits, self._met = False, time.monotonic()

    def shorten(self):
        """TensorFlow has started: SILENT is the limit from now on."""
        self._silence = SILENT

    def limit_between(self, seconds):
        """From now on there may be at most so many seconds between two exchanges."""
        self._met, self._between = time.monotonic(), seconds

    def silent(self, links, seconds=None):
        """The first of the `wire.Link`s that has been silent for too long, or for `seconds`; None if none has."""
        limit = self._silence if seconds is None else seconds
        now = time.monotonic()
        return next((link for link in links if not link.is_done and now - link.heard > limit), None)

    def is_late(self, is_chief):
        """The limit between two exchanges if it has passed, else None."""
        # Worker 0 knows best who is missing, so it is the first to find out.
        limit = self._between + (0.0 if is_chief else 2 * BEAT)
        return self._between if time.monotonic() - self._met > limit else None
