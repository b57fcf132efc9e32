"""A set of large photographs of one size takes the memory of its pixels, and little more, whatever the threads."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

SIDE, NUMBER = 1536, 40  # 270 MiB of pixels

# Prints the MiB above those of TensorFlow and of the pixels: (when opened, at the end).
_PROGRAM = f"""
import resource, sys
import tensorflow as tf
from cct_tf.augment.transform import Transform
from cct_tf.settings.config import DataConfig
from cct_tf.data import pipeline, statistics
from cct_tf.datasets import registry
from cct_tf.readers import budget, tensors

tensors.num_threads = lambda: 64
budget.use(0.5)
next(iter(tf.data.Dataset.range(2).map(lambda i: i).prefetch(1)))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak() + {NUMBER * SIDE**2 * 3 / 2**20}
source = registry.open_source(DataConfig(dataset="folder", data_dir=sys.argv[1], validation_fraction=0.5))
opened = peak() - before
train, evaluated = source.splits["train"], source.splits["validation"]
mean, std = statistics.channel_statistics(train)
transform = Transform(32, mean, std, resized_crop=(0.3, 1.0))
for batches in (pipeline.train_batches(train, transform.training_stages(2), pipeline.Sampling(0, 16), 0, 2),
                pipeline.evaluation_batches(evaluated, transform.evaluation_stages(2), batch_size=16)):
    for batch in batches:
        pass
print(opened, peak() - before)
"""


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    rows = np.linspace(0, 255, SIDE).astype(np.uint8)
    for number in range(NUMBER):
        path = folder / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.stack(np.broadcast_arrays(rows, rows[:, None], np.uint8(number)), axis=2)).save(path)
    return folder


def test_pixels_are_held_once_and_prepared_in_bounded_blocks(photographs):
    found = subprocess.run([sys.executable, "-c", _PROGRAM, str(photographs)], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    opened, in_all = map(float, found.stdout.split())
    assert opened < 650  # of 64 threads; the pixels held twice would be 270 more
    assert in_all < 900  # a batch of 16 as float32 takes 432 by itself
