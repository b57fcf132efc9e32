"""Runs exports without cct_tf: by NumPy and TensorFlow, LiteRT or onnxruntime.

It is also a program, `python -P running.py KIND PATH`, which reads pickled lists of images from stdin and writes the
pickled outputs to stdout, until stdin ends. So an export is tried in a process without cct_tf; if it aborts that
process, as LiteRT does with some files, nothing else ends.

Legend: B batch, H W image, S S height and width of the network's input, K classes.
"""

import os
import pickle
import sys

import numpy as np

_LARGE = 2**25  # bytes of a batch; larger images are run one at a time, for resizing them in float32 takes memory


class SavedModel:
    """A SavedModel, by its signature `serving_default`.

    Call: list of uint8 [H, W, 3] -> {"probabilities" float32 [B, K], "classes" bytes [B, K], and "label" bytes [B] or
    "above" bool [B, K]}.
    """

    def __init__(self, path):
        import tensorflow as tf
        self._tf, self._loaded = tf, tf.saved_model.load(path)  # kept alive: its functions don't hold its variables

    def __call__(self, images):
        as_one = len({image.shape for image in images}) == 1 and sum(image.size for image in images) <= _LARGE
        batches = [np.stack(images)] if as_one else [image[None] for image in images]
        found = [self._loaded.signatures["serving_default"](images=self._tf.constant(batch)) for batch in batches]
        return {name: np.concatenate([part[name].numpy() for part in found]) for name in found[0]}


class LiteRt:
    """A LiteRT (TensorFlow Lite) file. Call: list of B uint8 [S, S, 3] -> {"probabilities" float32 [B, K]}."""

    def __init__(self, path):
        from ai_edge_litert.interpreter import Interpreter
        self._interpreter = Interpreter(path, num_threads=len(os.sched_getaffinity(0)))
        (self._input,), (self._output,) = (self._interpreter.get_input_details(),
                                           self._interpreter.get_output_details())
        self._interpreter.allocate_tensors()
        self._batch = 1

    def __call__(self, images):
        if len(images) != self._batch:
            self._interpreter.resize_tensor_input(self._input["index"], [len(images), *images[0].shape])
            self._interpreter.allocate_tensors()
            self._batch = len(images)
        self._interpreter.set_tensor(self._input["index"], np.stack(images))
        self._interpreter.invoke()
        return {"probabilities": self._interpreter.get_tensor(self._output["index"])}


class Onnx:
    """An ONNX file. Call: list of B uint8 [S, S, 3] -> {"probabilities" float32 [B, K]}."""

    def __init__(self, path):
        import onnxruntime
        self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def __call__(self, images):
        probabilities, = self._session.run(["probabilities"], {"images": np.stack(images)})
        return {"probabilities": probabilities}


RUNNERS = {"saved_model": SavedModel, "litert": LiteRt, "onnx": Onnx}


def _serve(kind, path):
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries print to stdout
    sys.modules["cct_tf"] = None  # importing it is an error, wherever it is installed
    run = RUNNERS[kind](path)
    while True:
        try:
            images = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump(run(images), sink)
        sink.flush()


if __name__ == "__main__":
    _serve(*sys.argv[1:])
