"""What goes to the device in a step of the ImageNet recipe, in bytes."""

import types

import numpy as np
import pytest
import tensorflow as tf

from cct_tf.assembly import inputs
from cct_tf.data import pipeline, source
from cct_tf.readers.held import Held
from cct_tf.settings import config, flags
from tests.exact_resume import REPO


@pytest.mark.parametrize(("side", "size", "classes", "all_bytes", "as_float32"), [
    (32, 128, 10, 401_408, 1_579_008), (224, 64, 1000, 9_891_328, 38_791_680)])
def test_images_go_to_the_device_as_uint8_with_what_erasing_drew(side, size, classes, all_bytes, as_float32):
    """In docs/design/gpu.md; before, the host normalised and erased, and float32 pixels went there."""
    chosen = config.from_dict(flags.parse([f"--flagfile={REPO}/configs/imagenet_paper_224.cfg", f"--batch_size={size}"],
                                          list(config.FIELDS.values())))
    split = source.Split("train", Held(tf.zeros([size, side, side, 3], tf.uint8), np.arange(size)), size,
                         np.zeros(size, np.int32))
    images = inputs.Images(types.SimpleNamespace(num_classes=classes, splits={"train": split}), chosen.augment.mean,
                           chosen.augment.std, "flags", source.Rules().settled((side, side)))
    transform = inputs.make_transform(chosen, images, types.SimpleNamespace(image_size=side))
    stages = inputs.training_stages(chosen, images, transform)
    spec = pipeline.train_batches(split, stages, inputs.make_sampling(chosen), 0, 1).element_spec
    assert {name: (each.dtype, each.shape.as_list()) for name, each in spec.items()} == {
        "image": (tf.uint8, [size, side, side, 3]), "label": (tf.float32, [size, classes]),
        "seed": (tf.uint32, [size]), "mask": (tf.float32, [size]), "erase/box": (tf.int32, [size, 4])}
    sizes = {name: each.shape.num_elements() * each.dtype.size for name, each in spec.items()}
    assert sum(sizes.values()) == all_bytes
    assert sum(sizes.values()) - sizes["erase/box"] + 3 * sizes["image"] == as_float32
