"""One process, four logical CPUs, graph mode: what every test shares.

Logical devices can only be made before TensorFlow starts; the trainer uses as many of them as --num_replicas says.
"""

import os
import tempfile

import pytest

from cct_tf import runtime

# Commands that tests start compile too; what they keep must not go to the user's cache.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="cct_tf_cache_")

runtime.start_tensorflow()
runtime.make_devices(4)


def pytest_collection_modifyitems(items):
    """Files with slow tests first, so that the processes end at about the same time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def _no_other_backend(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
