"""Test-time augmentation: a network's answer, averaged over views of each image.

Views are moved and mirrored copies. A view takes row rows[i] and column columns[j] of the image for its pixel (i, j),
so edge pixels repeat where it was moved, and all views are the same computation with other numbers: one trace, and
the memory of one view.
"""

import numpy as np
import tensorflow as tf

from cct_tf import sizes


def views(kind, size, shift=1):
    """The views of an image.

    Args:
        kind: "flip": the image and its mirror image; "shifts": both, each also moved up and left, and down and right.
        size: of the image, see `cct_tf.sizes`.
        shift: int, pixels of the moves.

    Returns:
        (rows, columns), int64 [V, height] and [V, width]; V is 2 or 6.
    """
    height, width = sizes.sides(size)
    moves = {"flip": (0,), "shifts": (0, shift, -shift)}[kind]
    down, across = ([np.clip(np.arange(side) + move, 0, side - 1) for move in moves] for side in (height, width))
    # A mirrored view is moved after it was mirrored.
    return (np.stack(down * 2).astype(np.int64),
            np.stack(across + [width - 1 - place for place in across]).astype(np.int64))


class AveragedViews:
    """Stands in for a model in evaluation: images -> logits of the probabilities' mean over the views.

    Args:
        model: keras.Model or `forward.Forward`, images [B, S, S, 3] -> logits [B, K].
        kind, shift: see `views`.
        multilabel: whether the probability of each class is that of its own sigmoid; else they are a softmax's.
    """

    def __init__(self, model, kind, shift=1, multilabel=False):
        self._model, self._multilabel = model, multilabel
        self._rows, self._columns = views(kind, model.image_size, shift)

    @property
    def num_views(self):
        return len(self._rows)

    def __call__(self, images, training=False):
        """float32 [B, S, S, 3] -> float32 [B, K]. Softmax, or sigmoid, of it gives the averaged probabilities back."""
        def look(view):
            rows, columns = view
            seen = tf.gather(tf.gather(images, rows, axis=1), columns, axis=2)
            logits = tf.cast(self._model(seen, training=training), tf.float32)
            if self._multilabel:  # of yes and of no, less one another at the end
                return tf.stack([tf.math.log_sigmoid(logits), tf.math.log_sigmoid(-logits)])
            return tf.nn.log_softmax(logits)

        logs = tf.map_fn(look, (self._rows, self._columns), fn_output_signature=tf.float32, parallel_iterations=1)
        means = tf.reduce_logsumexp(logs, axis=0) - float(np.log(self.num_views))  # [V, ..., B, K] -> [..., B, K]
        return means[0] - means[1] if self._multilabel else means
