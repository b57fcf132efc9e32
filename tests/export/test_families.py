"""Every family of networks can be converted: class token, patches, sine positions, the tutorial's paddings, qk_norm."""

import numpy as np
import pytest

import cct_tf
from cct_tf.export import formats, running
from cct_tf.runs.export_metadata import Metadata


@pytest.fixture(params=[("cct_2_3x2_16_sine", True), ("cvt_2_4_16", False), ("vit_2_4_16", False),
                        ("cct_2_3x2_32_keras", False)])
def converted(request):
    """(network, Metadata, images, its probabilities), weights such that the classes differ."""
    name, qk_norm = request.param
    model = cct_tf.create_model(name, num_classes=5, seed=1, qk_norm=qk_norm)
    random, side = np.random.default_rng(0), model.image_size
    for kernel in (weight for weight in model.trainable_variables if len(weight.shape) == 2):
        kernel.assign(random.normal(0, 1.5 / kernel.shape[0]**0.5, kernel.shape))
    metadata = Metadata([f"class {index}" for index in range(5)], side, 0.9, [0.4, 0.5, 0.6], [0.2, 0.25, 0.3],
                        name, "step_00000000", 0, "raw", "none", "0")
    images = random.integers(0, 256, [6, 4, 4, 3], np.uint8).repeat(side // 4, axis=1).repeat(side // 4, axis=2)
    logits = model((images / 255.0 - metadata.mean) / metadata.std).numpy()
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.ptp(shares, axis=0).max() > 0.2
    return model, metadata, images, shares


@pytest.mark.parametrize("name", ["litert", "onnx"])
def test_converted_networks_give_the_same(name, converted, tmp_path):
    for package in formats.FORMATS[name].writes_with:
        pytest.importorskip(package)
    from cct_tf.export import litert_file, onnx_file
    model, metadata, images, expected = converted
    path = tmp_path / f"x{formats.FORMATS[name].suffix}"
    {"litert": litert_file, "onnx": onnx_file}[name].write(model, metadata, path)
    run = running.RUNNERS[name](str(path))
    for batch in (1, 6, 2):
        np.testing.assert_allclose(run(list(images[:batch]))["probabilities"], expected[:batch],
                                   atol=formats.FORMATS[name].tolerance)
