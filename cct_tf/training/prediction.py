"""What a trained network says of image files. The run's data set is not opened.

Legend: B batch, S side of the network's input, K classes, h w tokens of the image.
"""

import concurrent.futures
import dataclasses
import os

import numpy as np
import tensorflow as tf

from cct_tf import runtime
from cct_tf.data import decode, tree
from cct_tf.models.attention_maps import attention_maps
from cct_tf.training import setup
from cct_tf.training.forward import Forward


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What was found for one file.

    Attributes:
        path: as it was named.
        broken: None, or `decode.BrokenImage`; then there is nothing else.
        image: uint8 [S, S, 3], what the network saw.
        probabilities: float32 [K], softmax of the logits.
        maps: dict of float32 [h, w], see `attention_maps`; empty if they were not asked for.
    """

    path: str
    broken: decode.BrokenImage | None = None
    image: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    maps: dict = dataclasses.field(default_factory=dict)

    def top(self, count):
        """The `count` most probable classes, [(index, probability)]; of equal ones the first come first."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(int(index), float(self.probabilities[index])) for index in order]


class Predictor:
    """Predicts image files in batches, prepared as the evaluation prepares them.

    Args:
        model: `models.classifier.TransformerClassifier`.
        transform: `transform.Transform`.
        kind: "CPU" or "GPU", what the model runs on.
        batch_size: int B; the last batch is padded.
        with_maps: bool, attention maps too.

    Attributes:
        pools: bool, whether the network pools the sequence; else it has a class token.
    """

    def __init__(self, model, transform, kind, batch_size, with_maps=False):
        self._model, self._transform, self._with_maps = model, transform, with_maps
        self.pools = model.pooling is not None
        self._forward = Forward(model, kind)
        self._batch = np.zeros([batch_size, transform.size, transform.size, 3], np.uint8)
        self._fit = tf.function(transform.fit, input_signature=[tf.TensorSpec([1, None, None, 3], tf.uint8)])
        self._step = tf.function(self._of_batch, input_signature=[tf.TensorSpec(self._batch.shape, tf.uint8)],
                                 autograph=False)

    def __call__(self, paths):
        """Yields a list of `Prediction`s for each B paths, in order."""
        with concurrent.futures.ThreadPoolExecutor(runtime.num_threads()) as pool:
            for start in range(0, len(paths), len(self._batch)):
                chunk = paths[start:start + len(self._batch)]
                with runtime.quiet_stderr():  # libjpeg speaks of broken files
                    prepared = list(pool.map(self._prepare, chunk))
                yield self._predict(chunk, prepared)

    def _prepare(self, path):
        """uint8 [S, S, 3] of a file, or BrokenImage."""
        name = tree.shown(path)
        try:
            if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for
                raise decode.BrokenImage(f"broken image: {name}: expected a file")
            with tf.device("CPU:0"):  # where training's images are resized too: another device rounds otherwise
                return self._fit(decode.decode_file(decode.read_bytes(path), name)[None])[0].numpy()
        except decode.BrokenImage as error:
            return error

    def _predict(self, paths, prepared):
        read = [index for index, image in enumerate(prepared) if not isinstance(image, decode.BrokenImage)]
        found = [Prediction(path, broken=image) for path, image in zip(paths, prepared, strict=True)]
        if read:
            self._batch[:len(read)] = [prepared[index] for index in read]
            values = {name: value.numpy() for name, value in self._step(self._batch).items()}
            probabilities = values.pop("probabilities")
            for row, index in enumerate(read):
                maps = {name: value[row] for name, value in values.items()}
                found[index] = Prediction(paths[index], None, prepared[index], probabilities[row], maps)
        return found

    def _of_batch(self, images):
        images = self._transform.finish(images)
        found = {"probabilities": tf.nn.softmax(self._forward(images))}
        return found | attention_maps(self._model, images) if self._with_maps else found


def load(config, record, choose, weights, batch_size, with_maps):
    """The predictor of a checkpoint.

    Args:
        config: `config.Config` of the run.
        record: `run_record.Record` of the run.
        choose, weights: see `setup.load_model`.
        batch_size, with_maps: see `Predictor`.

    Returns:
        (Predictor, `setup.Loaded`).

    Raises:
        UserError: the checkpoint can't be read.
    """
    devices = runtime.make_devices(1)
    loaded = setup.load_model(config, len(record.resolved["classes"]), choose, weights)
    transform = setup.make_transform(config, setup.recorded_images(record.resolved), loaded.model)
    return Predictor(loaded.model, transform, devices.kind, batch_size, with_maps), loaded
