"""How far --decode=fast is from exact, on random resized crops of scikit-learn's two photographs.

    PYTHONPATH=. python tests/images/fast_decoding.py
"""

import io

import numpy as np
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_sample_images

from cct_tf.augment import geometric, pillow_resize
from cct_tf.images import decode, parts

CASES = ((1, 64), (4, 64), (4, 224))  # the photographs of 640x427 enlarged so many times; the network's size
CROPS = 60  # of each photograph


def _crops(size, fast):
    """tf.function of a JPEG's bytes and a seed -> (crop uint8 [S, S, 3], scale that was decoded)."""
    op = geometric.RandomResizedCrop(size, (0.08, 1.0), (3 / 4, 4 / 3))

    @tf.function(autograph=False)
    def crop(contents, seed):
        pixels, frame = decode.decode_part(contents, lambda *whole: op.sample(seed, *whole)["box"][0], fast=fast)
        params = op.sample(seed, frame[0], frame[1])
        box = parts.placed(params["box"][0], frame)
        return pillow_resize.crop(pixels[None], box[None], params["bicubic"], size, pillow_resize.resized)[0], frame[2]

    return crop


def main():
    for enlarged, size in CASES:
        exact, fast, found = _crops(size, None), _crops(size, size), {}
        shape = (640 * enlarged, 427 * enlarged)
        for photo in load_sample_images().images:
            file = io.BytesIO()
            Image.fromarray(photo).resize(shape, Image.BICUBIC).save(file, "JPEG", quality=92)
            for seed in range(CROPS):
                seed = tf.constant([seed], tf.uint32)
                ours, scale = fast(tf.constant(file.getvalue()), seed)
                theirs = exact(tf.constant(file.getvalue()), seed)[0].numpy().astype(int)
                difference = np.abs(ours.numpy() - theirs)
                found.setdefault(int(scale), []).append((difference.mean(), difference.max()))
        for scale, differences in sorted(found.items()):
            means, most = zip(*differences, strict=True)
            print(f"{shape[0]}x{shape[1]} to {size}: at 1/{scale}, {len(means)} crops, {np.mean(means):.2f} levels in "
                  f"the mean, {max(most)} at most")


if __name__ == "__main__":
    main()
