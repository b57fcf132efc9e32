"""What a run shows of its network on images of the evaluated split: attention maps, and the pooled features.

Legend: n images of the sample, S side of the network's input, D width of the features, K classes.
"""

import numpy as np
import tensorflow as tf

from cct_tf.augment.stages import on_device
from cct_tf.data import pipeline
from cct_tf.models.attention_maps import attention_maps
from cct_tf.pictures import fonts, plots, projector

_SHOWN = 6  # images with their maps: a page of TensorBoard
_MOST_FEATURES = 2000  # points that the projector's t-SNE still moves
_BATCH = 50


class Inspection:
    """Looks at networks of one run, always on the same images, spread evenly over the split.

    Args:
        split: `source.Split`.
        transform: `transform.Transform`.
        class_names: sequence of K strings.
    """

    def __init__(self, split, transform, class_names):
        self._split, self._class_names = split, class_names
        self._stages = transform.evaluation_stages(len(class_names))
        self._shown = None

    def attention(self, model):
        """A picture, images beside the maps of `attention_maps`; uint8 [H, W, 3]."""
        if self._shown is None:
            self._shown = next(self._batches(_SHOWN))
        images, pixels, classes = self._shown
        maps = {name: values.numpy() for name, values in attention_maps(model, images).items()}
        names = fonts.readable(self._class_names)
        captions = [names[label] for label in classes]
        return plots.as_array(plots.attention_figure(pixels, maps, captions, model.pooling is not None))

    def write_features(self, model, folder):
        """Files of the pooled features for TensorBoard's projector, into the folder of an event file."""
        features, labels, predictions, pixels = [], [], [], []
        for images, shown, classes in self._batches(_MOST_FEATURES):
            found = model.features(images, training=False)
            features.append(tf.cast(found, tf.float32).numpy())
            predictions += np.argmax(model.head(found), axis=1).tolist()
            labels += classes
            pixels.append(projector.reduced(shown))
        columns = {"class": [self._class_names[label] for label in labels],
                   "predicted": [self._class_names[label] for label in predictions]}
        projector.write(folder, np.concatenate(features), columns, np.concatenate(pixels))

    def _batches(self, count):
        """Yields (float32 [b, S, S, 3], uint8 [b, S, S, 3], list of b classes), `count` images or all of them."""
        sample = self._split.select(self._split.reader.spread(count))
        left = sample.num_examples
        with tf.device("CPU:0"):
            batches = pipeline.evaluation_batches(sample, self._stages, batch_size=min(_BATCH, left))
        for batch in batches:
            labels = np.argmax(batch["label"][:left], axis=1).tolist()
            yield on_device(batch, self._stages)[:left], batch["image"][:left].numpy(), labels
            left -= len(labels)
            if not left:
                return
