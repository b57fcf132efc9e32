"""Our networks give the authors' logits: against golden numbers from PyTorch, and against plain NumPy."""

import numpy as np
import pytest

import cct_tf
from cct_tf import sizes
from cct_tf.convert import names
from tests.models import authors_numpy

# Logits of the first image, from a PyTorch 2.13 model of the authors' layers with the weights of `formula_weights`.
GOLDEN = {
    "cct_2_3x2_32": [0.2544129, -0.7006909, -0.1724470, -0.2465882, -1.3279905, -0.4154106, -0.0325254, -0.3041352,
                     0.2912351, -0.1704911],
    "cct_2_7x2_32": [-0.0433209, 0.0084627, -0.9078043, 0.5172681, -0.3858606, -0.0369691, -0.4353527, -0.4848098,
                     -0.3486286, 0.2792018],
    "vit_2_4_16": [-0.2933701, -0.2835577, -0.2013827, 0.5633447, -0.1640820, -0.2015124, 0.1784216, 0.0445163,
                   -0.3441230, -0.3599883],
}


def our_logits_and_weights(name, size=None):
    """A model with formula weights: its logits for two formula images, those images, the weights, the model."""
    model = cct_tf.create_model(name, image_size=size)
    ours = {variable.path.split("/", 1)[1]: variable for variable in model.weights}
    table = names.weights(model.variant)
    assert sorted(weight.ours for weight in table) == sorted(ours)  # each variable has exactly one name of the authors
    weights = authors_numpy.formula_weights({weight.authors: weight.shape for weight in table})
    for weight in table:
        ours[weight.ours].assign(weight.to_ours(weights[weight.authors]))
    images = 1.5 * authors_numpy.pattern("images", (2, *sizes.sides(model.image_size), 3))
    return model(images).numpy(), images, weights, model


# Odd and even kernels, stride 1 and 2, odd and even sides, one to two convolutions, patches, class token, sines.
@pytest.mark.parametrize(("name", "size"), [
    *((name, None) for name in ("cct_2_3x2_32", "cct_2_7x2_32", "cct_2_4x2_20", "cct_2_3x1_16_sine", "cvt_2_4_16",
                                "vit_2_4_16", "vit_2_8_16_sine")),
    ("cct_2_7x2_32", (24, 41)), ("cct_2_3x1_16_sine", (17, 10)), ("vit_2_4_16", (8, 20))])
def test_logits_equal_the_authors_network(name, size):
    logits, images, weights, model = our_logits_and_weights(name, size)
    expected = authors_numpy.forward(images, weights, model.variant.num_heads, patch=model.variant.tokenizer == "patch",
                                     sine=model.variant.positional_embedding == "sine")
    np.testing.assert_allclose(logits, expected, atol=1e-5, rtol=0)
    if name in GOLDEN and size is None:
        np.testing.assert_allclose(logits[0], GOLDEN[name], atol=1e-5, rtol=0)
