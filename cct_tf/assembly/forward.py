"""Logits of a batch, in evaluation and of teachers, in pieces that fit into the cache of a CPU."""

import tensorflow as tf

from cct_tf.assembly import tuning


class Forward:
    """Stands in for a model in evaluation.

    Args:
        model: `models.classifier.TransformerClassifier`, or `models.own.OwnNetwork`.
        kind: "CPU" or "GPU".
        jit: one of `tuning.JIT`, as in training; with "encoder", a network without one is not compiled, nor one that
            computes in bfloat16 on a CPU.

    Attributes:
        image_size: of the model, see `cct_tf.sizes`.
    """

    def __init__(self, model, kind, jit="off"):
        self.image_size = model.image_size
        self._model = model
        self._kind = kind
        if jit == "encoder" and (model.variant is None or (kind == "CPU" and model.compute_dtype == "bfloat16")):
            jit = "off"  # only training calls the products that make programs for CPUs fast in bfloat16
        compiled = tf.function(self._plain, jit_compile=True, autograph=False)
        self._function = {"off": self._plain, "encoder": self._split, "all": compiled}[jit]
        self._classify = tf.function(lambda tokens: model.classify(tokens, training=False), jit_compile=True,
                                     autograph=False)

    def __call__(self, images, training=False):
        """float32 [b, S, S, 3], b static, a replica's -> float32 [b, K]."""
        del training  # never
        count, variant = images.shape[0], self._model.variant
        most = count if variant is None or self._kind == "GPU" else tuning.cached_images(variant)
        if count <= most:
            return self._function(images)
        pieces = -(-count // most)
        images = tf.pad(images, [[0, -count % pieces], [0, 0], [0, 0], [0, 0]])
        parts = tf.reshape(images, [pieces, -1, *images.shape[1:]])
        logits = tf.map_fn(self._function, parts, fn_output_signature=tf.float32, parallel_iterations=1)
        return tf.reshape(logits, [images.shape[0], -1])[:count]

    def _plain(self, images):
        return self._model(images, training=False)

    def _split(self, images):
        return self._classify(self._model.tokenizer(images))
