"""A Parquet file with the images in it, in the columns image, label and split. pyarrow comes with cct_tf.

    python -m cct_tf.train --dataset=examples/parquet_images.py:load --data_dir=FILE.parquet --model=cct_2_3x2_32 \\
        --workdir=runs/parquet

A Parquet file of paths is a table, which `--dataset=table` reads.
"""

from pyarrow import parquet


def load(data_dir):
    """The columns."""
    return parquet.read_table(data_dir, columns=["image", "label", "split"]).to_pydict()
