"""What a run shows of its network on images of the evaluated split: attention maps, and the pooled features.

Legend: n images of the sample, S side of the network's input, D width of the features, K classes.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from cct_tf.data import pipeline
from cct_tf.data.source import Windowed
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
        self._split, self._transform, self._class_names = split, transform, class_names
        self._shown = None

    def attention(self, model):
        """A picture, images beside the maps of `attention_maps`; uint8 [H, W, 3]."""
        if self._shown is None:
            self._shown = next(self._batches(_SHOWN))
        images, classes = self._shown
        maps = {name: values.numpy() for name, values in attention_maps(model, images).items()}
        names = fonts.readable(self._class_names)
        captions = [names[label] for label in classes]
        return plots.as_array(plots.attention_figure(self._pixels(images), maps, captions, model.pooling is not None))

    def write_features(self, model, folder):
        """Files of the pooled features for TensorBoard's projector, into the folder of an event file."""
        features, labels, predictions, pixels = [], [], [], []
        for images, classes in self._batches(_MOST_FEATURES):
            found = model.features(images, training=False)
            features.append(tf.cast(found, tf.float32).numpy())
            predictions += np.argmax(model.head(found), axis=1).tolist()
            labels += classes
            pixels.append(projector.reduced(self._pixels(images)))
        columns = {"class": [self._class_names[label] for label in labels],
                   "predicted": [self._class_names[label] for label in predictions]}
        projector.write(folder, np.concatenate(features), columns, np.concatenate(pixels))

    def _pixels(self, images):
        """float32 [n, S, S, 3], normalised -> uint8."""
        return np.rint(255.0 * self._transform.unfinish(images)).astype(np.uint8)

    def _batches(self, count):
        """Yields (float32 [b, S, S, 3], list of b classes), `count` images or all of them."""
        sample = _spread(self._split, count)
        left = min(count, sample.num_examples)
        with tf.device("CPU:0"):
            batches = pipeline.evaluation_batches(sample, self._transform, num_classes=len(self._class_names),
                                                  batch_size=min(_BATCH, left))
        for batch in batches:
            images, labels = batch["image"][:left], np.argmax(batch["label"][:left], axis=1).tolist()
            yield images, labels
            left -= len(labels)
            if not left:
                return


def _spread(split, count):
    """A split of `count` of the images, evenly spread; a streamed one as it is, of which the first are taken."""
    if isinstance(split.reader, Windowed) or split.num_examples <= count:
        return split
    rows = np.arange(count) * split.num_examples // count
    reader = dataclasses.replace(split.reader, indices=split.reader.indices[rows])
    return dataclasses.replace(split, reader=reader, num_examples=count, labels=split.labels[rows])
