"""One piece of work at a time in a thread of its own, whose error is not lost."""

import threading


class Background:
    """Does one thing after the other beside its caller. All methods are for one thread, the caller's.

    Args:
        name: of the thread, for people.
    """

    def __init__(self, name):
        self._name = name
        self._thread = None
        self._error = None

    def start(self, function):
        """Call a function without arguments in the thread; the one before must be waited for."""
        def work():
            try:
                function()
            except BaseException as error:  # the caller raises it
                self._error = error

        self._thread = threading.Thread(target=work, name=self._name)
        self._thread.start()

    def check(self):
        """Raise the error of what has ended; does not wait."""
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    def wait(self):
        """Wait until nothing is left to do; raises the error of what there was, once."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error
