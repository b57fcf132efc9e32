"""The contact sheet: its pictures are those of the training, and the command draws them."""

import gc
import weakref

import numpy as np
import pytest
from PIL import Image

from cct_tf.assembly import inputs
from cct_tf.augment import stages as stages_lib
from cct_tf.augment.stages import on_device
from cct_tf.data import pipeline, sampler
from cct_tf.machine.console import Console
from cct_tf.models import variants
from cct_tf.pictures import contact_sheet, plots
from cct_tf.policies.notation import Op
from cct_tf.readers.windowed import Windowed
from cct_tf.settings import config
from tests import commands
from tests.datasets import test_tfds

DIGITS = {"dataset": "digits", "model": "cct_2_3x1_8", "image_size": 8, "batch_size": 24, "label_smoothing": 0.1}
FLAGS = [f"--{name}={value}" for name, value in DIGITS.items()]


def _parts(**changes):
    """(training split, class names, transform, stages, sampling) of a config."""
    settings = config.from_dict(DIGITS | changes)
    images = inputs.open_images(settings, Console(quiet=True))
    source = images.source
    network = variants.resolve(settings.model.model, settings.augment.image_size)
    transform = inputs.make_transform(settings, images, network)
    return (source.splits["train"], source.class_names, transform, inputs.training_stages(settings, images, transform),
            inputs.make_sampling(settings))


def _seen(split, transform, stages, sampling, steps):
    """What the network sees in the first steps of the training, in [0, 1]."""
    batches = pipeline.train_batches(split, stages, sampling, 0, steps)
    return np.concatenate([transform.unfinish(on_device(batch, stages)) for batch in batches])


@pytest.mark.parametrize("repeats", [1, 2])
def test_unmixed_draws_are_those_of_the_training(repeats):
    split, names, transform, stages, sampling = _parts(crop_padding=1, flip="alternating", erase_probability=0.5,
                                             repeated_augmentation=repeats)
    sheet = contact_sheet.draw(split, names, transform, stages, sampling, 5, 3)
    steps = 3 * split.num_examples // (24 // repeats) + 1
    seen = _seen(split, transform, stages, sampling, steps)
    np.testing.assert_allclose(sheet.draws[:, 0], seen[:5], atol=1e-6)  # first copies, where images are repeated
    for row in sheet.draws:
        for image in row:  # somewhere in the training; two draws of an image differ
            assert np.abs(seen - image).max(axis=(1, 2, 3)).min() < 1e-6
        assert np.abs(row[0] - row[1]).max() > 0.1
    assert sheet.columns == ("epoch 0", "epoch 1", "epoch 2") and sheet.captions == ()


