"""SIGINT, SIGTERM, SIGHUP, a closed output: finish the step, save, leave; a second SIGINT leaves at once.

Python's own handlers wait for the running TensorFlow call and merge repeated signals into one, so a thread reads the
wake-up file descriptor, to which the C handler writes a byte the moment a signal arrives.

A command owns its process. A call from Python does not: it gives the handlers back, a second SIGINT raises an exception
instead of ending the process, and outside the main thread, where Python lets nobody set handlers, it sets none.
"""

import contextlib
import os
import signal
import sys
import threading

from cct_tf.errors import STOP_SIGNALS, Interrupted
from cct_tf.machine import process_exit


class Interrupts:
    """Handlers of this process. Install once, before TensorFlow is imported; a command does so in the main thread.

    Args:
        owns_process: bool, whether the process is the command's own, or a program's that goes on after it.

    Attributes:
        owns_process: the argument.
        requested: number of the signal that asked to stop, SIGPIPE's for a closed output; or None.
        can_save: while True, a signal only sets `requested`, for the loop to look at; while False, it ends the
            command where it stands.
        tell: function of the number of a signal that arrived here, called in a thread; a run of several workers sets
            it.
    """

    def __init__(self, owns_process=True):
        self.owns_process = owns_process
        self.requested = None
        self.can_save = False
        self.tell = lambda number: None
        self._signals = STOP_SIGNALS
        self._previous = {}
        self._previous_fd = -1
        self._count = 0
        self._handled = 0
        self._waits = False
        self._seen = None
        self._told = False
        self._whose = ""
        self._caller = None
        self._has_raised = False
        self._writing = None

    def install(self):
        if not self.owns_process and threading.current_thread() is not threading.main_thread():
            return self
        reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # nohup: the end of the terminal is to make no difference
            self._signals = tuple(number for number in STOP_SIGNALS if number != signal.SIGHUP)
        if not self.owns_process:  # None is a handler that Python did not set and can't give back
            self._signals = tuple(number for number in self._signals if signal.getsignal(number) is not None)
        for number in self._signals:
            self._previous[number] = signal.signal(number, self._handle)
        self._previous_fd = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reading,), daemon=True).start()
        return self

    @contextlib.contextmanager
    def held(self, holds=True):
        """Signals wait until the block ends, and threads that it starts never get them; `holds` False does nothing.

        TensorFlow's workers set a handler in C that swallows SIGTERM. Until ours is back, no thread may take it: so
        the imports that start threads (NumPy's, TensorFlow's) belong into such a block too.

        A program may have threads of its own, which take signals that this one blocks; so there the handler waits too.
        """
        if not holds or self._writing is None:
            yield
            return
        self._waits = not self.owns_process
        signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        try:
            yield
        finally:
            for number in self._signals:
                signal.signal(number, self._handle)
            self._waits = False
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self._signals)
            if self._seen is not None:
                self._handle(self._seen, None)

    def ask(self, number, name):
        """Another worker, `name`, was asked to stop by a signal; so is this one. It counts as no second SIGINT."""
        self._ask(number, f" of {name}")

    def output_closed(self):
        """Nobody reads stdout any more."""
        self._ask(signal.SIGPIPE, "")

    def stop(self, caller):
        """`caller`, text, asks from another thread: the run stops, saved, as soon as it trains."""
        if self.requested is None:
            self._caller = caller
            self.requested = signal.SIGTERM

    def _ask(self, number, whose):
        if self.requested is None:
            self._whose = whose
            self.requested = number
            if self.can_save:
                self._say_once(number)
            elif self._writing is not None:  # else nothing of ours would catch it
                os.kill(os.getpid(), signal.SIGTERM)

    def uninstall(self):
        """Give back the handlers and the wake-up file descriptor as they were."""
        if self._writing is None:
            return
        signal.set_wakeup_fd(self._previous_fd)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        os.close(self._writing)  # ends the thread
        self._writing = None

    def pass_on(self):
        """After `uninstall`, to the handlers of the program: a signal that came too late for the run to stop for it."""
        if self._seen is not None and not self._has_raised:
            signal.raise_signal(self._seen)

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
            if self._count >= 2 and self.owns_process:
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
        at_once = "leaves at once" if self.owns_process else "stops without saving"
        again = f"; Ctrl-C again {at_once}" if number == signal.SIGINT else ""
        print(f"{line_end}{self._named(number)}: finishing the step and saving{again}", file=sys.stderr, flush=True)

    def _named(self, number):
        """`SIGTERM`, or `SIGTERM of worker 1 (b:2222)`, or who called `stop`."""
        return self._caller or (
            "closed output" if number == signal.SIGPIPE else signal.Signals(number).name) + self._whose

    def _handle(self, number, frame):
        self._handled += number == signal.SIGINT and frame is not None
        self._seen = number
        if self._waits:
            return
        # Python merges signals that come during one call of TensorFlow, and the thread that counts them may be late.
        is_second = not self.owns_process and max(self._count, self._handled) > 1
        if self.can_save and not is_second:
            self.requested = self.requested or number
            return
        if self._has_raised:
            return  # another one, on the way out
        self._has_raised = True
        if self.can_save:
            raise Interrupted(number, f"{signal.Signals(number).name} again: stopped at once; the same command goes on "
                              "from the last checkpoint")
        number = self.requested or number
        raise Interrupted(number, f"{self._named(number)} before the first step, nothing to save")

    def check(self, message):
        """Raise Interrupted with `message` if a signal asked to stop."""
        if self.requested is not None:
            self._has_raised = True
            raise Interrupted(self.requested, f"{self._named(self.requested)}: {message}")
