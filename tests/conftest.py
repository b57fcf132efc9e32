"""One process, four logical CPUs, graph mode: what every test shares.

Logical devices can only be made before TensorFlow starts; the trainer uses as many of them as --num_replicas says.
"""

import pytest

from cct_tf.machine import runtime
from tests import environment

FOLDER = environment.prepare()
runtime.start_tensorflow()
runtime.make_devices(4)


def pytest_unconfigure():
    environment.clear(FOLDER)


def pytest_collection_modifyitems(items):
    """Files with slow tests first, so that the processes end at about the same time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def _no_other_backend(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
