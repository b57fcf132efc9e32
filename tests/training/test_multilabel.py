"""Training with several labels an image: the three promises, the loss by formula, and what chooses the best."""

import dataclasses

import numpy as np
import pytest

from cct_tf.augment.mix import Mix
from cct_tf.augment.stages import Labels
from cct_tf.errors import Interrupted, UserError
from cct_tf.machine.console import Console
from cct_tf.runs import run_record
from cct_tf.runs.workdir import Workdir
from cct_tf.training import loop, resume
from tests import digit_pairs
from tests.training import tiny
from tests.training.test_resume import _same

RUN = {"dataset": "npz", "task": "multilabel", "model": "cct_2_3x1_16", "image_size": 16, "mixup_alpha": 0.8,
       "cutmix_alpha": 1.0, "ema_decay": 0.9, "train_steps": 9, "log_every_steps": 2, "eval_every_steps": 4,
       "checkpoint_every_steps": 3, "eval_batch_size": 64, "best_metric": "f1",  # 90 images: padding
       "class_weights": "balanced"}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return str(digit_pairs.write(tmp_path_factory.mktemp("pairs")))


@pytest.fixture(scope="module")
def trainer(tmp_path_factory, data_dir):
    return tiny.Trainer(tmp_path_factory.mktemp("trainer"), data_dir=data_dir, **RUN)


@pytest.fixture(scope="module")
def reference(trainer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    trainer.train(folder)
    return folder


def test_a_stopped_run_goes_on_to_the_same_bits(reference, trainer, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_CHUNK_SECONDS", 0.0)
    training = trainer.assemble(tmp_path)
    with pytest.raises(Interrupted):
        training.run(tiny.StopAt(training, 5))
    trainer.train(tmp_path)
    _same(reference, tmp_path)
    record = run_record.read_record(run_record.list_checkpoints(tmp_path / "best")[-1])
    assert len(record.thresholds_of("ema")) == 10 and record.thresholds_of("raw") is None


def test_a_run_killed_between_evaluation_and_record_goes_on_to_the_same_bits(reference, trainer, tmp_path):
    training = trainer.assemble(tmp_path)

    def die(step):
        raise KeyboardInterrupt

    training._save.keep_best = die
    with pytest.raises(KeyboardInterrupt):
        training.run(tiny.NoInterrupts())
    trainer.train(tmp_path)
    _same(reference, tmp_path)


def test_losses_and_metrics_do_not_depend_on_replicas_and_micro_batches(reference, data_dir, tmp_path):
    tiny.train(tmp_path, num_replicas=2, accumulate_steps=2, data_dir=data_dir, **RUN)
    found, expected = tiny.records(tmp_path), tiny.records(reference)
    assert [record.keys() for record in found] == [record.keys() for record in expected]
    assert {"eval/map", "eval_ema/map_micro", "eval/f1", "eval_ema/f1_fitted"} <= set().union(*found)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=2e-3, atol=1e-5)
        for name in ours:
            if name.endswith("loss"):
                np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5)


def test_the_best_and_its_thresholds_are_those_of_its_evaluation(reference):
    """By F1 of the averaged weights."""
    evaluations = tiny.records(reference, "eval/")
    scores = [record["eval_ema/f1"] for record in evaluations]
    best = evaluations[int(np.argmax(scores))]
    record = run_record.read_record(run_record.list_checkpoints(reference / "best")[-1])
    assert record.status.best == {"step": best["step"], "f1": best["eval_ema/f1"], "map": best["eval_ema/map"],
                                  "loss": best["eval_ema/loss"]} and record.step == best["step"]


def test_another_metric_for_the_best_is_another_run_and_chooses_anew(reference, data_dir):
    workdir, console = Workdir(reference), Console(quiet=True)
    changed = tiny.settings(reference, data_dir=data_dir, **RUN | {"best_metric": "loss"})
    with pytest.raises(UserError, match=r"--best_metric \(checkpoint f1, now loss\)"):
        resume.find_start(changed, workdir, console)
    accepted = dataclasses.replace(changed, run=dataclasses.replace(changed.run, accept_config_change=True))
    start = resume.find_start(accepted, workdir, console)
    assert start.record.status.best and resume.status_at(start, accepted, workdir, console).best is None


def test_smoothing_and_mixing_by_their_formulas():
    """y (1 - e) + e / 2 of each class, then s of the own labels and 1 - s of the neighbour's."""
    classes = np.array([[1, 1, 0], [0, 0, 1]], np.uint8)
    batch = Labels(3, 0.1, multilabel=True).apply({"class": classes}, {})
    np.testing.assert_allclose(batch["label"], [[0.95, 0.95, 0.05], [0.05, 0.05, 0.95]], rtol=1e-6)
    images = np.zeros([2, 4, 4, 3], np.uint8)
    params = {"share": np.float32(0.75), "box": np.zeros(4, np.int32), "cutmix": np.array(False)}
    _, mixed = Mix(1.0, 0.0).apply(images, batch["label"], params)
    np.testing.assert_allclose(mixed, [[0.725, 0.725, 0.275], [0.275, 0.275, 0.725]], rtol=1e-6)
