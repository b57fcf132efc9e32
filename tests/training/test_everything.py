"""With all that is random switched on at once: replicas, micro-batches and a stop change nothing but rounding."""

import numpy as np
import pytest

from tests.training import tiny

EVERYTHING = {"crop_padding": 0, "random_resized_crop": (0.5, 1.0), "flip": "alternating",
              "auto_augment": "rand-m9-mstd0.5-inc1", "mixup_alpha": 0.8, "cutmix_alpha": 1.0, "erase_probability": 0.5,
              "repeated_augmentation": 2, "ema_decay": 0.99, "train_steps": 6, "layer_decay": 0.9, "loss": "bce"}


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    return tiny.Trainer(tmp_path_factory.mktemp("trainer"), **EVERYTHING)


@pytest.fixture(scope="module")
def reference(trainer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    trainer.train(folder)
    return folder


def _values(folder):
    return [[value for name, value in sorted(record.items()) if name.endswith("loss")]
            for record in tiny.records(folder)]


def test_losses_do_not_depend_on_replicas_and_micro_batches(reference, tmp_path):
    tiny.train(tmp_path, num_replicas=2, accumulate_steps=2, **EVERYTHING)
    found, expected = _values(tmp_path), _values(reference)
    assert len(found) == 7 and len(found[-1]) == 2  # six logs; an evaluation of the weights and of their average
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_a_stopped_run_goes_on_to_the_same_bits(reference, trainer, tmp_path, monkeypatch):
    from cct_tf.errors import Interrupted
    from cct_tf.training import loop
    monkeypatch.setattr(loop, "_CHUNK_SECONDS", 0.0)
    training = trainer.assemble(tmp_path)
    with pytest.raises(Interrupted):
        training.run(tiny.StopAt(training, 3))
    trainer.train(tmp_path)
    assert tiny.records(tmp_path) == tiny.records(reference)
    found, expected = tiny.tensors(tmp_path), tiny.tensors(reference)
    assert found.keys() == expected.keys()
    for name in expected:
        assert np.array_equal(found[name], expected[name]), name
