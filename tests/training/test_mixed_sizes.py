"""Runs on photographs of mixed sizes, with all stages on: replicas, stops, ways of holding change nothing."""

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from cct_tf.errors import Interrupted, UserError
from cct_tf.readers.encoded import Encoded
from cct_tf.readers.flat import Flat
from cct_tf.training import loop
from tests.training import tiny
from tests.training.test_everything import EVERYTHING

pytestmark = pytest.mark.usefixtures("one_network")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Settings of a run on a folder of JPEGs; crops are decoded at a part of their size where that is asked for."""
    root, photos = tmp_path_factory.mktemp("photographs"), load_sample_images().images
    for split, number in (("train", 20), ("test", 6)):
        for index in range(number):
            path = root / split / "ab"[index % 2] / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = photos[index % 2][10 * index:10 * index + 40 + index, 20 * index:20 * index + 60 - index]
            Image.fromarray(pixels).save(path, quality=92, subsampling=index % 3, progressive=index % 5 == 0)
    return EVERYTHING | {"dataset": "folder", "data_dir": str(root), "in_memory_gib": 0.0, "batch_size": 8}


@pytest.fixture(scope="module")
def reference(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    return folder, tiny.train(folder, **run)


def _values(folder):
    return [[value for name, value in sorted(record.items()) if name.endswith("loss")]
            for record in tiny.records(folder)]


def _require_same(found, expected):
    assert tiny.records(found) == tiny.records(expected)
    found, expected = tiny.tensors(found), tiny.tensors(expected)
    for name in expected:
        assert np.array_equal(found[name], expected[name]), name


def test_losses_do_not_depend_on_replicas_and_micro_batches(run, reference, tmp_path):
    tiny.train(tmp_path, num_replicas=2, accumulate_steps=2, **run)
    for ours, theirs in zip(_values(tmp_path), _values(reference[0]), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_a_stopped_run_goes_on_to_the_same_bits(run, reference, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_CHUNK_SECONDS", 0.0)
    training = tiny.assemble(tmp_path, **run)
    with pytest.raises(Interrupted):
        training.run(tiny.StopAt(training, 3))
    for option in ("decode", "resize"):
        with pytest.raises(UserError, match=option):
            tiny.assemble(tmp_path, **run | {option: "fast"})
    tiny.train(tmp_path, **run)
    _require_same(tmp_path, reference[0])


def test_fast_resizing_changes_little_and_goes_on_to_the_same_bits(run, reference, tmp_path, monkeypatch):
    pytest.importorskip("cykooz_resizer")
    run = run | {"resize": "fast"}
    tiny.train(tmp_path / "undisturbed", **run)
    assert _values(tmp_path / "undisturbed") != _values(reference[0])
    for ours, exact in zip(_values(tmp_path / "undisturbed"), _values(reference[0]), strict=True):
        np.testing.assert_allclose(ours, exact, rtol=0.02)
    monkeypatch.setattr(loop, "_CHUNK_SECONDS", 0.0)
    training = tiny.assemble(tmp_path / "stopped", **run)
    with pytest.raises(Interrupted):
        training.run(tiny.StopAt(training, 3))
    tiny.train(tmp_path / "stopped", **run)
    _require_same(tmp_path / "stopped", tmp_path / "undisturbed")


def test_held_images_train_and_evaluate_to_the_same_bits(run, reference, tmp_path):
    (folder, on_disk), settings = reference, run | {"in_memory_gib": 1.0, "accept_config_change": True}
    held = tiny.train(tmp_path, **settings)
    assert isinstance(on_disk.train_split.reader, Encoded) and isinstance(held.train_split.reader, Flat)
    assert _values(tmp_path) == _values(folder)


def test_a_run_recorded_before_pillow_resized_keeps_the_matrices(run, reference, tmp_path, monkeypatch):
    assert reference[1].transform.resampler == "pillow"
    monkeypatch.setattr(loop, "_CHUNK_SECONDS", 0.0)
    training = tiny.assemble(tmp_path, **run)
    with pytest.raises(Interrupted):
        training.run(tiny.StopAt(training, 3))
    path, = (tmp_path / "checkpoints").glob("*/run.json")
    record = json.loads(path.read_text())
    del record["checksum"]
    rules = record["resolved"]["data_rules"]
    assert rules.pop("resampler") == "pillow" and rules.pop("width_first") is False
    path.write_text(json.dumps(record))
    found = tiny.assemble(tmp_path, **run).transform
    assert found.resampler == "matrix" and found.width_first
