"""PyTorch weights in and out: `load_torch_weights(model, path)` and `to_torch(model)`, without PyTorch."""

from cct_tf.convert.weights import load_torch_weights, to_torch

__all__ = ["load_torch_weights", "to_torch"]
