"""What the tests of training share. It may be loaded before TensorFlow is started by tests/conftest.py."""

import pytest


@pytest.fixture
def drawn(monkeypatch):
    """Steps at which pictures would have been drawn."""
    from cct_tf.training.summaries import Summaries
    steps = []
    monkeypatch.setattr(Summaries, "_draw", lambda self, step, evaluation, prefix: steps.append((step, prefix)))
    return steps
