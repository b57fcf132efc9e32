"""--channels=1: one channel through the network, of colour images and grey ones, and all that is done with it."""

import json

import numpy as np
import pytest
from PIL import Image

import cct_tf
from cct_tf.convert import transfer
from cct_tf.convert.weights import by_path
from cct_tf.errors import UserError
from cct_tf.export import formats
from cct_tf.models import cost, variants
from cct_tf.runs import run_record
from tests.commands import call
from tests.training import tiny

EVERYTHING = {"dataset": "npz", "channels": 1, "image_size": 8, "crop_padding": 0, "random_resized_crop": (0.5, 1.0),
              "auto_augment": "trivial", "color_jitter": (0.4, 0.4, 0.4), "mixup_alpha": 0.8,
              "cutmix_alpha": 1.0, "erase_probability": 0.5, "train_steps": 6, "eval_every_steps": 6}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Colour images whose class is how bright their upper half is."""
    path, random = tmp_path_factory.mktemp("data") / "colour.npz", np.random.default_rng(0)
    labels = {"train": np.arange(64) % 2, "test": np.arange(24) % 2}
    arrays = {f"y_{split}": classes for split, classes in labels.items()}
    for split, classes in labels.items():
        images = random.integers(0, 120, [len(classes), 12, 12, 3])
        images[:, :6] += 120 * classes[:, None, None, None]
        arrays[f"x_{split}"] = images.astype(np.uint8)
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module")
def learned(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("learned")
    tiny.train(folder, dataset="npz", data_dir=str(data), channels=1, flip="none", crop_padding=0, train_steps=60,
               learning_rate=3e-3, eval_every_steps=60, log_every_steps=60)
    return folder


@pytest.fixture(scope="module")
def image(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "bright.png"
    Image.fromarray(np.load(data)["x_test"][1]).save(path)
    return path


def _record(folder):
    return run_record.read_record(run_record.list_checkpoints(folder / "checkpoints")[-1])


def test_mean_and_deviation_are_those_of_pillows_grey(learned, data):
    images = np.load(data)["x_train"]
    grey = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in images]) / 255.0
    resolved = _record(learned).resolved
    assert len(resolved.mean) == len(resolved.std) == 1
    np.testing.assert_allclose((*resolved.mean, *resolved.std), (grey.mean(), grey.std()), rtol=1e-12)


def test_it_learns_with_one_channel_in_the_network(learned):
    assert tiny.records(learned, "eval/")[-1]["eval/top1"] == 1.0
    shapes = {array.shape for array in tiny.tensors(learned).values()}
    assert (3, 3, 1, 128) in shapes and (3, 3, 3, 128) not in shapes


def test_a_stopped_run_goes_on_to_the_same_bits_with_all_that_is_random(data, tmp_path):
    trainer = tiny.Trainer(tmp_path / "trainer", data_dir=str(data), **EVERYTHING)
    trainer.require_equal_after_stop(tmp_path, 3)


def test_colours_instead_are_another_run(learned, data):
    with pytest.raises(UserError, match="--channels .*1"):
        tiny.assemble(learned, dataset="npz", data_dir=str(data), flip="none", crop_padding=0, train_steps=60,
                      learning_rate=3e-3, eval_every_steps=60, log_every_steps=60)


def _predictions(capfd, asked, image):
    return json.loads(call(capfd, "predict", "--json", asked, image)[1])["images"][0]["predictions"]


@pytest.fixture(scope="module")
def predictions(learned, image):
    """What `predict` says by the run itself, once for all formats."""
    said = []
    return lambda capfd: said or said.extend(_predictions(capfd, f"--workdir={learned}", image)) or said


@pytest.mark.parametrize("name", ["saved_model", "keras"])
def test_its_exports_predict_the_same(name, learned, predictions, image, tmp_path, capfd):
    """That which prepares images itself, and one that does not; the others: test_many_channels.py."""
    path = tmp_path / f"x{formats.FORMATS[name].suffix}"
    status, _, err = call(capfd, "export", f"--workdir={learned}", f"--format={name}", f"--output={path}")
    assert status == 0, err
    found = [_predictions(capfd, f"--exported={path}", image), predictions(capfd)]
    (ours, theirs) = ([row["probability"] for row in rows] for rows in found)
    assert [row["class"] for row in found[0]] == [row["class"] for row in found[1]] and found[0][0]["class"] == "1"
    np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_pictures_show_grey(learned, data, image, tmp_path, capfd):
    status, _, err = call(capfd, "predict", f"--workdir={learned}", f"--attention={tmp_path}", image)
    assert status == 0, err
    for own in ([], ["--ops"]):
        sheet = tmp_path / "sheet.png"
        status, _, err = call(capfd, "preview", "--dataset=npz", f"--data_dir={data}", "--channels=1",
                              "--model=cct_2_3x1_8", "--auto_augment=trivial", "--rows=2", f"--output={sheet}", *own)
        assert status == 0, err
        pixels = np.asarray(Image.open(sheet).convert("RGB")).astype(int)
        assert np.ptp(pixels, axis=2).max() == 0 < np.ptp(pixels)


@pytest.mark.parametrize("name", ["cct_2_3x2_16", "vit_2_4_16", "cct_2_3x2_32_keras"])
def test_weights_of_colours_start_a_grey_network_that_sees_the_same_in_grey(name):
    colour, grey = (cct_tf.create_model(name, image_size=16, channels=channels, seed=channels) for channels in (3, 1))
    arrays = {path: variable.numpy() for path, variable in by_path(colour).items()}
    pretrained = transfer.from_arrays("colour", arrays, colour.variant)
    variables = by_path(grey)
    adapted = transfer.adapt(pretrained, {path: tuple(each.shape) for path, each in variables.items()}, grey.variant)
    for path, array in adapted.arrays.items():
        variables[path].assign(array)
    assert adapted.changes == ["the first kernel summed over the colours"]
    images = np.random.default_rng(0).normal(size=[4, 16, 16, 1]).astype(np.float32)
    np.testing.assert_allclose(grey(images), colour(images.repeat(3, axis=3)), atol=1e-6)
    assert sum(int(np.prod(each.shape)) for each in grey.trainable_variables) == cost.count_parameters(
        variants.resolve(name, 16, channels=1), 10)
