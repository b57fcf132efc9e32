"""How far --resize=fast is from Pillow: random parts of photographs, noise and images of two levels.

    PYTHONPATH=. python tests/augment/fast_resizing.py [PARTS of each kind]
"""

import sys

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from cct_tf.augment import pillow_resize, simd_resize


def image(kind, rng):
    """uint8 [H, W, 3] of 30 to 700 pixels a side; half of the photographs at their own size."""
    height, width = map(int, rng.integers(30, 700, 2))
    if kind == "noise":
        return rng.integers(0, 256, (height, width, 3), np.uint8)
    if kind == "two levels":
        return rng.choice(np.array([0, 255], np.uint8), (height, width, 3))
    photo = load_sample_images().images[rng.integers(2)]
    return photo if rng.random() < 0.5 else np.asarray(Image.fromarray(photo).resize((width, height), Image.BICUBIC))


def main(number):
    print("| image | filter | to | values by 1 | by 2 | by more |\n" + "|---" * 6 + "|")
    for kind in ("photograph", "noise", "two levels"):
        for bicubic in (False, True):
            for target in ("224", "random"):
                rng, counts = np.random.default_rng(0), np.zeros(256, np.int64)
                for _ in range(number):
                    pixels = image(kind, rng)
                    sides = np.array(pixels.shape[:2])
                    down, across = inner = rng.integers(8, sides + 1)
                    top, left = rng.integers(0, sides - inner + 1)
                    size = 224 if target == "224" else tuple(map(int, rng.integers(8, 300, 2)))
                    given = pixels[top:top + down, left:left + across], (0.0, 0.0, float(across), float(down)), bicubic
                    exact, fast = (ops.resized(*given, size).astype(int) for ops in (pillow_resize, simd_resize))
                    counts += np.bincount(np.abs(exact - fast).ravel(), minlength=256)
                _, one, two, *more = counts / counts.sum()
                print(f"| {kind} | {'bicubic' if bicubic else 'bilinear'} | {target} | {one:.2%} | {1e6 * two:.2g} in "
                      f"a million | {sum(more):.2g} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1500)
