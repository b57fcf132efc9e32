"""Opens an export and runs it on images as they were decoded."""

import contextlib

import numpy as np
import tensorflow as tf

from cct_tf import sizes
from cct_tf.assembly import keras_file
from cct_tf.augment.transform import Transform
from cct_tf.errors import UserError
from cct_tf.export import network, running
from cct_tf.export.isolated import IsolatedRunner
from cct_tf.machine import own_code, runtime


class Export:
    """An export that takes images as they were decoded; stands in for `prediction.Network`.

    Args:
        runner: a class of `running`, made for the export, or an `isolated.IsolatedRunner`.
        metadata: `metadata.Metadata`.
        prepares: bool, whether the export itself resizes and crops images as the evaluation does.
    """

    def __init__(self, runner, metadata, prepares):
        self.metadata, self.bit_depth = metadata, metadata.bit_depth
        self._runner, self._prepares = runner, prepares
        transform = Transform(metadata.image_size, tuple(metadata.mean), tuple(metadata.std), metadata.crop_pct,
                              resampler=metadata.resampler, fit=metadata.fit,
                              pixel_type=metadata.pixel_type)
        self.pixel_type, self.shown = metadata.pixel_type, transform.shown
        signature = [tf.TensorSpec([1, None, None, metadata.channels], metadata.pixel_type.dtype)]
        self._fit = tf.function(transform.resize, input_signature=signature, autograph=False)

    def prepare(self, image):
        """[H, W, C] -> the same, or [S, S, C]."""
        if self._prepares:
            return image
        with tf.device("CPU:0"):
            return self._fit(image[None])[0].numpy()

    def __call__(self, images):
        """List of B images of `prepare` -> {"probabilities": float32 [B, K]}, and the export's other outputs."""
        return self._runner(images)


class _Keras:
    """Runner of a .keras file; it needs cct_tf, so it runs in this process. Call: as `running.LiteRt`."""

    def __init__(self, flag, path, metadata):
        if own_code.is_named(metadata.model):
            self._model = keras_file.load_own(path, metadata.model, flag.lstrip("-").partition("=")[0],
                                              len(metadata.classes), metadata.image_size, metadata.channels)
        else:
            self._model = keras_file.load(path)
        if self._model.image_size != metadata.image_size or self._model.num_classes != len(metadata.classes):
            raise UserError(f"{path}: expected the network that its {len(metadata.classes)} classes and "
                            f"{sizes.shown(metadata.image_size)} pixels belong to, found another")
        self._function = network.of_prepared_images(self._model, metadata)

    def __call__(self, images):
        return {name: value.numpy() for name, value in self._function(np.stack(images)).items()}


def _tried(flag, path, kind, metadata):
    """The runner of an export, tried on one black image."""
    try:
        runner = running.RUNNERS[kind.name](str(path))
        black = np.zeros([*sizes.sides(metadata.image_size), metadata.channels], metadata.pixel_type.dtype)
        found = runner([black])["probabilities"].shape
        if found != (1, len(metadata.classes)):
            raise ValueError(f"probabilities {list(found)} for {len(metadata.classes)} classes")
    except Exception as error:  # each library raises its own
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{flag}: expected an export that can be run, found {str(path)!r} ({reason})") from None
    return runner


@contextlib.contextmanager
def opened(flag, path, kind, metadata, isolated=False):
    """Context manager of the Export of a file or folder.

    Args:
        flag: the flag that names it, with dashes.
        path: pathlib.Path.
        kind: `formats.Format` of it.
        metadata: `metadata.Metadata` of it.
        isolated: whether it runs in a process of its own without cct_tf; a .keras file never does.

    Raises:
        UserError: it can't be run. If isolated, the first call raises `isolated.Broken` instead.
    """
    with contextlib.ExitStack() as stack:
        if kind.name == "keras":
            runner = _Keras(flag, path, metadata)
        elif isolated:
            runner = stack.enter_context(IsolatedRunner(kind, path))
        else:
            with runtime.quiet_stderr():  # LiteRT reports its delegate
                runner = _tried(flag, path, kind, metadata)
        yield Export(runner, metadata, prepares=kind.name == "saved_model")
