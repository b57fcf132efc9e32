"""The benchmark of the input: its stages are those of a run on a run's batches, and its JPEGs are what they claim."""

import itertools
import json
import os
import tempfile

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from cct_tf.augment import stages
from cct_tf.augment.erasing import RandomErasing
from cct_tf.augment.mix import Mix
from cct_tf.augment.transform import Transform
from cct_tf.benchmark import __main__ as benchmark
from cct_tf.benchmark import input as input_benchmark
from cct_tf.benchmark import measuring, photographs, tables
from cct_tf.data import pipeline
from cct_tf.data.source import Split
from cct_tf.errors import UserError
from cct_tf.images import decode
from cct_tf.readers.encoded import Encoded
from cct_tf.readers.flat import Flat
from cct_tf.readers.held import Held
from cct_tf.settings import flags

TRANSFORM = Transform(8, (0.5,), (0.5,), resized_crop=(0.5, 1.0), flip="random", erasing=RandomErasing(0.5))
SAMPLING = pipeline.Sampling(3, 16)
RANDOM = np.random.default_rng(0).integers(0, 256, (40, 12, 12, 3), np.uint8)


def _split():
    return Split("train", Held(tf.constant(RANDOM), np.arange(40)), 40, np.arange(40, dtype=np.int32) % 10)


def _found(capsys, *argv):
    """What the benchmark prints, which must be one object on one line."""
    benchmark.main(flags.parse(["--model=cct_2_3x1_8", "--batch_size=16", "--json", *argv], benchmark.FIELDS))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    return json.loads(lines[0])


def _equal(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, name)


def test_each_stage_is_timed_on_batches_of_a_run_that_went_through_those_before():
    way = TRANSFORM.training_stages(10, mixing=stages.Mixing(Mix(1.0, 1.0), 3, 16))
    parts = input_benchmark.timed_parts(_split(), way, SAMPLING)
    assert list(parts) == ["read", "flip", "mix"]
    shipped = list(pipeline.train_batches(_split(), way, SAMPLING, 0, 2))
    done = list(parts["mix"].take(2))
    for batch, expected in zip(done, shipped, strict=True):
        _equal({name: batch[name] for name in ("image", "label", "seed")},
               {name: expected[name] for name in ("image", "label", "seed")})
    crop, flip, *_ = way
    batch, flipped = (next(iter(parts[name])) for name in ("read", "flip"))
    _equal(flipped, flip.apply(batch, flip.sample(batch, (8, 8))))
    assert (flipped["image"].numpy() != batch["image"].numpy()).any()


def test_padding_crop_is_a_stage_of_its_own_and_resizing_belongs_to_reading():
    parts = input_benchmark.timed_parts(_split(), Transform(8, (0.5,), (0.5,), crop_padding=1).training_stages(10),
                                        SAMPLING)
    assert list(parts) == ["read", "crop"]
    assert next(iter(parts["read"]))["image"].shape == (16, 8, 8, 3)


def test_batches_at_hand_are_several_and_come_again():
    parts = input_benchmark.timed_parts(_split(), Transform(12, (0.5,), (0.5,), crop_padding=1).training_stages(10),
                                        SAMPLING)
    seeds = [batch["seed"].numpy().tolist() for batch in parts["crop"].take(16)]
    assert seeds[:8] == seeds[8:] and len({tuple(found) for found in seeds}) == 8


def test_stages_of_a_held_set_have_times_of_their_own(capsys):
    found = _found(capsys, "--dataset=digits", "--flip=random", "--crop_padding=1", "--repeats=3", "--seconds=0.02")
    assert list(found["stages"]) == ["read", "crop", "flip"] and found["stages_in_step"] == ["normalize"]
    assert list(found["processor_stages"]) == list(found["stages"])
    assert min(found["microseconds"], found["processor_microseconds"], *found["stages"].values(),
               *found["processor_stages"].values()) > 0
    assert found["images_per_second"] == pytest.approx(1e6 / found["microseconds"])
    assert found["lowest"] <= found["images_per_second"] <= found["highest"]
    assert (found["what"], found["batch_size"], found["image_size"]) == ("input", 16, 8)
    assert found["decoding"] is None and found["images"] == "digits"


def test_synthetic_images_are_decoded_from_disk_and_leave_nothing(capsys, monkeypatch):
    monkeypatch.setattr(photographs, "number_of", lambda size: 12)
    before, cache = set(os.listdir(tempfile.gettempdir())), os.environ.get("XDG_CACHE_HOME")
    found = _found(capsys, "--images=synthetic", "--source_size=40x30", "--dataset=imagenet2012",
                   "--test_split=validation", "--random_resized_crop=0.5,1", "--repeats=1", "--seconds=0.02")
    assert found["decoding"]["microseconds"] > 0 and found["images"] == "JPEGs of 40x30, made for it"
    assert set(os.listdir(tempfile.gettempdir())) == before and os.environ.get("XDG_CACHE_HOME") == cache


