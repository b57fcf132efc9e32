"""LiteRT (TensorFlow Lite) files, for phones and small machines."""

import warnings

import tensorflow as tf

from cct_tf.export import network
from cct_tf.machine import runtime
from cct_tf.runs import export_metadata as metadata_lib

# Operations left in float32, since they are slow in int8 on CPUs, above all attention's products: CCT-7/3x1 takes 36 ms
# an image with all in int8, 9 with these in float32, 13 with all in float32. The others hold nearly all weights.
_FLOAT32 = ["MEAN", "SQUARED_DIFFERENCE", "RSQRT", "NEG", "MUL", "ADD", "SUB", "SOFTMAX", "BATCH_MATMUL",
            "LOGISTIC"]


def write(model, metadata, path, calibration=None):
    """Write a network as a flatbuffer, see `network.of_prepared_images`.

    Args:
        model: `models.classifier.TransformerClassifier`, float32, on one device.
        metadata: `metadata.Metadata`.
        path: pathlib.Path that ends in .tflite.
        calibration: uint8 [n, S, S, 3], images by which the ranges of int8 are chosen; None keeps float32.
    """
    # The second argument keeps the variables alive; without it the converter takes a deprecated path.
    converter = tf.lite.TFLiteConverter.from_concrete_functions([network.frozen(model, metadata)], model)
    with runtime.quiet_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path.write_bytes(converter.convert() if calibration is None else _quantized(converter, calibration))
    metadata_lib.add_to_zip(metadata, path, labels=True)


def _quantized(converter, calibration):
    """The flatbuffer with convolutions and products with weights in int8."""
    def images():
        return ([image[None]] for image in calibration)

    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = images
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8, tf.lite.OpsSet.TFLITE_BUILTINS]
    # The converter itself can't leave operations out; its debugger can, and it also gives models without debug outputs.
    options = tf.lite.experimental.QuantizationDebugOptions(denylisted_ops=_FLOAT32)
    debugger = tf.lite.experimental.QuantizationDebugger(converter=converter, debug_dataset=images,
                                                         debug_options=options)
    return debugger.get_nondebug_quantized_model()
