"""Files of TensorBoard's embedding projector, which looks for them beside an event file.

Legend: n points, D their dimension, P side of a thumbnail, which is a square as the projector wants them.
"""

import math

import numpy as np
import tensorflow as tf

from cct_tf.pictures import plots
from cct_tf.runs.checkpoint import storage_faults

_LARGEST = 32  # pixels of a thumbnail's side
_CONFIG = """embeddings {{
  tensor_name: "pooled features"
  tensor_path: "tensors.tsv"
  metadata_path: "metadata.tsv"
  sprite {{
    image_path: "sprite.png"
    single_image_dim: {side}
    single_image_dim: {side}
  }}
}}
"""


def reduced(images):
    """Thumbnails: uint8 [n, H, W, 3] -> uint8 [n, P, P, 3], P = min(max(H, W), 32), with white beside the shorter side.
    """
    longest = max(images.shape[1:3])
    if longest > _LARGEST:
        sides = [max(1, round(side * _LARGEST / longest)) for side in images.shape[1:3]]
        images = np.rint(tf.image.resize(images, sides, method="area")).astype(np.uint8)
    height, width = images.shape[1:3]
    side = max(height, width)
    frame = [(0, 0), *(((side - each) // 2, side - each - (side - each) // 2) for each in (height, width)), (0, 0)]
    return np.pad(images, frame, constant_values=255) if height != width else images


def write(folder, features, columns, thumbnails):
    """Write tensors.tsv, metadata.tsv, sprite.png and, last, projector_config.pbtxt.

    Args:
        folder: pathlib.Path, of a run that TensorBoard shows.
        features: float [n, D].
        columns: dict title -> n strings, at least two columns (a single one would have no title).
        thumbnails: uint8 [n, P, P, 3].
    """
    count, side = thumbnails.shape[:2]
    along = math.ceil(math.sqrt(count))
    sprite = np.full([along * along, side, side, 3], 255, np.uint8)
    sprite[:count] = thumbnails
    sprite = sprite.reshape(along, along, side, side, 3).transpose(0, 2, 1, 3, 4)  # rows of thumbnails
    rows = [tuple(columns), *zip(*columns.values(), strict=True)]
    with storage_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
        np.savetxt(folder / "tensors.tsv", features, fmt="%.6g", delimiter="\t")
        lines = ("\t".join(" ".join(text.split()) for text in row) + "\n" for row in rows)
        (folder / "metadata.tsv").write_text("".join(lines), encoding="utf-8")
        plots.save(sprite.reshape(along * side, along * side, 3), folder / "sprite.png")
        (folder / "projector_config.pbtxt").write_text(_CONFIG.format(side=side), encoding="utf-8")
