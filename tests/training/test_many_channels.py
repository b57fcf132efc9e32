"""--channels=N and --bits=16: trained, stopped, resumed, exported, predicted, looked at."""

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
from tests.commands import call
from tests.training import tiny

# 24 x 40 pixels of five channels and 16 bits; the class is in the lower byte of the fourth channel alone.
SHAPE = (12, 20, 5)
FLAGS = {"dataset": "npz", "channels": 5, "bits": 16, "image_size": (12, 20), "crop_padding": 0, "flip": "none"}
RANDOM = {"random_resized_crop": (0.5, 1.0), "flip": "random", "vertical_flip": True,
          "auto_augment": "trivial_geometric", "mixup_alpha": 0.8, "cutmix_alpha": 1.0, "erase_probability": 0.5,
          "train_steps": 6, "eval_every_steps": 6}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path, random = tmp_path_factory.mktemp("data") / "wide.npz", np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 64), ("test", 32)):
        labels = np.arange(count) % 2
        images = random.integers(0, 40, [count, *SHAPE]) + 25600  # the higher byte is 100 everywhere
        images[..., 3] += (100 * labels)[:, None, None]
        assert (images >> 8 == 100).all()
        arrays |= {f"x_{split}": images.astype(np.uint16), f"y_{split}": labels}
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module")
def learned(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("learned")
    tiny.train(folder, data_dir=str(data), train_steps=40, learning_rate=3e-3, eval_every_steps=40,
               log_every_steps=40, **FLAGS)
    return folder


def test_a_signal_in_the_lower_byte_of_one_channel_is_learnt(learned):
    assert tiny.records(learned, "eval/")[-1]["eval/top1"] == 1.0
    shapes = {array.shape for array in tiny.tensors(learned).values()}
    assert (3, 3, 5, 128) in shapes and (3, 3, 3, 128) not in shapes


def test_of_the_higher_byte_nothing_can_be_learnt(data):
    high = np.load(data)["x_train"] >> 8
    assert (high == high[0]).all()


def test_neither_a_stop_nor_replicas_and_micro_batches_change_a_run_with_all_that_is_random(data, tmp_path):
    trainer = tiny.Trainer(tmp_path / "trainer", data_dir=str(data), **FLAGS | RANDOM)
    trainer.require_equal_after_stop(tmp_path, 3)
    tiny.train(tmp_path / "two", data_dir=str(data), **FLAGS | RANDOM | {"num_replicas": 2, "accumulate_steps": 2})
    losses, expected = ([record["train/loss"] for record in tiny.records(tmp_path / name, "train/")]
                        for name in ("two", "whole"))
    np.testing.assert_allclose(losses[:3], expected[:3], rtol=2e-5)


@pytest.mark.parametrize("flag, value", [("bits", 8), ("channels", 4)])
def test_other_pixels_are_another_run(flag, value, learned, data):
    with pytest.raises(UserError, match=f"--{flag} "):
        tiny.assemble(learned, data_dir=str(data), train_steps=40, learning_rate=3e-3, eval_every_steps=40,
                      log_every_steps=40, **FLAGS | {flag: value})


@pytest.mark.parametrize("name", formats.FORMATS)
def test_its_exports_predict_the_same(name, learned, data, tmp_path, capfd):
    for package in formats.FORMATS[name].writes_with:
        pytest.importorskip(package)
    tifffile = pytest.importorskip("tifffile")
    image, path = tmp_path / "one.tif", tmp_path / f"x{formats.FORMATS[name].suffix}"
    tifffile.imwrite(image, np.load(data)["x_test"][1], photometric="minisblack", planarconfig="contig")
    status, _, err = call(capfd, "export", f"--workdir={learned}", f"--format={name}", f"--output={path}")
    assert status == 0, err
    found = [json.loads(call(capfd, "predict", "--json", asked, image)[1])["images"][0]["predictions"]
             for asked in (f"--exported={path}", f"--workdir={learned}")]
    (ours, theirs) = ([row["probability"] for row in rows] for rows in found)
    assert [row["class"] for row in found[0]] == [row["class"] for row in found[1]] and found[0][0]["class"] == "1"
    np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_arrays_are_predicted_and_others_refused(learned, data):
    run = cct_tf.load(learned)
    assert run.predict(np.load(data)["x_test"][:4]).labels == ("0", "1", "0", "1")
    with pytest.raises(UserError, match="images: expected 5 channels, found 3"):
        run.predict(np.zeros([12, 20, 3], np.uint16))


def test_pictures_and_inspection_show_false_colours(learned, data, tmp_path, capfd):
    flags = ["--dataset=npz", f"--data_dir={data}", "--channels=5", "--bits=16"]
    status, out, err = call(capfd, "inspect_data", *flags)
    assert status == 0 and "height 12, 12, 12, width 20, 20, 20" in out, err
    sheet = tmp_path / "sheet.png"
    status, _, err = call(capfd, "preview", *flags, "--model=cct_2_3x1_8", "--image_size=12,20", "--rows=2",
                          f"--output={sheet}")
    assert status == 0, err
    pixels = np.asarray(Image.open(sheet).convert("RGB")).astype(int)
    assert np.ptp(pixels, axis=2).max() > 60  # coloured, and not black: the levels are stretched
    status, _, err = call(capfd, "evaluate", f"--workdir={learned}", f"--output_dir={tmp_path / 'plots'}")
    assert status == 0, err


@pytest.mark.parametrize("name", ["cct_2_3x2_16", "vit_2_4_16"])
def test_weights_of_colours_start_a_network_of_many_channels(name):
    colour, many = (cct_tf.create_model(name, image_size=16, channels=channels, seed=channels) for channels in (3, 5))
    arrays = {path: variable.numpy() for path, variable in by_path(colour).items()}
    pretrained = transfer.from_arrays("colour", arrays, colour.variant)
    variables = by_path(many)
    adapted = transfer.adapt(pretrained, {path: tuple(each.shape) for path, each in variables.items()}, many.variant)
    for path, array in adapted.arrays.items():
        variables[path].assign(array)
    assert adapted.changes == ["the first kernel averaged over the colours for 5 channels"]
    images = np.random.default_rng(0).normal(size=[4, 16, 16, 1]).astype(np.float32)
    np.testing.assert_allclose(many(images.repeat(5, axis=3)), colour(images.repeat(3, axis=3)), atol=1e-6)
    assert sum(int(np.prod(each.shape)) for each in many.trainable_variables) == cost.count_parameters(
        variants.resolve(name, 16, channels=5), 10)
