"""A trace of some steps for TensorBoard's profiler (`--profile_steps`). No TensorFlow is imported with this module."""

import contextlib
import math
import re

from cct_tf.errors import UserError

MOST_STEPS = 100  # of one trace, which is held in memory until it is written


def parse_steps(text):
    """`A:B` -> (A, B), both included, the first step being 1; None -> None.

    Raises:
        UserError: it is not of this form, or too long.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,10}):(\d{1,10})", text, re.ASCII)
    first, last = (int(number) for number in found.groups()) if found else (0, 0)
    if not 1 <= first <= last:
        raise UserError(f"--profile_steps: expected A:B with 1 <= A <= B, such as 11:20, found {text!r}")
    if last - first >= MOST_STEPS:
        raise UserError(f"--profile_steps: expected at most {MOST_STEPS} steps, found {last - first + 1} ({text})")
    return first, last


class Profiler:
    """Traces the steps asked for, one step a chunk, so that TensorBoard tells them apart.

    What happens between them (a log record, a checkpoint, an evaluation) is in the trace too. Where a chunk ends leaves
    no trace in the run, so neither does this. A run that goes on within A to B traces the rest; one that goes on
    behind B, nothing.

    Args:
        steps: (A, B) as `parse_steps` returns it, or None.
        folder: pathlib.Path of the event files; the trace goes to `plugins/profile` below.
        say: function of a line of text, told where the trace is.
    """

    def __init__(self, steps, folder, say):
        self._first, self._last = steps or (0, 0)
        self._folder, self._say = folder, say
        self._began = None  # completed steps when the trace began

    def most_steps(self, step):
        """How many steps the next chunk may have after `step` completed ones: int, or infinity."""
        return max(self._first - 1 - step, 1) if step < self._last else math.inf

    @contextlib.contextmanager
    def chunk(self, step):
        """Around a chunk that begins after `step` completed steps, and has at most `most_steps` of them."""
        if not self._first - 1 <= step < self._last:
            yield
            return
        import tensorflow as tf
        if self._began is None:
            tf.profiler.experimental.start(str(self._folder))
            self._began = step
        with tf.profiler.experimental.Trace("train", step_num=step + 1, _r=1):
            yield
        if step + 1 == self._last:
            self.close(step + 1)

    def close(self, step):
        """Write the trace, if one has begun; `step` are completed."""
        if self._began is None:
            return
        import tensorflow as tf
        began, self._began, self._last = self._began, None, 0
        tf.profiler.experimental.stop()
        self._say(f"trace of steps {began + 1} to {step}: {self._folder / 'plugins/profile'} (TensorBoard shows it "
                  "where tensorboard-plugin-profile is installed)")
