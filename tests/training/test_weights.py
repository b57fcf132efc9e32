"""Weights, a sampler and folds in training: the loss by its formula, replicas, a stop, and what a resume refuses."""

import json
import re

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from cct_tf.augment.stages import on_device
from cct_tf.data import sampler
from cct_tf.errors import Interrupted, UserError
from cct_tf.machine import runtime
from cct_tf.runs import run_record
from cct_tf.training import loop
from tests.commands import call
from tests.training import tiny
from tests.training.test_resume import _same

RUN = {"dataset": "table", "batch_size": 8, "train_steps": 6, "eval_every_steps": 3, "checkpoint_every_steps": 2,
       "mixup_alpha": 0.8, "fold": "2/3", "sampler": "sqrt", "ema_decay": 0.9, "on_bad_image": "skip"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A table of images of mixed sizes with weights and groups of two, and class weights in a file."""
    root, rows = tmp_path_factory.mktemp("weighted"), ["path,label,weight,group"]
    draws = np.random.default_rng(0)
    for index in range(24):
        pixels = draws.integers(0, 256, [9 + index % 3, 10, 3], np.uint8)
        Image.fromarray(pixels).save(root / f"{index}.png")
        rows.append(f"{index}.png,{'ab'[index % 3 == 0]},{index / 8},p{index // 2}")
    (root / "table.csv").write_text("\n".join(rows))
    (root / "weights.json").write_text(json.dumps({"b": 3.0}))
    return root


def _run(root, **changes):
    return RUN | {"data_dir": str(root / "table.csv"), "class_weights": str(root / "weights.json")} | changes


@pytest.fixture(scope="module")
def trainer(root, tmp_path_factory):
    return tiny.Trainer(tmp_path_factory.mktemp("trainer"), **_run(root))


@pytest.fixture(scope="module")
def reference(trainer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    trainer.train(folder)
    return folder


def test_a_step_sums_weighted_losses_and_divides_by_the_batch(trainer, tmp_path):
    """(1/B) sum_i w_i (y_i . c) CE_i of the formula in NumPy; w, mixed as the labels are, by the image's row."""
    training = trainer.assemble(tmp_path)
    batch = next(iter(training.batches(0, 1)))
    logits = training.network.model(on_device(batch, training.stages), seeds=batch["seed"], training=True)
    logits, labels = logits.numpy().astype(np.float64), batch["label"].numpy().astype(np.float64)
    cross_entropy = -(labels * (logits - np.log(np.exp(logits).sum(1, keepdims=True)))).sum(1)
    own = (labels - 0.1 / 2) / 0.9
    weights = batch["weight"].numpy() * (own @ [1.0, 3.0])
    training.network.train_step.run(runtime.distribute(training.devices, training.batches(0, 1), 8), [0.0])
    found = training.network.state.interval()["train/loss"]
    assert found == pytest.approx((weights * cross_entropy).sum() / 8, rel=1e-5)
    assert len(set(batch["weight"].numpy().tolist())) > 4 and found != pytest.approx(cross_entropy.mean(), rel=0.01)


def test_weights_go_with_their_images_and_are_mixed_as_the_labels(trainer, tmp_path):
    training = trainer.assemble(tmp_path)
    split = training.images.source.splits["train"]
    order = sampler.draws("sqrt", split.labels, 0)(tf.range(8, dtype=tf.int64)).numpy()
    rows = [float(file.path.removesuffix(b".png")) / 8 for file in split.files[order]]
    batch, own = next(iter(training.batches(0, 1))), np.eye(2)[split.labels[order]]
    labels = own * 0.9 + 0.05
    other = np.arange(8) ^ 1  # neighbours are mixed
    mixed = next(place for place in range(8) if labels[place, 0] != labels[other[place], 0])
    share = float(batch["label"][mixed, 0] - labels[other[mixed], 0]) / (labels[mixed, 0] - labels[other[mixed], 0])
    expected = np.array(rows) * share + np.array(rows)[other] * (1 - share)
    np.testing.assert_allclose(batch["weight"], expected, rtol=1e-4)
    assert 0 < share < 1


def test_a_stopped_run_goes_on_to_the_same_bits(reference, trainer, root, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_CHUNK_SECONDS", 0.0)
    training = trainer.assemble(tmp_path)
    with pytest.raises(Interrupted):
        training.run(tiny.StopAt(training, 3))
    trainer.train(tmp_path)
    _same(reference, tmp_path)


def test_losses_do_not_depend_on_replicas_and_micro_batches(reference, root, tmp_path):
    tiny.train(tmp_path, num_replicas=2, accumulate_steps=2, **_run(root))
    found, expected = ([value for record in tiny.records(folder) for name, value in sorted(record.items())
                        if name.endswith("loss")] for folder in (tmp_path, reference))
    assert len(found) == 6 + 2 * 2
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_plan_says_what_counts_and_what_is_drawn(trainer, tmp_path):
    training = trainer.assemble(tmp_path)
    text = "\n".join(training.plan_lines())
    assert "classes drawn by the square roots of their images, " in text and "more than one split" not in text
    groups = [set(split.groups) for split in training.images.source.splits.values()]
    assert [len(each) for each in groups] == [8, 4] and not groups[0] & groups[1]
    assert re.search(r"weights.json\), examples weighted by the table, [\d.]+ to [\d.]+, mean 1\.\d", text), text


def test_other_weights_are_another_run(reference, root):
    weights, table = root / "weights.json", root / "table.csv"
    before = weights.read_text(), table.read_text()
    try:
        weights.write_text(json.dumps({"b": 2.0}))
        with pytest.raises(UserError, match=r"--class_weights: .*found others of b \(3, now 2\); --accept_config"):
            tiny.assemble(reference, **_run(root))
        assert tiny.assemble(reference, **_run(root), accept_config_change=True).start.step == 6
        weights.write_text(before[0])
        table.write_text(before[1].replace("23.png,a,2.875", "23.png,a,2").replace("22.png,a,2.75", "22.png,a,2"))
        with pytest.raises(UserError, match="split or weighted anew; --accept_config_change goes on"):
            tiny.assemble(reference, **_run(root))
    finally:
        weights.write_text(before[0])
        table.write_text(before[1])


def test_another_fold_is_another_run_and_evaluate_opens_that_of_the_run(reference, root, capfd):
    with pytest.raises(UserError, match=r"--fold \(checkpoint 2/3, now 1/3\)"):
        tiny.assemble(reference, **_run(root, fold="1/3"))
    status, out, err = call(capfd, "evaluate", f"--workdir={reference}", "--split=validation", "--json")
    found = json.loads(out)
    best = run_record.read_record(run_record.list_checkpoints(reference / "best")[-1]).status.best
    assert (status, err, found["examples"]) == (0, "", 8)
    assert found["loss"] == pytest.approx(best["loss"], rel=1e-5)  # of the same images, without weights
