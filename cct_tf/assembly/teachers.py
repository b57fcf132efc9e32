"""The trained networks that --teacher names: found and judged without TensorFlow, then loaded.

A teacher sees the images of the student, augmented and mixed, normalised by its own mean and deviation and brought to
its own size. It runs as in evaluation.
"""

import collections.abc
import dataclasses
import os
import zlib

import numpy as np

from cct_tf import sizes
from cct_tf.assembly import selection, teacher_files
from cct_tf.errors import UserError
from cct_tf.runs import run_record
from cct_tf.runs.workdir import Workdir


def find(config):
    """The teachers of a run.

    Args:
        config: `config.Config` of the student.

    Returns:
        tuple of `teacher_files.Teacher`, empty without --teacher; each knows its mean and deviation.

    Raises:
        UserError: there is none, it can't be read, its images are of another kind, or their mean and deviation are not
            known.
    """
    distill = config.distill
    names = distill.teacher.split(",") if distill.teacher else ()
    found = tuple(_found(os.path.expanduser(name), config) for name in names)
    silent = [teacher.path for teacher in found if teacher.mean is None]
    if silent and distill.teacher_mean is None:
        raise UserError("--teacher_mean: expected it and --teacher_std, by which the pixels that the network was "
                        f"trained on were normalised, for {silent[0]} does not hold them, found none")
    if found and not silent and distill.teacher_mean is not None:
        raise UserError(f"--teacher_mean: expected none for {distill.teacher}, where mean and deviation are recorded, "
                        f"found {','.join(f'{value:g}' for value in distill.teacher_mean)}")
    return tuple(teacher if teacher.mean is not None else
                 dataclasses.replace(teacher, mean=distill.teacher_mean, std=distill.teacher_std) for teacher in found)


def _found(name, config):
    if os.path.isdir(name) and not os.path.isfile(os.path.join(name, "saved_model.pb")):
        return _in_run(name, config)
    if os.path.exists(name):
        return teacher_files.find(name, config)
    raise UserError("--teacher: expected a work folder, a checkpoint folder (step_...), a .keras, .pth or .safetensors "
                    f"file, or the folder of a SavedModel, found nothing at {name!r}")


def _in_run(name, config):
    checkpoint = name if run_record.step_of(name) is not None else "best"
    if checkpoint == "best" and not run_record.list_checkpoints(Workdir(name).best):
        raise UserError("--teacher: expected a work folder with a best checkpoint, or a checkpoint folder (step_...), "
                        f"found neither at {name!r}")
    found = selection.select(name, checkpoint, workdir_flag="--teacher", checkpoint_flag="--teacher")
    kind = {flag: found.settings.value(flag) for flag in ("task", "channels", "bits")}
    teacher_files.check_kind(name, kind, config)

    resolved = found.record.resolved

    def load(num_classes):
        from cct_tf.assembly import networks
        del num_classes  # the names tell more
        return networks.load_model(found.settings, resolved.num_classes, found.find, flag="--teacher").model

    return teacher_files.Teacher(str(found.path), load, resolved.classes, resolved.mean, resolved.std)


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A teacher that can be asked.

    Attributes:
        path: str, where it was found.
        run: function of images float32 [m, S, S, C], normalised for the student -> logits float32 [m, K], in the order
            of the student's classes. Its variables are those of the strategy under whose scope it was loaded.
        checksum: str, CRC-32 of its weights, eight hex digits.
        by_number: whether its classes are taken to be the student's in their order, for it has no names of them.
    """

    path: str
    run: collections.abc.Callable
    checksum: str
    by_number: bool


def load(found, images, kind, jit):
    """Load the teachers; call it under the strategy's scope.

    Args:
        found: of `find`.
        images: `inputs.Images` of the student, whose classes are the teachers' too.
        kind: "CPU" or "GPU"; jit: one of `tuning.JIT`, as for the student: see `forward.Forward`.

    Returns:
        list of `Loaded`.

    Raises:
        UserError: a teacher of other classes, or one that can't be read.
    """
    return [_loaded(each, images, kind, jit) for each in found]


def _loaded(teacher, images, kind, jit):
    import tensorflow as tf

    from cct_tf.assembly.forward import Forward
    order = _order(teacher, images.source.class_names)
    model = teacher.load(len(order))
    std = np.array(teacher.std)
    scale, shift = np.array(images.std) / std, (np.array(images.mean) - np.array(teacher.mean)) / std
    size = model.image_size and sizes.sides(model.image_size)
    forward = Forward(model, kind, jit)

    def run(images):
        if (scale != 1.0).any() or (shift != 0.0).any():
            images = images * tf.constant(scale, tf.float32) + tf.constant(shift, tf.float32)
        if size and tuple(images.shape[1:3]) != size:
            images = tf.image.resize(images, size, antialias=True)
        logits = tf.cast(forward(images), tf.float32)
        return logits if order == sorted(order) else tf.gather(logits, order, axis=1)

    return Loaded(teacher.path, run, _checksum(model), not teacher.classes)


def _order(teacher, classes):
    """The places of the student's classes among the teacher's logits, a list."""
    if not teacher.classes:
        return list(range(len(classes)))
    if sorted(teacher.classes) != sorted(classes):
        odd = sorted(set(teacher.classes) ^ set(classes))
        raise UserError(f"--teacher: expected the {len(classes)} classes of this run, found {len(teacher.classes)} in "
                        f"{teacher.path} ({', '.join(odd[:3])} only in one of them)")
    return [teacher.classes.index(name) for name in classes]


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
