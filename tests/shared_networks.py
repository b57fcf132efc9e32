"""Trainings that compute alike share one network with its traced step: tracing is most of what a tiny run takes.

Everything else of a run is its own: images, pipeline, loop, files, and the values of all variables, which are set back
to the initial ones before the run's checkpoint is read. For tests that are about something else than the network; what
a network of its own goes on to after a restart is tested in training/test_resume.py and test_faults.py.
"""

import dataclasses
import functools
import tempfile

import numpy as np

# Fields that neither the network nor its step reads. One that is missing here costs time, no more.
_UNREAD = {"workdir", "data_dir", "image_root", "train_steps", "epochs", "learning_rate", "on_bad_image",
           "eval_batch_size", "log_every_steps", "eval_every_epochs", "eval_every_steps", "checkpoint_every_steps",
           "async_save", "backup_dir", "keep_checkpoints", "early_stop_evaluations", "best_metric",
           "accept_config_change",
           "restart_if_unreadable", "profile_steps", "dry_run", "validation_fraction", "train_split", "test_split",
           "dataset", "columns", "class_names", "split_seed", "fold", "decode", "resize",
           "in_memory_gib", "pipeline_gib", "shuffle_window"}


_MOST = 6  # networks that are kept, each with its graphs: about 100 MB


class Shared:
    """What is made for the first run of a kind is there for the later ones; of two runs at a time, the later has it."""

    def __init__(self, assemble):
        self._assemble, self._folder = assemble, tempfile.TemporaryDirectory()
        self._made, self._evaluations, self._number = {}, {}, 0

    def assemble(self, config, devices, num_classes, train_split, total_steps, resolved=None, pretrained=None,
                 classes=(), prepare=None, load_teachers=None, precision=None):
        """In place of `assembly.parts.assemble`."""
        from cct_tf.assembly import tuning
        from cct_tf.augment import stages
        from cct_tf.layers import products
        from cct_tf.models import variants
        make = functools.partial(self._assemble, config, devices, num_classes, train_split, total_steps, resolved,
                                 pretrained, classes, prepare, load_teachers, precision)
        # The step at which the average of the last epochs begins depends on the run's length.
        own = pretrained is not None or devices.num_replicas > 1 or config.distill.teacher or config.optim.average_last
        if own or prepare is None:
            return make()
        precision = precision or tuning.precision_of(config, devices)
        config = tuning.with_precision(config, precision.value)
        variant = variants.resolve(config.model.model, config.augment.image_size)
        fast = devices.kind == "CPU" and precision.value == "bfloat16" and products.multiplies_bfloat16()
        chosen = tuning.choose(config, precision, devices, variant, num_classes, total_steps, resolved, fast)
        on_device = stages.of_place(prepare.keywords["stages"], stages.DEVICE)
        labels = None if train_split.labels is None else np.asarray(train_split.labels).tobytes()
        key = (_read_fields(config), chosen.jit.value, chosen.accumulate_steps.value, num_classes, tuple(classes),
               labels, train_split.weights is not None, repr(on_device))
        if key not in self._made:
            while len(self._made) >= _MOST:
                self._forget(next(iter(self._made)))
            made = make()
            self._number += 1
            self._made[key] = made, made.trackable.write(f"{self._folder.name}/{self._number}")
            return made
        made, initial = self._made[key] = self._made.pop(key)  # the last to be forgotten
        made.trackable.read(initial).assert_consumed()
        made.train_step.wait_seconds.assign(0.0)
        return dataclasses.replace(made, tuning=chosen)

    def _forget(self, key):
        made, _ = self._made.pop(key)
        gone = {id(made.model), id(made.averaged)}
        self._evaluations = {key: evaluator for key, evaluator in self._evaluations.items()
                             if not any(network in gone for _, network, _ in key[0])}

    def share_step(self, evaluator):
        """Let an `Evaluator` of a shared network judge by what an earlier one has traced."""
        networks = {id(made.model) for made, _ in self._made.values()} | {
            id(made.averaged) for made, _ in self._made.values()}
        models = [(name, id(getattr(forward, "_model", None)), getattr(forward, "_kind", None))
                  for name, forward in evaluator._models.items()]
        if all(network in networks for _, network, _ in models):
            from cct_tf.augment import stages
            key = tuple(models), evaluator._task.result, repr(stages.of_place(evaluator._stages, stages.DEVICE))
            first = self._evaluations.setdefault(key, evaluator)
            evaluator._step = first._step


def _read_fields(config):
    from cct_tf.settings.config import FIELDS
    return tuple((name, repr(config.value(name))) for name in FIELDS if name not in _UNREAD)


@functools.cache
def _shared():
    """Of the process: modules share with each other."""
    from cct_tf.training import preparation
    return Shared(preparation.assemble)


def share(patch):
    """Have the trainings share from here on.

    Args:
        patch: pytest.MonkeyPatch.
    """
    from cct_tf.evaluation import evaluator
    from cct_tf.training import preparation
    shared = _shared()

    class Evaluator(evaluator.Evaluator):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            shared.share_step(self)

    patch.setattr(preparation, "assemble", shared.assemble)
    patch.setattr("cct_tf.training.loop.Evaluator", Evaluator)
