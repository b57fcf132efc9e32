"""The trained networks that --teacher names: found and judged without TensorFlow, then loaded.

A teacher sees the images of the student, augmented and mixed, normalised by its own mean and deviation and brought to
its own size. It runs as in evaluation.
"""

import os
import zlib

import numpy as np

from cct_tf import sizes
from cct_tf.assembly import selection
from cct_tf.errors import UserError
from cct_tf.runs import run_record
from cct_tf.runs.workdir import Workdir


def find(config):
    """The checkpoints of the teachers.

    Args:
        config: `config.Config` of the student.

    Returns:
        tuple of `selection.Selection`, empty without --teacher.

    Raises:
        UserError: there is none, it can't be read, or its images are of another kind.
    """
    names = config.distill.teacher.split(",") if config.distill.teacher else ()
    return tuple(_selected(os.path.expanduser(name), config) for name in names)


def _selected(name, config):
    checkpoint = name if run_record.step_of(name) is not None else "best"
    if not os.path.isdir(name) or checkpoint == "best" and not run_record.list_checkpoints(Workdir(name).best):
        raise UserError("--teacher: expected a work folder with a best checkpoint, or a checkpoint folder (step_...), "
                        f"found neither at {name!r}")
    found = selection.select(name, checkpoint, workdir_flag="--teacher", checkpoint_flag="--teacher")
    for flag in ("task", "channels", "bits"):
        theirs, ours = found.settings.value(flag), config.value(flag)
        if theirs != ours:
            raise UserError(f"--teacher: expected one trained with --{flag}={ours}, as this run, found {name} with "
                            f"{theirs}")
    return found


def load(found, images):
    """Load the teachers; call it under the strategy's scope.

    Args:
        found: of `find`.
        images: `inputs.Images` of the student, whose classes are the teachers' too.

    Returns:
        list of (function of images float32 [m, S, S, C], normalised for the student -> logits float32 [m, K] in the
        order of its classes; CRC-32 of the teacher's weights, eight hex digits).

    Raises:
        UserError: a teacher of other classes, or one that can't be read.
    """
    return [_loaded(each, images) for each in found]


def _loaded(selected, images):
    import tensorflow as tf

    from cct_tf.assembly import networks
    resolved, classes = selected.record.resolved, images.source.class_names
    if sorted(resolved.classes) != sorted(classes):
        odd = sorted(set(resolved.classes) ^ set(classes))
        raise UserError(f"--teacher: expected the {len(classes)} classes of this run, found {len(resolved.classes)} in "
                        f"{selected.path} ({', '.join(odd[:3])} only in one of them)")
    model = networks.load_model(selected.settings, resolved.num_classes, selected.find, flag="--teacher").model
    order = [resolved.classes.index(name) for name in classes]
    std = np.array(resolved.std)
    scale, shift = np.array(images.std) / std, (np.array(images.mean) - np.array(resolved.mean)) / std

    def run(images):
        if (scale != 1.0).any() or (shift != 0.0).any():
            images = images * tf.constant(scale, tf.float32) + tf.constant(shift, tf.float32)
        if tuple(images.shape[1:3]) != sizes.sides(model.image_size):
            images = tf.image.resize(images, sizes.sides(model.image_size), antialias=True)
        logits = tf.cast(model(images, training=False), tf.float32)
        return logits if order == sorted(order) else tf.gather(logits, order, axis=1)

    return run, _checksum(model)


def _checksum(model):
    crc = 0
    for variable in model.weights:
        crc = zlib.crc32(variable.numpy().tobytes(), crc)
    return f"{crc:08x}"


def check_same(before, now, accept, peers):
    """Refuse other teachers than those of the run's checkpoint, or of worker 0.

    Args:
        before: `resolved.Resolved` of the checkpoint, or None.
        now: list of checksums.
        accept: bool, --accept_config_change.
        peers: `peers.Group`.
    """
    expected, *others = peers.exchange(now)
    for index, found in enumerate(others, 1):
        if found != expected:
            raise UserError(f"--teacher: expected the weights of worker 0 ({', '.join(expected) or 'none'}) on every "
                            f"worker, found {', '.join(found) or 'none'} on worker {index}")
    recorded = before and list(before.teachers or ())
    if before is not None and recorded != now and not accept:
        raise UserError(f"--teacher: expected the weights that this run learns from ({', '.join(recorded) or 'none'}), "
                        f"found {', '.join(now) or 'none'}; --accept_config_change goes on with these")
