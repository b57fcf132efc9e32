"""Trainings of the tests draw no pictures, which cost more than a small run; no number of a run depends on them."""

import os

_FOLDER = os.path.dirname(os.path.abspath(__file__))
# As PYTHONPATH it does the same for processes, see sitecustomize.py.
PYTHONPATH = os.pathsep.join([os.path.dirname(os.path.dirname(_FOLDER)), _FOLDER])


def leave_out(set_attribute=setattr):
    """Have trainings draw nothing.

    Args:
        set_attribute: setattr, or what takes its place (`pytest.MonkeyPatch.setattr`).

    Returns:
        list of (class, name, function) of what was there before.
    """
    from cct_tf.training.loop import Training
    from cct_tf.training.summaries import Summaries
    nothing = [(Summaries, "_draw", lambda self, step, evaluation, name: None),
               (Training, "_pictures", lambda self: {}),
               (Training, "_attention", lambda self, name: {}),
               (Training, "_write_features", lambda self: None)]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in nothing]
    for change in nothing:
        set_attribute(*change)
    return before
