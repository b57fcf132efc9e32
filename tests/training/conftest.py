"""What the tests of training share."""

import pytest

from cct_tf.training.summaries import Summaries


@pytest.fixture
def drawn(monkeypatch):
    """Steps at which pictures would have been drawn."""
    steps = []
    monkeypatch.setattr(Summaries, "_draw", lambda self, step, evaluation, prefix: steps.append((step, prefix)))
    return steps
