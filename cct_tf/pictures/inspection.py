"""What a run shows of its network on images of the evaluated split: attention maps, and the pooled features.

Legend: n images of the sample, S S height and width of the network's input, D width of the features, K classes.
"""

import numpy as np
import tensorflow as tf

from cct_tf.augment.stages import on_device
from cct_tf.data import label_kinds, pipeline
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
        self._as_seen = transform.shown
        self._stages, self._several = transform.evaluation_stages(len(class_names)), transform.multilabel
        self._shown = None

    def pictures(self, model):
        """For TensorBoard, {tag: uint8 [height, width, 3]}: none of a network of a user's own."""
        return {} if model.variant is None else {"eval/pooling_attention": self.attention(model)}

    def attention(self, model):
        """A picture, images beside the maps of `attention_maps`; uint8 [H, W, 3]."""
        if self._shown is None:
            self._shown = next(self._batches(_SHOWN))
        images, pixels, classes = self._shown
        maps = {name: values.numpy() for name, values in attention_maps(model, images).items()}
        names = fonts.readable(self._class_names)
        captions = [_joined(label, names) for label in classes]
        return plots.as_array(plots.attention_figure(pixels, maps, captions, model.pooling is not None))

    def write_features(self, model, folder):
        """Files of the pooled features for TensorBoard's projector, into the folder of an event file.

        None of a network of a user's own, of which only the logits are known.
        """
        if model.variant is None:
            return
        features, labels, predictions, pixels = [], [], [], []
        for images, shown, classes in self._batches(_MOST_FEATURES):
            found = model.features(images, training=False)
            features.append(tf.cast(found, tf.float32).numpy())
            logits = model.head(found)
            predictions += list(np.asarray(logits) > 0) if self._several else np.argmax(logits, axis=1).tolist()
            labels += classes
            pixels.append(projector.reduced(shown))
        columns = {title: [_joined(label, self._class_names) for label in found]
                   for title, found in (("class", labels), ("predicted", predictions))}
        projector.write(folder, np.concatenate(features), columns, np.concatenate(pixels))

    def _batches(self, count):
        """Yields (float32 [b, S, S, C], uint8 of `Transform.shown`, list of b labels), `count` images or all of them.

        A label is an int, or float32 [K] where an image may have several.
        """
        sample = self._split.select(self._split.reader.spread(count))
        left = sample.num_examples
        with tf.device("CPU:0"):
            batches = pipeline.evaluation_batches(sample, self._stages, batch_size=min(_BATCH, left))
        for batch in batches:
            labels = batch["label"][:left].numpy()
            labels = list(labels) if self._several else np.argmax(labels, axis=1).tolist()
            shown = self._as_seen(batch["image"][:left].numpy())
            yield on_device(batch, self._stages)[:left], shown, labels
            left -= len(labels)
            if not left:
                return


def _joined(label, class_names):
    """The classes of an image in words, see `label_kinds.names`."""
    return ", ".join(label_kinds.names(label, class_names)) or "none"
