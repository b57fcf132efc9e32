"""Initial weights as a function of (seed, path of the variable) and of nothing else.

Not of the order in which layers are made, nor of how many models were made before: two models of the same name and seed
start equal, in one process or in two.
"""

import math

import tensorflow as tf

from cct_tf import rng
from cct_tf.machine.backend import keras

_TRUNCATED_STDDEV = 0.87962566103423978  # of a standard normal distribution cut at +-2


@keras.saving.register_keras_serializable("cct_tf")
class Keyed(keras.initializers.Initializer):
    """Draws a variable's initial values from a hash of the seed and the variable's path.

    Args:
        distribution: "normal" N(0, scale^2); "truncated_normal", the same redrawn beyond 2 scale; "uniform" on
            [-scale, scale).
        scale: see distribution.
        seed: the run's seed, a Python int.
        path: the variable's path in the model.
    """

    def __init__(self, distribution, scale, seed, path):
        if distribution not in ("normal", "truncated_normal", "uniform"):
            raise ValueError(f"distribution: expected normal, truncated_normal or uniform, found {distribution!r}")
        self.distribution = distribution
        self.scale = scale
        self.seed = seed
        self.path = path

    def __call__(self, shape, dtype=None):
        """Initial values of the given shape, drawn in float32 and cast, so that float64 models start equal."""
        # On the CPU: another device's logarithms and cosines may differ in the last bit.
        with tf.device("CPU:0"):
            key = rng.fold_pair(self.seed, rng.Stream.WEIGHTS, rng.name_hash(self.path))
            if self.distribution == "uniform":
                values = tf.random.stateless_uniform(shape, key, -1.0, 1.0, alg="philox")
            elif self.distribution == "normal":
                values = tf.random.stateless_normal(shape, key, alg="philox")
            else:
                values = tf.random.stateless_truncated_normal(shape, key, alg="philox")
            return tf.cast(values * self.scale, dtype or "float32")

    def get_config(self):
        return {"distribution": self.distribution, "scale": self.scale, "seed": self.seed, "path": self.path}


# Scheme -> kind of variable -> (fan in, fan out) -> (distribution, scale).
SCHEMES = {
    # SHI-Labs/Compact-Transformers. Its trunc_normal_ cuts at the absolute values +-2: 100 standard deviations of a
    # Linear and 10 of the positions, which no draw reaches, so these are plain normal distributions.
    "authors": {
        "conv": lambda fan_in, fan_out: ("normal", math.sqrt(2.0 / fan_in)),
        "linear": lambda fan_in, fan_out: ("normal", 0.02),
        "positions": lambda fan_in, fan_out: ("normal", 0.2),
    },
    # keras.io/examples/vision/cct: he_normal convolutions, Keras' default glorot_uniform elsewhere.
    "keras": {
        "conv": lambda fan_in, fan_out: ("truncated_normal", math.sqrt(2.0 / fan_in) / _TRUNCATED_STDDEV),
        "linear": lambda fan_in, fan_out: ("uniform", math.sqrt(6.0 / (fan_in + fan_out))),
        "positions": lambda fan_in, fan_out: ("uniform", math.sqrt(6.0 / (fan_in + fan_out))),
    },
    # The usual one for a plain ViT (arXiv:2010.11929 and its descendants).
    "vit": {
        "conv": lambda fan_in, fan_out: ("truncated_normal", math.sqrt(1.0 / fan_in) / _TRUNCATED_STDDEV),
        "linear": lambda fan_in, fan_out: ("truncated_normal", 0.02),
        "positions": lambda fan_in, fan_out: ("normal", 0.02),
    },
}


def keyed(scheme, kind, fans, seed, path):
    """The initializer of one variable.

    Args:
        scheme: "authors", "keras" or "vit"; "zeros" for a layer that starts at zero in a network of any of them.
        kind: "conv", "linear" or "positions".
        fans: (fan in, fan out).
        seed: the run's seed.
        path: the variable's path.

    Returns:
        Keyed, or of "zeros" keras.initializers.Zeros.

    Raises:
        ValueError: unknown scheme.
    """
    if scheme == "zeros":
        return keras.initializers.Zeros()
    if scheme not in SCHEMES:
        raise ValueError(f"initializer: expected one of {', '.join(SCHEMES)}, found {scheme!r}")
    return Keyed(*SCHEMES[scheme][kind](*fans), seed=seed, path=path)
