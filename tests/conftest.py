"""One process, four logical CPUs, graph mode: what every test shares.

Logical devices can only be made before TensorFlow starts; the trainer uses as many of them as --num_replicas says.
"""

import pytest

from cct_tf import runtime

runtime.start_tensorflow()
runtime.make_devices(4)


@pytest.fixture(autouse=True)
def _no_other_backend(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
