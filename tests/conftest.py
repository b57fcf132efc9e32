"""One process, four logical CPUs, no GPU, graph mode, no pictures of trainings: what every test shares.

`-m gpu` runs the tests that want a GPU, and only those; without it, or without a GPU, they are skipped.

Logical devices can only be made before TensorFlow starts; the trainer uses as many of them as --num_replicas says.
"""

import gc

import pytest

from cct_tf.machine import runtime
from tests import environment, shared_networks, undrawn

FOLDER = environment.prepare()


def pytest_configure(config):
    if config.getoption("numprocesses", None):
        return  # this process hands the tests out and runs none
    on_gpus = environment.wants_gpus(config.option.markexpr)
    if on_gpus:
        environment.show_gpus()
    with runtime.quiet_stderr():
        runtime.start_tensorflow()
        runtime.make_devices(1 if on_gpus else 4)
    # What has been imported stays, and would be gone through whenever Python looks for garbage.
    gc.freeze()
    gc.set_threshold(10_000, 20, 10)


def pytest_unconfigure():
    environment.clear(FOLDER)


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and runtime.local_devices()[0] != "GPU":
        pytest.skip("wants a GPU, and -m gpu")


def pytest_collection_modifyitems(items):
    """Files with slow tests first, then those of training: the processes end with short ones, at about one time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in slow, item.path.parent.name != "training"))


@pytest.fixture(autouse=True)
def _no_other_backend(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")


@pytest.fixture(scope="module", autouse=True)
def _undrawn():
    """Of the whole module, for many train in a fixture."""
    with pytest.MonkeyPatch.context() as patch:
        yield undrawn.leave_out(patch.setattr)


@pytest.fixture(scope="module")
def one_network():
    """Trainings that compute alike share one traced network, in the module and with others: see `shared_networks`."""
    with pytest.MonkeyPatch.context() as patch:
        shared_networks.share(patch)
        yield


@pytest.fixture
def pictures(_undrawn, monkeypatch):
    """Trainings of the test draw their pictures."""
    for change in _undrawn:
        monkeypatch.setattr(*change)
