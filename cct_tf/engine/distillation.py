"""What a student is told by its teachers, one value per example. B batch, K classes.

    soft    T^2 KL(teachers || student), both at the temperature T (arXiv:1503.02531 Section 2)
    hard    cross-entropy of the class that the teachers place first (arXiv:2012.12877 Section 3)

The loss of an example is the run's own plus `weight` times this. Several teachers speak by the mean of their
probabilities. With `standardize` the logits of each network are brought to mean 0 and deviation 1 before (Logit
Standardization in Knowledge Distillation, arXiv:2403.01427 Eq. 12).
"""

import dataclasses

import tensorflow as tf

_EPSILON = 1e-7  # the authors' of arXiv:2403.01427


def standardized(logits):
    """Logits with mean 0 and deviation 1 over the classes, the unbiased one: float32 [B, K] -> the same."""
    centred = logits - tf.reduce_mean(logits, axis=1, keepdims=True)
    variance = tf.reduce_sum(centred**2, axis=1, keepdims=True) / (logits.shape[1] - 1)
    # Not the root itself, whose gradient at 0 is infinite: of equal logits it would be NaN.
    deviation = tf.where(variance > 0, tf.sqrt(tf.where(variance > 0, variance, 1.0)), 0.0)
    return centred / (deviation + _EPSILON)


@dataclasses.dataclass(frozen=True)
class Distillation:
    """How teachers' logits become a part of the loss.

    Attributes:
        kind: "soft" or "hard".
        weight: float, what the part is multiplied by.
        temperature: float T of "soft".
        standardize: bool.
    """

    kind: str = "soft"
    weight: float = 1.0
    temperature: float = 1.0
    standardize: bool = False

    def targets(self, teachers):
        """What the teachers say of a batch: list of float32 [B, K], logits -> float32 [B, K], probabilities.

        With "hard" they are 1 for one class, the lower of two that are equal, and 0 for the others.
        """
        softened = [tf.nn.softmax(self._scaled(logits)) for logits in teachers]
        mean = tf.add_n(softened) / len(softened)
        if self.kind == "hard":
            return tf.one_hot(tf.argmax(mean, axis=1), mean.shape[1])
        return mean

    def loss(self, targets, logits):
        """The part of the loss, `weight` included: targets float32 [B, K], student's logits float32 [B, K] -> [B]."""
        if self.kind == "hard":
            return -self.weight * tf.reduce_sum(targets * tf.nn.log_softmax(logits), axis=1)
        cross = -tf.reduce_sum(targets * tf.nn.log_softmax(self._scaled(logits)), axis=1)
        entropy = -tf.reduce_sum(tf.math.xlogy(targets, targets), axis=1)
        return self.weight * self.temperature**2 * (cross - entropy)

    def _scaled(self, logits):
        if self.kind == "hard":
            return logits
        return (standardized(logits) if self.standardize else logits) / self.temperature


class Teachers:
    """The teachers of a run, called with the images that the student gets.

    Args:
        distillation: Distillation.
        networks: list of functions of images float32 [m, S, S, C], as the student takes them -> logits float32 [m, K].
            They read variables of their own, made under the run's strategy.

    Call: images -> targets float32 [m, K], without a gradient.
    """

    def __init__(self, distillation, networks):
        self.distillation, self._networks = distillation, networks

    def __call__(self, images):
        return tf.stop_gradient(self.distillation.targets([network(images) for network in self._networks]))
