"""ONNX files, by tf2onnx."""

import json
import logging

import onnx
import tf2onnx

from cct_tf.export import network
from cct_tf.machine import runtime
from cct_tf.runs import export_metadata as metadata_lib

OPSET = 18  # the newest that tf2onnx 1.17 writes


def write(model, metadata, path):
    """Write a network as an ONNX graph, see `network.of_prepared_images`.

    tf2onnx leaves an operation that it does not know in the file and only logs it; `check` finds out whether the file
    can be run.

    Args:
        model: `models.classifier.TransformerClassifier`, float32, on one device.
        metadata: `metadata.Metadata`.
        path: pathlib.Path that ends in .onnx.
    """
    function = network.of_prepared_images(model, metadata)
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
    with runtime.quiet_stderr():
        found, _ = tf2onnx.convert.from_function(function, function.input_signature, opset=OPSET)
    for value in (*found.graph.input, *found.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.helper.set_model_props(found, {metadata_lib.KEY: metadata.as_json(), "classes": json.dumps(metadata.classes)})
    onnx.save(found, path)
