"""Shards of WebDataset, `train-000.tar` ... and `test-000.tar` ...: needs `pip install webdataset`.

A sample is an image (`.jpg`, `.png`, `.webp`) and its class as text (`.cls`).

    python -m cct_tf.train --dataset=examples/webdataset_shards.py:load --data_dir=DIR --model=cct_2_3x2_32 \\
        --workdir=runs/shards
"""

import pathlib

import webdataset


def load(data_dir):
    """Rows of all shards."""
    for split in ("train", "test"):
        shards = sorted(map(str, pathlib.Path(data_dir).glob(f"{split}-*.tar")))
        for sample in webdataset.WebDataset(shards, shardshuffle=False):
            image = next(sample[kind] for kind in ("jpg", "png", "webp") if kind in sample)
            yield {"image": image, "label": sample["cls"].decode(), "split": split}