@pytest.mark.parametrize(("suffix", "mode"), [("jpg", "RGB"), ("png", "P")])
def test_the_floor_is_whole_files_decoded(tmp_path, suffix, mode):
    paths = [str(tmp_path / f"{number}.{suffix}") for number in range(6)]
    for path, pixels in zip(paths, RANDOM, strict=False):
        Image.fromarray(pixels).convert(mode).save(path)
    split = Split("train", Encoded(tf.constant(paths), paths, np.arange(6), True), 6, np.zeros(6, np.int32))
    found = next(iter(input_benchmark.decoding(split, 6)))
    np.testing.assert_array_equal(
        found, [decode.decode_file(decode.read_bytes(path), path)[0, 0] for path in paths])


def test_there_is_no_floor_where_nothing_is_decoded_or_no_file_is_known(tmp_path):
    assert input_benchmark.decoding(_split(), 4) is None
    Image.fromarray(RANDOM[0]).save(tmp_path / "held.png")
    flat = Flat(tf.constant(RANDOM.reshape(-1)), np.array([0]), np.array([[12, 12]]), np.array([0]),
                [tmp_path / "held.png"])
    assert input_benchmark.decoding(Split("train", flat, 1, np.zeros(1, np.int32)), 4) is None
    records = ["images.tfrecord, record 7"] * 2
    split = Split("train", Encoded(tf.constant(records), records, np.arange(2), True), 2, np.zeros(2, np.int32))
    assert input_benchmark.decoding(split, 4) is None


def test_photographs_are_different_parts_of_the_wanted_size_and_the_same_each_time(tmp_path):
    for name in ("one", "two"):
        photographs.write(tmp_path / name, (700, 60), 6)  # wider than the photograph
    found = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.jpg"))
    assert [len([path for path in found if path.parts[:2] == (split, name)])
            for split in ("train", "test") for name in ("china", "flower")] == [3, 3, 1, 1]
    contents = [(tmp_path / "one" / path).read_bytes() for path in found]
    assert len(set(contents)) == len(found) and contents == [(tmp_path / "two" / path).read_bytes() for path in found]
    Image.fromarray(RANDOM[0]).save(tmp_path / "92.jpg", quality=92)
    with Image.open(tmp_path / "92.jpg") as of_92:
        for path in found:
            with Image.open(tmp_path / "one" / path) as image:
                assert image.size == (700, 60) and image.quantization == of_92.quantization


def test_a_row_of_pixels_goes_on_mirrored():
    class Draws:
        def integers(self, below):
            assert below == 6
            return 1

    assert photographs._mirrored(3, 9, Draws()).tolist() == [1, 2, 2, 1, 0, 0, 1, 2, 2]


def test_large_photographs_are_fewer():
    assert [photographs.number_of(size) for size in ((500, 375), (2048, 2048), (4000, 3000))] == [256, 64, 24]


@pytest.mark.parametrize("text", ["500", "500x", "0x3", "500X375", "500x375x3", "10001x10000", "65501x10", "-5x5"])
def test_what_is_no_size(text):
    with pytest.raises(UserError, match=f"^--source_size: expected WIDTHxHEIGHT.*found '{text}'$"):
        photographs.parse_size(text)
    assert photographs.parse_size("500x375") == (500, 375)


def test_costs_are_time_and_processor_time_of_a_piece_of_work(monkeypatch):
    clocks = {"perf_counter": itertools.count(0.0, 0.5), "process_time": itertools.count(0.0, 6.0)}
    for name, clock in clocks.items():
        monkeypatch.setattr(measuring.time, name, lambda clock=clock: next(clock))
    assert measuring.costs(lambda: 3, 2.0) == (2.0 / 12, 6.0 / 12)


def test_the_table_names_the_sum_and_the_floor():
    def costs(microseconds):
        return {"microseconds": microseconds, "processor_microseconds": 2 * microseconds}

    found = {"what": "input", "images_per_second": 400.0, "lowest": 300.0, "highest": 500.0, "cores": 2,
             "image_size": 224, "batch_size": 64, "images": "digits", "stages_in_step": ["normalize", "erase"],
             "stages": {"read": 1800.0, "flip": 450.0},
             "processor_stages": {"read": 3600.0, "flip": 900.0}, "decoding": costs(1000.0)} | costs(2500.0)
    text = "\n".join(tables.lines(found))
    assert "1,800.00" in text and "3,600.00   80.0%" in text
    assert "the stages add up to 90% of it" in text
    assert "1,000 images/s; the whole takes 2.50 times that" in text
    assert "decoding" not in "\n".join(tables.lines(found | {"decoding": None}))
