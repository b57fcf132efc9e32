"""`--dataset=digits`: scikit-learn's 1,797 handwritten digits of 8x8 pixels, for first steps and tests.

They come with scikit-learn (`load_digits`), so nothing is downloaded: the test set of "Optical Recognition of
Handwritten Digits" (E. Alpaydin, C. Kaynak, UCI Machine Learning Repository, 1998, CC BY 4.0).
"""

import numpy as np

from cct_tf.data import splits
from cct_tf.images import pixel_type
from cct_tf.readers import tensors
from cct_tf.readers.held import Held

_TEST_FRACTION = 0.2
_TEST_SEED = 1797  # written out: the test split is part of the data set, whatever --split_seed


def arrays():
    """(images uint8 [1797, 8, 8] of 0-16, labels int64 [1797])."""
    from sklearn.datasets import load_digits  # a second; nobody else needs it
    digits = load_digits()
    return digits.images.astype(np.uint8), digits.target.astype(np.int64)


def open_digits(config, rules):
    """Open the set: 1,438 images to train on (less the validation split), 359 to test on.

    Args:
        config: DataConfig.
        rules: source.Rules.

    Returns:
        source.Source, held; levels 0-16 are scaled to 0-255, or with --bits=16 to 0-65535.
    """
    images, labels = arrays()
    pixels = ((images.astype(np.int32) * 255 + 8) // 16).astype(np.uint8)  # rounded
    held = tensors.on_cpu(pixel_type.levels_of(pixel_type.of_config(config), pixels[..., None]))  # [1797, 8, 8, C]
    train, test = splits.stratified(labels, _TEST_FRACTION, _TEST_SEED, rule=1)  # whatever the rules of the run

    def subset(indices):
        return splits.Subset(lambda chosen: Held(held, chosen), indices, labels[indices])

    return splits.indexed_source(config, rules, [str(digit) for digit in range(10)],
                                 {"train": subset(train), "test": subset(test)})