@pytest.mark.parametrize("repeats", [1, 2])
def test_draws_of_a_sampler_are_those_of_the_training(repeats):
    split, names, transform, stages, sampling = _parts(crop_padding=1, flip="random", sampler="balanced",
                                                       repeated_augmentation=repeats)
    rare = np.isin(split.labels, (3, 7)) & (np.arange(len(split.labels)) > 200)
    split = split.select(np.flatnonzero(~rare)[:300])
    sheet = contact_sheet.draw(split, names, transform, stages, sampling, 6, 2)
    seen = _seen(split, transform, stages, sampling, 200)
    drawn = sampler.draws("balanced", split.labels, sampling.seed)(np.arange(200 * 24 // repeats)).numpy()
    assert sheet.titles == tuple(names[label] for label in split.labels[drawn[:6]])
    assert sheet.columns == ("draw 0", "draw 1")
    for row in range(6):  # places of the image of a place; of copies the first
        first, second = np.flatnonzero(drawn[row:] == drawn[row])[:2] + row
        assert first == row and second >= 6
        new = 24 // repeats
        for column, place in enumerate((first, second)):
            expected = seen[place // new * 24 + place % new]
            np.testing.assert_allclose(sheet.draws[row, column], expected, atol=1e-6)


def test_an_image_that_a_sampler_hardly_draws_leaves_places_empty(monkeypatch):
    monkeypatch.setattr(sampler, "_MOST_SEARCHED", 1)
    monkeypatch.setattr(sampler, "_SEARCHED", 4)
    split, names, transform, stages, sampling = _parts(sampler="sqrt", mixup_alpha=1.0)
    sheet = contact_sheet.draw(split, names, transform, stages, sampling, 2, 2)
    assert np.isfinite(sheet.draws[:, 0]).all() and np.isnan(sheet.draws[:, 1]).all()
    assert all(first and second == "" for first, second in sheet.captions)


def test_draws_of_a_streamed_set_are_those_of_the_training(tmp_path):
    examples = [test_tfds._example(index) for index in range(40)]
    test_tfds._write(tmp_path, "grey", (6, 5, 1), {"train": examples, "test": examples[:5]})
    split, names, transform, stages, sampling = _parts(dataset="grey", data_dir=str(tmp_path), in_memory_gib=0.0,
                                             shuffle_window=16, mean=(0.5,), std=(0.5,), crop_padding=1)
    assert isinstance(split.reader, Windowed)
    sheet = contact_sheet.draw(split, names, transform, stages, sampling, 4, 2)
    seen = _seen(split, transform, stages, sampling, 1)
    np.testing.assert_allclose(sheet.draws[:, 0], seen[:4], atol=1e-6)
    assert np.abs(sheet.draws[:, 1] - sheet.draws[:, 0]).max() > 0.1


def test_originals_are_the_first_images_of_the_training_as_they_are():
    split, names, transform, stages, sampling = _parts(crop_padding=2, flip="random")
    sheet = contact_sheet.draw(split, names, transform, stages, sampling, 4, 1)
    first = next(iter(split.reader.order(0, 4, 0, 1)))["index"].numpy()
    assert np.array_equal(sheet.originals, split.reader.tensor.numpy()[split.reader.indices[first]])
    assert sheet.titles == tuple(names[label] for label in split.labels[first])
    assert np.array_equal(contact_sheet.first_image(split, transform, sampling), sheet.originals[0])


def test_a_sheet_keeps_no_images_of_the_data_set():
    split, *others = _parts()
    images = weakref.ref(split.reader.images)
    contact_sheet.draw(split, *others, 4, 2)
    del split
    gc.collect()
    assert images() is None


def test_mixed_draws_show_the_neighbouring_row_and_say_its_share():
    split, names, transform, stages, sampling = _parts(mixup_alpha=1.0)
    sheet = contact_sheet.draw(split, names, transform, stages, sampling, 4, 3)
    originals = sheet.originals / 255.0
    for column in range(3):
        # How much of a row's own image a draw is: least squares.
        own, other, drawn = originals[0], originals[1], sheet.draws[0, column]
        share = ((drawn - other) * (own - other)).sum() / ((own - other) ** 2).sum()
        assert np.abs(drawn - share * own - (1 - share) * other).max() < 1 / 255
        for row, partner in ((0, 1), (1, 0), (2, 3), (3, 2)):
            lines = sheet.captions[row][column].split("\n")
            percent, name = lines[0].split("% ")
            assert name == sheet.titles[row] and abs(float(percent) - 100 * share) < 1
            assert sheet.titles[partner] in sheet.captions[row][column]
    assert len({sheet.captions[0][column] for column in range(3)}) == 3


def test_an_image_of_an_unmixed_class_pair_is_wholly_its_class():
    labels = np.array([[[0.05, 0.95]]], np.float32)  # smoothed by 0.1
    several = contact_sheet._mixtures(np.array([[[0.5, 1.0, 0.5, 0.0]]]), stages_lib.Labels(4, multilabel=True),
                                      [np.array([0, 1, 1, 0])], ("cat", "dog", "owl", "ape"))
    assert several == (("100% dog\n50% owl\n50% cat",),)
    stage = stages_lib.Labels(2, 0.1)
    assert contact_sheet._mixtures(labels, stage, [1], ("cat", "dog")) == (("100% dog",),)


def test_figure_shows_every_image_whole_and_once():
    colours = np.random.default_rng(0).permutation(200)[:6].astype(np.uint8)  # of 2 originals, 4 draws
    flat = np.stack([np.full([16, 16, 3], [value, 255 - value, 250], np.uint8) for value in colours])
    sheet = contact_sheet.Sheet(flat[:2], flat[2:].reshape(2, 2, 16, 16, 3) / np.float32(255.0), ("$5", "b" * 40))
    pixels = plots.as_array(contact_sheet.figure(sheet, "a heading")).astype(int)
    for colour in flat[:, 0, 0]:
        found = np.abs(pixels - colour).max(axis=2) == 0
        assert found.sum() == 96 * 96  # 16 pixels, each enlarged to 6 x 6
        rows, columns = np.where(found.any(axis=1))[0], np.where(found.any(axis=0))[0]
        assert len(rows) == len(columns) == 96 == rows[-1] - rows[0] + 1
    assert (pixels[-4:] == 255).all() and (pixels[:, -4:] == 255).all()


def test_large_images_are_reduced():
    image = np.full([1, 300, 300, 3], (64, 0, 200), np.uint8)
    sheet = contact_sheet.Sheet(image, np.zeros([1, 1, 300, 300, 3], np.float32), ("a",))
    pixels = plots.as_array(contact_sheet.figure(sheet))
    assert ((pixels == (64, 0, 200)).all(axis=2)).sum() == 192 * 192


def test_operations_are_all_there_with_their_arguments():
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    sheet = contact_sheet.operations(image, (0.5,))
    assert set(contact_sheet.SHOWN) == set(Op) and len(sheet.titles) == len(Op)
    rows = {title: np.rint(row * 255) for title, row in zip(sheet.titles, sheet.draws, strict=True)}
    captions = dict(zip(sheet.titles, sheet.captions, strict=True))
    assert np.array_equal(rows["invert"][0], 255 - image) and np.isnan(rows["invert"][1]).all()
    assert captions["posterize"][0] == "2 bits" and np.array_equal(rows["posterize"][0], image & 0b11000000)
    assert captions["translate x"][2] == "6 pixels"
    assert np.array_equal(rows["translate x"][2][:, :-6], image[:, 6:])
    assert (rows["translate x"][2][:, -6:] == 128).all()
    rotated = Image.fromarray(image).rotate(-30, Image.Resampling.NEAREST, fillcolor=(128, 128, 128))
    assert captions["rotate"][0] == "-30 degrees" and np.array_equal(rows["rotate"][0], rotated)


@pytest.mark.parametrize("more, height", [(["--rows=2", "--draws=3", "--mixup_alpha=1"], 2), (["--ops"], len(Op))])
def test_the_command_writes_the_picture_and_nothing_else(more, height, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    status, out, err = commands.call(capfd, "preview", *FLAGS, "--workdir=run", *more)
    assert (status, err) == (0, "") and out.splitlines()[-1] == "wrote preview.png"
    assert [path.name for path in tmp_path.iterdir()] == ["preview.png"]
    assert Image.open("preview.png").height > height * 96


def test_images_of_mixed_sizes(tmp_path, capfd):
    random = np.random.default_rng(0)
    for number in range(6):
        path = tmp_path / "data" / ("train", "test")[number % 2] / "ab"[number // 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (9 + number, 8, 3), np.uint8)).save(path)
    arguments = ["--dataset=folder", f"--data_dir={tmp_path}/data", "--model=cct_2_3x1_8", "--draws=2",
                 f"--output={tmp_path}/sheet.png", "--random_resized_crop=0.5,1"]
    status, _, err = commands.call(capfd, "preview", *arguments, "--rows=3")
    assert (status, err) == (0, "") and Image.open(tmp_path / "sheet.png").height > 3 * 96
    status, _, err = commands.call(capfd, "preview", *arguments, "--rows=4")
    assert status == 2 and "--rows" in commands.only_line(err) and "3" in err


def test_wide_letters_of_class_names_have_room_beside_the_rows():
    picture, draws = np.zeros([2, 8, 8, 3], np.uint8), np.zeros([2, 1, 8, 8, 3], np.float32)

    def width(title):
        return plots.as_array(contact_sheet.figure(contact_sheet.Sheet(picture, draws, (title, "b")))).shape[1]

    assert width("\u5e95\u7247" * 4) - width("a" * 8) == round(8 * contact_sheet.LETTER)
