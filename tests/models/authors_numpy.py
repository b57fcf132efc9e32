"""The authors' networks once more, in plain NumPy and float64, written from their description: the oracle of parity.

Weights carry the authors' names and axes. They and the images come from a formula, so that no file is needed.
"""

import math
import zlib

import numpy as np

_ERF = np.vectorize(math.erf)


def pattern(name, shape):
    """Numbers in [-1, 1) that look random: an integer hash of the name and the element's index. float32."""
    x = np.arange(math.prod(shape), dtype=np.uint32) + np.uint32(zlib.crc32(name.encode()))
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    x ^= x >> np.uint32(16)
    return (x.astype(np.float64) / 2.0**31 - 1.0).astype(np.float32).reshape(shape)


def formula_weights(shapes):
    """{authors' name: shape} -> {authors' name: array}, of sizes at which every part of the network matters."""
    arrays = {}
    for name, shape in shapes.items():
        scale, offset = 0.1, 0.0
        if len(shape) == 4:
            scale = math.sqrt(6.0 / math.prod(shape[1:]))
        elif len(shape) == 3:
            scale = 0.35
        elif "norm" in name and name.endswith("weight"):
            offset = 1.0
        arrays[name] = scale * pattern(name, shape) + np.float32(offset)
    return arrays


def _layer_norm(x, weights, name, epsilon=1e-5):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + epsilon) * weights[name + ".weight"] + weights[name + ".bias"]


def _linear(x, weights, name):
    y = x @ weights[name + ".weight"].T
    return y + weights[name + ".bias"] if name + ".bias" in weights else y


def _softmax(x, axis=-1):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def _windows(x, size, stride, padding, value):
    """[B, C, H, W] -> list over the size x size places of the window, each [B, C, h, w]."""
    x = np.pad(x, [(0, 0), (0, 0), (padding, padding), (padding, padding)], constant_values=value)
    down, across = (stride * ((side - size) // stride) + 1 for side in x.shape[2:])
    return [x[:, :, i:i + down:stride, j:j + across:stride] for i in range(size) for j in range(size)]


def _conv(x, kernel, stride, padding):
    places = _windows(x, kernel.shape[2], stride, padding, 0.0)
    taps = kernel.reshape(*kernel.shape[:2], -1)  # [out, in, places]
    return sum(np.einsum("bchw,oc->bohw", place, taps[:, :, k]) for k, place in enumerate(places))


def _tokens(images, weights, patch):
    x = images.transpose(0, 3, 1, 2)
    index = 0
    while (name := f"tokenizer.conv_layers.{index}.0.weight") in weights:
        kernel = weights[name]
        k = kernel.shape[2]
        if patch:
            x = _conv(x, kernel, k, 0) + weights[name.replace("weight", "bias")][:, None, None]
        else:
            x = np.maximum(_conv(x, kernel, max(1, k // 2 - 1), max(1, k // 2)), 0.0)
            x = np.max(_windows(x, 3, 2, 1, -np.inf), axis=0)
        index += 1
    return x.reshape(*x.shape[:2], -1).transpose(0, 2, 1)  # [B, C, h, w] -> [B, N, C]


def _attention(x, weights, name, num_heads, seen):
    batch, tokens, width = x.shape
    qkv = _linear(x, weights, name + ".qkv").reshape(batch, tokens, 3, num_heads, width // num_heads)
    query, key, value = qkv.transpose(2, 0, 3, 1, 4)
    shares = _softmax(query @ key.swapaxes(-1, -2) * (width // num_heads) ** -0.5)
    seen.append(shares)
    y = (shares @ value).transpose(0, 2, 1, 3).reshape(batch, tokens, width)
    return _linear(y, weights, name + ".proj")


def sines(tokens, width):
    """The fixed positions, float64 [1, tokens, width]."""
    x = np.zeros([1, tokens, width])
    for p in range(tokens):
        for i in range(0, width, 2):
            x[0, p, i] = math.sin(p / 10000 ** (i / width))
            x[0, p, i + 1] = math.cos(p / 10000 ** (i / width))
    return x


def forward(images, weights, num_heads, patch=False, sine=False, seen=None):
    """Logits of images [B, S, S, 3], float64 [B, classes], in evaluation.

    `seen`, a list, gets the attention of each block, [B, heads, N, N], and that of the sequence pooling, [B, N].
    """
    seen = [] if seen is None else seen
    weights = {name: array.astype(np.float64) for name, array in weights.items()}
    x = _tokens(images.astype(np.float64), weights, patch)
    if "classifier.class_emb" in weights:
        token = weights["classifier.class_emb"]
        x = np.concatenate([np.repeat(token, len(x), 0), x], axis=1)
    if "classifier.positional_emb" in weights:
        x = x + weights["classifier.positional_emb"]
    if sine:
        x = x + sines(*x.shape[1:])
    block = 0
    while (name := f"classifier.blocks.{block}") + ".norm1.weight" in weights:
        x = x + _attention(_layer_norm(x, weights, name + ".pre_norm"), weights, name + ".self_attn", num_heads, seen)
        x = _layer_norm(x, weights, name + ".norm1")
        hidden = _linear(x, weights, name + ".linear1")
        x = x + _linear(0.5 * hidden * (1.0 + _ERF(hidden / math.sqrt(2.0))), weights, name + ".linear2")
        block += 1
    x = _layer_norm(x, weights, "classifier.norm")
    if "classifier.attention_pool.weight" in weights:
        shares = _softmax(_linear(x, weights, "classifier.attention_pool"), axis=1)  # [B, N, 1]
        seen.append(shares[..., 0])
        x = (shares * x).sum(1)
    else:
        x = x[:, 0]
    return _linear(x, weights, "classifier.fc")
