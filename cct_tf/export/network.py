"""The functions that are exported, of a float32 network on one device, traced without XLA.

Legend: B batch, H W image, S S height and width of the network's input, K classes.
"""

import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from cct_tf import sizes
from cct_tf.augment import image_ops
from cct_tf.policies import levels
from cct_tf.policies.rand_augment import mean_colour

OUTPUT = "probabilities"


def of_prepared_images(model, metadata):
    """tf.function of images of the network's size: uint8 [B, S, S, 3] -> {"probabilities": float32 [B, K]}.

    Args:
        model: `models.classifier.TransformerClassifier`, float32.
        metadata: `metadata.Metadata`.
    """
    def run(images):
        logits = model(image_ops.normalize(images, metadata.mean, metadata.std), training=False)
        return {OUTPUT: (tf.sigmoid if metadata.is_multilabel else tf.nn.softmax)(logits, name=OUTPUT)}

    return _traced(run, metadata.image_size, metadata.channels)


def of_raw_images(model, metadata):
    """tf.function of images of any size, which it prepares as the evaluation does.

    uint8 [B, H, W, 3] -> {"probabilities": float32 [B, K], "classes": string [B, K], "label": string [B]}; with
    "multilabel" instead of "label" "above": bool [B, K], the classes that reach their thresholds. Arguments as for
    `of_prepared_images`.
    """
    names, classify = tf.constant(metadata.classes), of_prepared_images(model, metadata)

    def run(images):
        images = image_ops.fit(images, metadata.image_size, metadata.fit, metadata.crop_pct, mean_colour(metadata.mean))
        found = classify(images if metadata.channels == 3 else levels.grey(images))
        if metadata.is_multilabel:
            said = {"above": found[OUTPUT] >= tf.constant(metadata.thresholds, tf.float32)}
        else:
            said = {"label": tf.gather(names, tf.argmax(found[OUTPUT], axis=1))}
        return found | {"classes": tf.tile(names[None], [tf.shape(images)[0], 1])} | said

    return _traced(run, None)


def _traced(run, size, channels=3):
    signature = [tf.TensorSpec([None, *sizes.sides(size), channels], tf.uint8, name="images")]
    return tf.function(run, input_signature=signature, autograph=False)


def frozen(model, metadata):
    """The concrete function of `of_prepared_images` with the weights as constants.

    A converter that is given variables may leave them uninitialised; the export then gives NaN, without an error.
    """
    return convert_variables_to_constants_v2(of_prepared_images(model, metadata).get_concrete_function())
