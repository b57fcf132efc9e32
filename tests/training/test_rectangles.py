"""Images that are no squares: a run of 12 x 20 pixels, stopped and going on, and all that is done with it."""

import json

import numpy as np
import pytest
from PIL import Image

from cct_tf.errors import UserError
from cct_tf.export import formats
from cct_tf.runs import export_metadata, run_record
from cct_tf.settings import flags
from tests.commands import call, only_line
from tests.training import tiny

EVERYTHING = {"dataset": "npz", "image_size": (12, 20), "model": "cct_2_3x1_8", "crop_padding": 0,
              "random_resized_crop": (0.5, 1.0), "auto_augment": "trivial_geometric",
              "vertical_flip": True, "color_jitter": (0.4, 0.4, 0.4), "mixup_alpha": 0.8,
              "cutmix_alpha": 1.0, "erase_probability": 0.5, "train_steps": 6, "eval_every_steps": 6}


def _images(count, luck):
    """Noise with a bright bar in its first or its last columns, which a square crop would cut away."""
    labels = np.arange(count) % 2
    images = luck.integers(0, 200, [count, 24, 40, 3])
    for image, label in zip(images, labels, strict=True):
        image[:, slice(0, 6) if label else slice(34, 40)] = 255
    return images.astype(np.uint8), labels


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path, luck = tmp_path_factory.mktemp("data") / "bars.npz", np.random.default_rng(0)
    (train, train_labels), (test, test_labels) = _images(64, luck), _images(24, luck)
    np.savez(path, x_train=train, y_train=train_labels, x_test=test, y_test=test_labels)
    return path


@pytest.fixture(scope="module")
def learned(data, tmp_path_factory):
    """A run that tells the bars apart."""
    folder = tmp_path_factory.mktemp("learned")
    tiny.train(folder, dataset="npz", data_dir=str(data), image_size=(12, 20), flip="none", crop_padding=0,
               train_steps=60, learning_rate=3e-3, eval_every_steps=60, log_every_steps=60)
    return folder


@pytest.fixture(scope="module", params=["pad", "stretch"])
def whole(request, data, tmp_path_factory):
    """(--fit, a run on squares that sees the bars because no part of an image is left out)."""
    folder = tmp_path_factory.mktemp(request.param)
    tiny.train(folder, dataset="npz", data_dir=str(data), image_size=16, fit=request.param, flip="none",
               crop_padding=0, train_steps=60, learning_rate=3e-3, eval_every_steps=60, log_every_steps=60)
    return request.param, folder


@pytest.fixture(scope="module")
def image(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "bar.png"
    Image.fromarray(np.load(data)["x_test"][0]).save(path)
    return path


def test_a_stopped_run_goes_on_to_the_same_bits_with_all_that_is_random(data, tmp_path):
    trainer = tiny.Trainer(tmp_path / "trainer", data_dir=str(data), **EVERYTHING)
    training, expected = trainer.require_equal_after_stop(tmp_path, 3)
    assert any(array.shape == (60, 128) for array in expected.values())  # positions of 6 x 10 tokens
    record = json.loads((run_record.list_checkpoints(tmp_path / "whole/checkpoints")[-1] / "run.json").read_text())
    assert record["config"]["image_size"] == record["resolved"]["image_size"] == [12, 20]
    (tmp_path / "again.cfg").write_text(flags.as_flagfile(training.config))
    assert flags.load_config([f"--flagfile={tmp_path / 'again.cfg'}"]).augment == training.config.augment


def test_what_a_square_crop_would_cut_away_is_learned(learned):
    assert tiny.records(learned, "eval/")[-1]["eval/top1"] == 1.0


def test_it_is_evaluated_with_views_of_its_shape(learned, capfd):
    status, out, err = call(capfd, "evaluate", f"--workdir={learned}", "--tta=shifts", "--tta_shift=2", "--json")
    assert status == 0, err
    assert json.loads(out)["top1"] == 1.0
    status, _, err = call(capfd, "evaluate", f"--workdir={learned}", "--tta=shifts", "--tta_shift=12")
    assert status == 2 and "--tta_shift: expected less than the images' 12 pixels" in only_line(err)


def test_it_predicts_and_shows_where_it_looks(learned, image, tmp_path, capfd):
    status, _, err = call(capfd, "predict", f"--workdir={learned}", f"--attention={tmp_path}", image)
    assert status == 0, err
    assert len(list(tmp_path.glob("*.png"))) == 1


def test_a_square_sees_all_of_a_rectangle_with_fit(whole, image, tmp_path, capfd):
    """In training, evaluation and predict, and in exports: one that prepares images itself, and one that does not.

    Exports of networks that see rectangles: test_many_channels.py.
    """
    way, folder = whole
    assert tiny.records(folder, "eval/")[-1]["eval/top1"] == 1.0
    status, out, err = call(capfd, "predict", "--json", f"--workdir={folder}", image)
    assert status == 0, err
    expected = [row["probability"] for row in json.loads(out)["images"][0]["predictions"]]
    for name in ("saved_model", "keras") if way == "pad" else ("saved_model",):
        path = tmp_path / f"x{formats.FORMATS[name].suffix}"
        status, _, err = call(capfd, "export", f"--workdir={folder}", f"--format={name}", f"--output={path}")
        assert status == 0, err
        assert export_metadata.read("--exported", str(path), name).fit == way
        found = json.loads(call(capfd, "predict", "--json", f"--exported={path}", image)[1])
        found = [row["probability"] for row in found["images"][0]["predictions"]]
        np.testing.assert_allclose(found, expected, atol=2e-3)


def test_another_fit_is_another_run(whole, data):
    way, folder = whole
    with pytest.raises(UserError, match=f"--fit .*{way}"):
        tiny.assemble(folder, dataset="npz", data_dir=str(data), image_size=16, flip="none", crop_padding=0,
                      train_steps=60, learning_rate=3e-3, eval_every_steps=60, log_every_steps=60)


@pytest.mark.parametrize("own", [[], ["--ops"]])
def test_a_preview_keeps_the_shape(own, data, tmp_path, capfd):
    path = tmp_path / "sheet.png"
    status, _, err = call(capfd, "preview", "--dataset=npz", f"--data_dir={data}", "--image_size=24,40",
                          "--auto_augment=trivial", f"--output={path}", *own)
    assert status == 0, err
    sheet = np.asarray(Image.open(path).convert("RGB"))
    assert sheet.shape[0] > 48 and (sheet != 255).any()
