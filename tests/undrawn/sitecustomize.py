"""Python imports this at its start where the folder is in PYTHONPATH (with the repository): see `undrawn.leave_out`."""

from cct_tf.machine import runtime
from tests import undrawn

_start_tensorflow = runtime.start_tensorflow


def _then_leave_out(*args, **options):
    _start_tensorflow(*args, **options)
    undrawn.leave_out()


runtime.start_tensorflow = _then_leave_out
