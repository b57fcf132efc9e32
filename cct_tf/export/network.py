"""The functions that are exported, of a float32 network on one device, traced without XLA.

Legend: B batch, H W image, S S height and width of the network's input, C channels, K classes. Images are uint8, or
uint16 of a run with --bits=16.
"""

import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from cct_tf import sizes
from cct_tf.augment import image_ops
from cct_tf.policies.rand_augment import mean_levels

OUTPUT = "probabilities"


def of_prepared_images(model, metadata):
    """tf.function of images of the network's size: [B, S, S, C] -> {"probabilities": float32 [B, K]}.

    Args:
        model: `models.classifier.TransformerClassifier`, float32.
        metadata: `metadata.Metadata`.
    """
    def run(images):
        logits = model(image_ops.normalize(images, metadata.mean, metadata.std), training=False)
        return {OUTPUT: (tf.sigmoid if metadata.is_multilabel else tf.nn.softmax)(logits, name=OUTPUT)}

    return _traced(run, metadata.image_size, metadata.pixel_type)


def of_raw_images(model, metadata):
    """tf.function of images of any size, which it prepares as the evaluation does.

    [B, H, W, C] -> {"probabilities": float32 [B, K], "classes": string [B, K], "label": string [B]}; with
    "multilabel" instead of "label" "above": bool [B, K], the classes that reach their thresholds. Arguments as for
    `of_prepared_images`.
    """
    names, classify = tf.constant(metadata.classes), of_prepared_images(model, metadata)

    def run(images):
        fill = mean_levels(metadata.mean, metadata.pixel_type)
        found = classify(image_ops.fit(images, metadata.image_size, metadata.fit, metadata.crop_pct, fill))
        if metadata.is_multilabel:
            said = {"above": found[OUTPUT] >= tf.constant(metadata.thresholds, tf.float32)}
        else:
            said = {"label": tf.gather(names, tf.argmax(found[OUTPUT], axis=1))}
        return found | {"classes": tf.tile(names[None], [tf.shape(images)[0], 1])} | said

    return _traced(run, None, metadata.pixel_type)


def _traced(run, size, pixel_type):
    shape = [None, *sizes.sides(size), pixel_type.channels]
    signature = [tf.TensorSpec(shape, pixel_type.dtype, name="images")]
    return tf.function(run, input_signature=signature, autograph=False)


def frozen(model, metadata):
    """The concrete function of `of_prepared_images` with the weights as constants.

    A converter that is given variables may leave them uninitialised; the export then gives NaN, without an error.
    """
    return convert_variables_to_constants_v2(of_prepared_images(model, metadata).get_concrete_function())
