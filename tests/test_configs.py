"""Every shipped config trains: one step of a shrunken version on digits, with everything else as it is."""

import re

import pytest

from cct_tf import config, flags
from cct_tf.training import loop
from tests.test_flags import CONFIGS
from tests.training import tiny

# Depth 2 and 8 x 8 pixels, in the same family; `image_size` does it for a network with one name only.
SMALL = {"cct": "cct_2_3x1_8", "cvt": "cvt_2_4_8", "vit": "vit_2_4_8"}


def shrunken(path):
    """Config fields of a flagfile, made small in network, data and length."""
    whole = flags.load_config([f"--flagfile={path}"])
    model = whole.model.model
    if not model.endswith("_keras"):
        model = SMALL[model[:3]] + ("_sine" if model.endswith("_sine") else "")
    return whole.as_dict() | {
        "model": model, "image_size": 8, "dataset": "digits", "data_dir": None, "train_split": "train",
        "test_split": "test", "batch_size": 8, "eval_batch_size": 400, "train_steps": 1, "cooldown_epochs": 0.0,
        "crop_padding": min(whole.augment.crop_padding, 1), "jit": "off"}


def _what_runs(fields):
    """What is left of a shrunken config without its length, peak rate and statistics: they change no operation."""
    free = re.compile("workdir|(.*_)?epochs|learning_rate|warmup_learning_rate|mean|std|.*_every_.*")
    return str({name: value for name, value in fields.items() if not free.fullmatch(name)})


_trained = {}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shrunken_config_takes_a_step(path, tmp_path, monkeypatch):
    """Configs that do the same to images and weights share one training; each is assembled."""
    fields = shrunken(path)
    key = _what_runs(fields)
    training = tiny.start(config.from_dict(fields | {"workdir": str(tmp_path)}))
    if key not in _trained:
        monkeypatch.setattr(loop.Training, "_pictures", lambda self: {})  # they cost more than the step
        training.run(tiny.NoInterrupts())
        _trained[key] = tiny.records(tmp_path)
    train, evaluation = _trained[key][:2]
    assert train["step"] == 1 and train["train/skipped_updates"] == 0
    assert 1.0 < train["train/loss"] < 5.0 and train["train/grad_norm"] > 0.0
    assert 0.0 <= evaluation["eval/top1"] <= 1.0
