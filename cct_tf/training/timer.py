"""How fast the steps are."""


class Timer:
    """Time spent in steps, without the first chunk, whose time is mostly compilation."""

    def __init__(self):
        self.is_first = True
        self._seconds_per_step = None
        self.reset()

    def reset(self):
        self._steps, self._seconds = 0, 0.0

    def add(self, steps, seconds):
        if self.is_first:
            self.is_first = False
            return
        self._steps += steps
        self._seconds += seconds
        self._seconds_per_step = seconds / steps

    def steps_in(self, seconds):
        """About as many steps as fit into `seconds`; 1 while nothing is known."""
        if self._seconds_per_step is None:
            return 1
        return max(1, int(seconds / self._seconds_per_step))

    def values(self, batch_size, wait_seconds):
        """{"timing/..."} of the interval; NaN where only the first chunk fell into it."""
        if not self._steps:
            return dict.fromkeys(("timing/images_per_second", "timing/step_ms", "timing/input_wait_fraction"),
                                 float("nan"))
        return {"timing/images_per_second": self._steps * batch_size / self._seconds,
                "timing/step_ms": 1000.0 * self._seconds / self._steps,
                "timing/input_wait_fraction": min(wait_seconds / self._seconds, 1.0)}
