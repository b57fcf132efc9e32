"""Weights in and out: `load_torch_weights(model, path)` reads the authors' PyTorch checkpoints, without PyTorch."""

from cct_tf.convert.weights import load_torch_weights, to_torch

__all__ = ["load_torch_weights", "to_torch"]
