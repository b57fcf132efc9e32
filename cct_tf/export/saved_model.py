"""SavedModel: what TensorFlow Serving loads. Images of any size in, prepared inside."""

import tensorflow as tf

from cct_tf.export import network
from cct_tf.runs import export_metadata as metadata_lib


def write(model, metadata, path):
    """Write a network as a SavedModel with the signature `serving_default`, see `network.of_raw_images`.

    Args:
        model: `models.classifier.TransformerClassifier`, float32, on one device.
        metadata: `metadata.Metadata`.
        path: pathlib.Path of a folder, which is made.
    """
    function = network.of_raw_images(model, metadata)
    module = tf.Module()
    # The function's variables are enough. With the whole model, its Python methods would be traced and saved too.
    module.weights = [variable.value for variable in model.variables]
    tf.saved_model.save(module, str(path), signatures={"serving_default": function.get_concrete_function()})
    folder = path / "assets.extra"
    folder.mkdir()
    (folder / metadata_lib.NAME).write_text(metadata.as_json(), encoding="utf-8")
