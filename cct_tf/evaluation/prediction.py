"""Predictions of a trained network for images. The run's data set is not opened.

Legend: B batch, S S height and width of the network's input, K classes, h w tokens of the image.
"""

import concurrent.futures
import dataclasses
import os

import numpy as np
import tensorflow as tf

from cct_tf import sizes
from cct_tf.assembly import inputs, networks
from cct_tf.assembly.forward import Forward
from cct_tf.data.source import rules_of
from cct_tf.datasets import tree
from cct_tf.images import decode
from cct_tf.machine import files, runtime
from cct_tf.models.attention_maps import attention_maps


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The prediction for one image.

    Attributes:
        path: as it was named; None of an image that was given as an array.
        broken: None, or `decode.BrokenImage`; then the fields below are empty.
        image: uint8 [S, S, 3], what the network got, as `Transform.shown` shows it.
        probabilities: float32 [K], softmax of the logits; the sigmoid of each where an image may have several classes.
        maps: dict of float32 [h, w], see `attention_maps`; empty if they were not asked for.
    """

    path: str
    broken: decode.BrokenImage | None = None
    image: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    maps: dict = dataclasses.field(default_factory=dict)

    def top(self, count):
        """The `count` most probable classes, [(index, probability)]; of equal ones, the lower index first."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(int(index), float(self.probabilities[index])) for index in order]

    def above(self, thresholds):
        """The classes that reach their thresholds (K floats), as of `top`."""
        return [(index, share) for index, share in self.top(len(thresholds)) if share >= thresholds[index]]


class Network:
    """A trained network that takes images as they were decoded, and prepares them as the evaluation does.

    Args:
        model: `models.classifier.TransformerClassifier`; or, without maps, `models.own.OwnNetwork`.
        transform: `transform.Transform`, which knows too whether an image may have several classes.
        kind: "CPU" or "GPU", what the model runs on.
        batch_size: int B, most images in a call; fewer are padded.
        with_maps: bool, whether to compute attention maps too.
        bit_depth: int, of the images of its data set, see `decode`.

    Attributes:
        pixel_type: `pixel_type.PixelType` of the images.
        pools: bool, with maps whether the network pools the sequence; if not, it has a class token.

    Call: list of at most B images [S, S, C], of `prepare` -> {"probabilities": float32 [b, K]}, and the maps.
    """

    def __init__(self, model, transform, kind, batch_size, with_maps=False, bit_depth=16):
        self._model, self._transform, self._with_maps = model, transform, with_maps
        self.pools, self.bit_depth = with_maps and model.pooling is not None, bit_depth
        self._forward = Forward(model, kind)
        self.pixel_type = kind_of_pixels = transform.pixel_type
        channels, dtype = kind_of_pixels.channels, kind_of_pixels.dtype
        self._batch = np.zeros([batch_size, *sizes.sides(transform.size), channels], dtype)
        self._fit = tf.function(transform.resize, input_signature=[tf.TensorSpec([1, None, None, channels], dtype)],
                                autograph=False)
        self._step = tf.function(self._of_batch, input_signature=[tf.TensorSpec(self._batch.shape, dtype)],
                                 autograph=False)

    def shown(self, image):
        """An image of `prepare` as a person sees it."""
        return self._transform.shown(image)

    def prepare(self, image):
        """Pixels of its type, [H, W, C] -> [S, S, C]."""
        with tf.device("CPU:0"):  # where training's images are resized too: another device rounds otherwise
            return self._fit(image[None])[0].numpy()

    def __call__(self, images):
        self._batch[:len(images)] = images
        return {name: value.numpy()[:len(images)] for name, value in self._step(self._batch).items()}

    def _of_batch(self, images):
        images = self._transform.finish(images)
        chances = tf.sigmoid if self._transform.multilabel else tf.nn.softmax
        found = {"probabilities": chances(self._forward(images))}
        return found | attention_maps(self._model, images) if self._with_maps else found


def read_image(path, bit_depth, pixel_type):
    """The pixels of a file, [H, W, C]; the other arguments as of `decode`. Raises `decode.BrokenImage`."""
    name = tree.shown(path)
    if not files.is_remote(path) and os.path.exists(path) and not os.path.isfile(path):  # opening a pipe would block
        raise decode.BrokenImage(f"broken image: {name}: expected a file")
    return decode.decode_file(decode.read_bytes(path), name, bit_depth, pixel_type)


class Predictor:
    """Predicts images in batches.

    Args:
        network: `Network`, or what has its `prepare`, `shown`, `bit_depth` and `pixel_type`, and is called like it.
        batch_size: int B.
    """

    def __init__(self, network, batch_size):
        self.network, self._batch_size = network, batch_size

    def __call__(self, images):
        """Yields a list of `Prediction`s for each B images, in order.

        Args:
            images: sequence of paths, and of NumPy arrays [H, W, C] as `decode` gives them.
        """
        with concurrent.futures.ThreadPoolExecutor(runtime.num_threads()) as pool:
            for start in range(0, len(images), self._batch_size):
                chunk = images[start:start + self._batch_size]
                with runtime.quiet_stderr():  # libjpeg speaks of broken files
                    prepared = list(pool.map(self._prepare, chunk))
                yield self._predict(chunk, prepared)

    def _prepare(self, image):
        """The prepared image of a file or an array, or BrokenImage."""
        try:
            if not isinstance(image, np.ndarray):
                image = read_image(image, self.network.bit_depth, self.network.pixel_type)
            return self.network.prepare(image)
        except decode.BrokenImage as error:
            return error

    def _predict(self, images, prepared):
        paths = [None if isinstance(image, np.ndarray) else image for image in images]
        read = [index for index, image in enumerate(prepared) if not isinstance(image, decode.BrokenImage)]
        found = [Prediction(path, broken=image) for path, image in zip(paths, prepared, strict=True)]
        if read:
            values = dict(self.network([prepared[index] for index in read]))
            probabilities = values.pop("probabilities")
            for row, index in enumerate(read):
                maps = {name: value[row] for name, value in values.items()}
                found[index] = Prediction(paths[index], None, self.network.shown(prepared[index]),
                                          probabilities[row], maps)
        return found


def load(config, record, choose, weights, batch_size, with_maps):
    """The network of a checkpoint.

    Args:
        config: `config.Config` of the run.
        record: `run_record.Record` of the run.
        choose, weights: see `networks.load_model`.
        batch_size, with_maps: see `Network`.

    Returns:
        (Network, `networks.Loaded`).

    Raises:
        UserError: the checkpoint can't be read.
    """
    devices = runtime.make_devices(1)
    loaded = networks.load_model(config, record.resolved.num_classes, choose, weights)
    transform = inputs.make_transform(config, inputs.recorded_images(record.resolved), loaded.model)
    bit_depth = rules_of(record.resolved).bit_depth
    return Network(loaded.model, transform, devices.kind, batch_size, with_maps, bit_depth), loaded
