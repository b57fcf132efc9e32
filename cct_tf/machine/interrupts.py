"""SIGINT, SIGTERM, SIGHUP, a closed output: finish the step, save, leave; a second SIGINT leaves at once.

Python's own handlers wait for the running TensorFlow call and merge repeated signals into one, so a thread reads the
wake-up file descriptor, to which the C handler writes a byte the moment a signal arrives.
"""

import contextlib
import os
import signal
import sys
import threading

from cct_tf.errors import STOP_SIGNALS, Interrupted
from cct_tf.machine import process_exit


class Interrupts:
    """Handlers of this process. Install once, in the main thread, before TensorFlow is imported.

    Attributes:
        requested: number of the signal that asked to stop, SIGPIPE's for a closed output; or None.
        can_save: while True, a signal only sets `requested`, for the loop to look at; while False, it ends the
            command where it stands.
        tell: function of the number of a signal that arrived here, called in a thread; a run of several workers sets
            it.
    """

    def __init__(self):
        self.requested = None
        self.can_save = False
        self.tell = lambda number: None
        self._signals = STOP_SIGNALS
        self._previous = {}
        self._count = 0
        self._told = False
        self._whose = ""
        self._has_raised = False
        self._writing = None

    def install(self):
        reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # nohup: the end of the terminal is to make no difference
            self._signals = tuple(number for number in STOP_SIGNALS if number != signal.SIGHUP)
        for number in self._signals:
            self._previous[number] = signal.signal(number, self._handle)
        signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reading,), daemon=True).start()
        return self

    @contextlib.contextmanager
    def held(self, holds=True):
        """Signals wait until the block ends, and threads that it starts never get them; `holds` False does nothing.

        TensorFlow's workers set a handler in C that swallows SIGTERM. Until ours is back, no thread may take it: so
        the imports that start threads (NumPy's, TensorFlow's) belong into such a block too.
        """
        if not holds:
            yield
            return
        signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        try:
            yield
        finally:
            for number in self._signals:
                signal.signal(number, self._handle)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self._signals)

    def ask(self, number, name):
        """Another worker, `name`, was asked to stop by a signal; so is this one. It counts as no second SIGINT."""
        self._ask(number, f" of {name}")

    def output_closed(self):
        """Nobody reads stdout any more."""
        self._ask(signal.SIGPIPE, "")

    def _ask(self, number, whose):
        if self.requested is None:
            self._whose = whose
            self.requested = number
            if self.can_save:
                self._say_once(number)
            else:
                os.kill(os.getpid(), signal.SIGTERM)

    def uninstall(self):
        signal.set_wakeup_fd(-1)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        os.close(self._writing)  # ends the thread

    def _watch(self, reading):
        signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)  # they are the main thread's, see `held`
        while numbers := os.read(reading, 64):
            for number in numbers:
                if number in self._signals:
                    self._arrived(number)
        os.close(reading)

    def _arrived(self, number):
        if number == signal.SIGINT:
            self._count += 1
            if self._count >= 2:
                process_exit.at_once(128 + number)
        self.requested = self.requested or number
        if self.can_save:
            self._say_once(number)
        # In a thread of its own: this one has to hear of a second SIGINT.
        threading.Thread(target=self.tell, args=(number,), daemon=True).start()

    def _say_once(self, number):
        if self._told:
            return
        self._told = True  # not `requested`, which Python's own handler may have set first
        line_end = "\n" if sys.stderr.isatty() else ""  # of a progress bar
        again = "; Ctrl-C again leaves at once" if number == signal.SIGINT else ""
        print(f"{line_end}{self._named(number)}: finishing the step and saving{again}", file=sys.stderr, flush=True)

    def _named(self, number):
        """`SIGTERM`, or `SIGTERM of worker 1 (b:2222)`."""
        return ("closed output" if number == signal.SIGPIPE else signal.Signals(number).name) + self._whose

    def _handle(self, number, frame):
        if not self.can_save:
            if self._has_raised:
                return  # another one, on the way out
            self._has_raised = True
            number = self.requested or number
            raise Interrupted(number, f"{self._named(number)} before the first step, nothing to save")
        if self.requested is None:
            self.requested = number

    def check(self, message):
        """Raise Interrupted with `message` if a signal asked to stop."""
        if self.requested is not None:
            raise Interrupted(self.requested, f"{self._named(self.requested)}: {message}")
