"""Every shipped config trains: one step of a shrunken version on digits, with everything else as it is."""

import pathlib
import re

import numpy as np
import pytest

from cct_tf.convert import names, transfer
from cct_tf.convert.state import StateDict
from cct_tf.models import variants
from cct_tf.optim import schedules
from cct_tf.settings import config, flags
from cct_tf.settings.plan import make_plan
from tests.settings.test_flags import CONFIGS
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
        "crop_padding": min(whole.augment.crop_padding, 1), "jit": "off", "init_from": None}


def _what_runs(fields):
    """What is left of a shrunken config without its length, peak rate and statistics: they change no operation."""
    free = re.compile("workdir|(.*_)?epochs|(.*_)?learning_rate|weight_decay|mean|std|.*_every_.*")
    return str({name: value for name, value in fields.items() if not free.fullmatch(name)})


_trained = {}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shrunken_config_takes_a_step(path, tmp_path):
    """Configs that do the same to images and weights share one training."""
    fields = shrunken(path)
    key = _what_runs(fields)
    if key not in _trained:
        training = tiny.start(config.from_dict(fields | {"workdir": str(tmp_path)}))
        training.run(tiny.NoInterrupts())
        _trained[key] = tiny.records(tmp_path)
    train, evaluation = _trained[key][:2]
    assert train["step"] == 1 and train["train/skipped_updates"] == 0
    assert 1.0 < train["train/loss"] < 5.0 and train["train/grad_norm"] > 0.0
    assert 0.0 <= evaluation["eval/top1"] <= 1.0


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_learning_rate_of_a_config_is_what_it_says(path):
    """It never exceeds the peak, comes close to it, and ends where it should."""
    whole = flags.load_config([f"--flagfile={path}"])
    plan = make_plan(whole.optim, whole.run, 1_438 if whole.data.dataset == "digits" else 5_000)
    steps = [*range(0, plan.total_steps, 1 + plan.total_steps // 1000), plan.total_steps - 1]
    rates = [schedules.learning_rate(whole.optim, plan, step) for step in steps]
    peak = whole.optim.learning_rate * schedules.rate_scale(whole.optim)
    assert 0.7 * peak < max(rates) <= peak * (1 + 1e-12) and min(rates) >= 0.0
    if whole.optim.schedule == "cosine":
        assert rates[-1] < whole.optim.min_learning_rate + 0.2 * peak


# The authors' checkpoints (their src/cct.py): name of the file, network, classes.
PUBLISHED = {
    "cct_7_3x1_32_cifar10_300epochs": ("cct_7_3x1_32", 10),
    "cct_7_3x1_32_sine_cifar10_5000epochs": ("cct_7_3x1_32_sine", 10),
    "cct_7_3x1_32_cifar100_300epochs": ("cct_7_3x1_32", 100),
    "cct_7_3x1_32_sine_cifar100_5000epochs": ("cct_7_3x1_32_sine", 100),
    "cct_7_7x2_224_flowers102": ("cct_7_7x2_224_sine", 102), "cct_14_7x2_224_imagenet": ("cct_14_7x2_224", 1000),
    "cct_14_7x2_384_imagenet": ("cct_14_7x2_384", 1000), "cct_14_7x2_384_flowers102": ("cct_14_7x2_384", 102)}
TUNING = [path for path in CONFIGS if flags.load_config([f"--flagfile={path}"]).model.init_from]


def test_every_published_checkpoint_has_a_config_that_tunes_it():
    named = {flags.load_config([f"--flagfile={path}"]).model.init_from for path in TUNING if "finetune_" in path.stem}
    assert named == {f"weights/{name}.pth" for name in PUBLISHED}
    assert {path.stem for path in TUNING} == {f"finetune_{name}" for name in PUBLISHED} | {
        "imagenet_finetune_384", "flowers102_finetune_384"}


@pytest.mark.parametrize("path", TUNING, ids=lambda path: path.stem)
def test_the_weights_that_a_config_names_fit_its_network(path):
    chosen = flags.load_config([f"--flagfile={path}"])
    name, classes = PUBLISHED[pathlib.Path(chosen.model.init_from).stem]
    theirs, ours = variants.resolve(name), variants.resolve(chosen.model.model, chosen.augment.image_size)
    arrays = {weight.authors: np.zeros(weight.shape, np.float32) for weight in names.weights(theirs, classes)}
    if theirs.positional_embedding == "sine":
        arrays[names.POSITIONS] = transfer.sine_positions(theirs.num_tokens, theirs.embed_dim)[None]
    pretrained = transfer.from_state_dict(StateDict("x.pth", arrays, dict.fromkeys(arrays, "float32"), "", ""), ours)
    adapted = transfer.adapt(pretrained, transfer.shapes_of(ours), ours)
    expected = [] if theirs.image_size == ours.image_size else ["positions of 14 x 14 tokens resized to 24 x 24"]
    assert adapted.changes == expected
