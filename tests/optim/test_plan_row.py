"""What the plan says of the optimiser."""

import re

import pytest

from cct_tf.settings import config, plan
from cct_tf.training import report
from tests.training import tiny


def _row(workdir, **changes):
    lines = tiny.assemble(workdir, **changes).plan_lines()
    row, = [line for line in lines if line.startswith("  optimiser")]
    return re.sub(r" +", " ", row).strip()


def test_the_default_row_names_what_always_applies(tmp_path):
    assert _row(tmp_path, warmup_epochs=0.0) == (
        "optimiser AdamW 0.001, cosine to 0; weight decay 0.03 on matrices, smoothing 0.1, gradients clipped at 1")


def test_the_row_names_whatever_was_chosen(tmp_path):
    """An epoch of 1,437 digits is 11 steps of 128 images. 128 / 256 of 5e-4 is 2.5e-4."""
    assert _row(tmp_path, optimizer="muon", batch_size=128, learning_rate=5e-4, min_learning_rate=2e-5,
                learning_rate_scaling="linear", layer_decay=0.75, loss="bce", class_weights="balanced",
                cautious_weight_decay=True, corrected_weight_decay=True, muon_convolutions=True, muon_split_qkv=True,
                warmup_epochs=1.0, warmup_shape="reciprocal", warmup_prefix=True, clip_norm=None) == (
        "optimiser Muon, convolutions too, queries, keys and values apart (AdamW for what is no matrix) 0.0005 per 256 "
        "images = 0.00025, times 0.75 per layer before the head, cosine to 1e-05, reciprocal warm-up 1 epochs (11 "
        "steps) before it; cautious corrected weight decay 0.03 on matrices, smoothing 0.1, binary cross-entropy, "
        "classes balanced")


@pytest.mark.parametrize(("changes", "told"), [
    ({"schedule": "linear", "min_learning_rate": 1e-5}, "linear to 1e-05;"),
    ({"schedule": "wsd", "train_steps": None, "epochs": 30.0},
     "constant, linear decay to 0 in the last 6 of 30 epochs;"),
    ({"schedule": "wsd", "train_steps": None, "epochs": 30.0, "decay_shape": "1-sqrt", "decay_share": 0.1},
     "constant, 1-sqrt decay to 0 in the last 3 of 30 epochs;"),
    ({"schedule": "constant"}, "constant;")])
def test_the_row_says_what_the_rate_does(changes, told):
    chosen = config.from_dict({"learning_rate": 1e-3, "warmup_epochs": 0.0, "train_steps": 20} | changes)
    made = plan.make_plan(chosen.optim, chosen.run, 1280)
    assert f"{report._schedule(chosen.optim, made)};" == told
