"""Tests of training leave the pictures out, which cost more than their runs; test_summaries.py draws them."""

import pytest

from cct_tf.training.loop import Training
from cct_tf.training.summaries import Summaries


@pytest.fixture
def drawn(monkeypatch):
    """Steps at which pictures would have been drawn."""
    steps = []
    monkeypatch.setattr(Summaries, "_draw", lambda self, step, evaluation, prefix: steps.append((step, prefix)))
    return steps


@pytest.fixture(autouse=True)
def _no_pictures(request, monkeypatch):
    if "summaries" not in request.module.__name__:
        request.getfixturevalue("drawn")
        monkeypatch.setattr(Training, "_pictures", lambda self: {})
        monkeypatch.setattr(Training, "_attention", lambda self, name: {})
        monkeypatch.setattr(Training, "_write_features", lambda self: None)
