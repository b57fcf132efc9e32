"""A Hugging Face data set, saved by `save_to_disk`: needs `pip install datasets`.

    python -m cct_tf.train --dataset=examples/huggingface.py:load --data_dir=DIR --model=cct_2_3x2_32 --workdir=runs/hf
"""

import datasets


def load(data_dir):
    """Rows of all splits; images stay encoded as they are stored."""
    found = datasets.load_from_disk(data_dir)
    for split, part in found.items():
        names = part.features["label"].names
        for row in part.cast_column("image", datasets.Image(decode=False)):
            yield {"image": row["image"]["bytes"], "label": names[row["label"]], "split": split}
