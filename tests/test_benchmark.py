"""The benchmark: what it measures is the pipeline that trains, and its stages add up."""

import dataclasses
import json

import pytest

from cct_tf import benchmark, flags
from cct_tf.augment import policies, rand_augment
from cct_tf.augment.erasing import RandomErasing
from cct_tf.augment.mix import Mix
from cct_tf.augment.transform import Transform
from cct_tf.benchmarks import input as input_benchmark
from cct_tf.data.pipeline import Stream

POLICY = rand_augment.make_policy(policies.resolve("trivial"), (0.5,))
TRANSFORM = Transform(8, (0.5,), (0.5,), resized_crop=(0.5, 1.0), flip="random", policy=POLICY,
                      erasing=RandomErasing(0.5))
STREAM = Stream(10, 0, 16, mix=Mix(1.0, 1.0))


def test_stages_are_switched_on_one_after_the_other():
    table = input_benchmark.cumulative_stages(TRANSFORM, STREAM)
    assert table["erase"] == (TRANSFORM, STREAM)
    assert table["read"] == (Transform(8, (0.5,), (0.5,)), dataclasses.replace(STREAM, mix=None))
    assert table["policy"] == (dataclasses.replace(TRANSFORM, erasing=None), dataclasses.replace(STREAM, mix=None))
    assert table["mix"] == (dataclasses.replace(TRANSFORM, erasing=None), STREAM)


def test_json_is_one_object_whose_stages_sum_up_to_the_whole(capsys):
    fields = benchmark._FIELDS
    benchmark.main(flags.parse(["--dataset=digits", "--model=cct_2_3x1_8", "--batch_size=16", "--flip=random",
                                "--crop_padding=1", "--repeats=2", "--seconds=0.05", "--json"], fields))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    found = json.loads(lines[0])
    assert list(found["stages"]) == ["read", "crop", "flip", "policy", "mix", "erase"]
    assert sum(found["stages"].values()) == pytest.approx(1e6 / found["images_per_second"])
    assert found["lowest"] <= found["images_per_second"] <= found["highest"]
    assert (found["batch_size"], found["image_size"]) == (16, 8)
