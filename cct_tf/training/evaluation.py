"""Evaluate a model on a split: every example exactly once, padding masked."""

import numpy as np
import tensorflow as tf

from cct_tf import runtime
from cct_tf.data import decode, pipeline
from cct_tf.errors import UserError
from cct_tf.training import checkpoint, losses, run_record, setup
from cct_tf.training.metrics import Evaluation


class Evaluator:
    """Evaluates one model on one split, as often as asked.

    Args:
        devices: `runtime.Devices`.
        model: keras.Model.
        split: `source.Split`.
        transform: `transform.Transform`.
        num_classes: int K.
        batch_size: int, wanted images per batch; see `pipeline.padded_batch_size`.
    """

    def __init__(self, devices, model, split, transform, *, num_classes, batch_size):
        self._devices = devices
        self._model = model
        self._num_classes = num_classes
        self._examples = split.num_examples
        self._batch_size = pipeline.padded_batch_size(batch_size, split.num_examples, devices.num_replicas)
        with tf.device("CPU:0"):
            self._batches = pipeline.evaluation_batches(pipeline.hold_at_size(split, transform), transform,
                                                        num_classes=num_classes, batch_size=self._batch_size)

    def _replica(self, batch):
        logits = tf.cast(self._model(batch["image"], training=False), tf.float32)
        labels = batch["label"]
        return {"label": tf.argmax(labels, axis=1, output_type=tf.int32),
                "prediction": tf.argmax(logits, axis=1, output_type=tf.int32),
                "rank": losses.rank_of_label(labels, logits),
                "loss": losses.cross_entropy(labels, logits),
                "mask": batch["mask"]}

    @tf.function
    def _step(self, batch):
        return self._devices.strategy.run(lambda part: self._replica(part), args=(batch,))

    def __call__(self, should_stop=lambda: False):
        """Evaluate the whole split.

        Args:
            should_stop: function without arguments, asked before each batch.

        Returns:
            `metrics.Evaluation`, or None if stopped.
        """
        columns = {"label": [], "prediction": [], "rank": [], "loss": [], "mask": []}
        for batch in runtime.distribute(self._devices, self._batches, self._batch_size):
            if should_stop():
                return None
            for name, value in self._step(batch).items():
                columns[name] += [part.numpy() for part in self._devices.strategy.experimental_local_results(value)]
        table = {name: np.concatenate(parts) for name, parts in columns.items()}
        real = table.pop("mask") > 0
        if int(real.sum()) != self._examples:
            raise RuntimeError(f"evaluated {int(real.sum())} of {self._examples} examples")
        table = {name: column[real] for name, column in table.items()}
        return Evaluation(table["label"], table["prediction"], table["rank"], table["loss"], self._num_classes)


def evaluate_checkpoint(config, record, choose, split, console):
    """Evaluate one checkpoint on one split.

    Args:
        config: `config.Config` of the run.
        record: `run_record.Record` of the run, for its data.
        choose: function that gives the checkpoint, (path, Record). Asked when everything else is ready: beside a run
            that goes on, the folder found at the start may be gone by then.
        split: name of a split that the run has.
        console: `console.Console`.

    Returns:
        (`metrics.Evaluation`, tuple of class names, path, Record).

    Raises:
        UserError: other data, or a checkpoint that can't be read.
    """
    devices = setup.make_devices(config)
    images = setup.open_images(config, console, setup.known_statistics(record.resolved))
    source = images.source
    setup.check_data(images, record.resolved)
    with console.phase("loading the weights"), devices.strategy.scope():
        model = setup.build_model(config, source.num_classes)
        path, record = choose()
        try:
            checkpoint.restore_weights(path, model)
        except run_record.Unreadable as error:
            raise UserError(f"--checkpoint: expected a checkpoint that can be read, found it damaged ({error}); "
                            "another is named with --checkpoint=PATH") from None
    evaluator = Evaluator(devices, model, source.splits[split], setup.make_transform(config, images, model),
                          num_classes=source.num_classes, batch_size=config.run.eval_batch_size)
    with decode.broken_images_named():
        return evaluator(), source.class_names, path, record
