"""Evaluate models on a split: every example exactly once, padding masked."""

import dataclasses
import itertools

import numpy as np
import tensorflow as tf

from cct_tf.assembly import inputs, networks, recorded_data
from cct_tf.assembly.devices import make_devices
from cct_tf.assembly.forward import Forward
from cct_tf.augment import stages
from cct_tf.data import pipeline
from cct_tf.engine import losses
from cct_tf.errors import UserError
from cct_tf.evaluation.metrics import Evaluation
from cct_tf.evaluation.multilabel import MultilabelEvaluation
from cct_tf.evaluation.views import AveragedViews
from cct_tf.images import decode
from cct_tf.machine import memory, runtime
from cct_tf.workers.peers import Alone


@dataclasses.dataclass(frozen=True)
class _Task:
    """How the examples of a task are judged.

    Attributes:
        result: class of the evaluation.
        columns: dict: what is found of each example, a number or a row of K each, and the field of `result` it becomes.
        judge: function (labels float32 [b, K], logits float32 [b, K]) -> dict of the columns.
    """

    result: type
    columns: dict
    judge: object


def _judge_single(labels, logits):
    return {"label": tf.argmax(labels, axis=1, output_type=tf.int32),
            "prediction": tf.argmax(logits, axis=1, output_type=tf.int32),
            "rank": losses.rank_of_label(labels, logits),
            "loss": losses.cross_entropy(labels, logits),
            "confidence": losses.confidence(logits)}


def _judge_multilabel(labels, logits):
    return {"label": tf.cast(labels, tf.uint8), "score": tf.sigmoid(logits),
            "loss": losses.binary_cross_entropy(labels, logits)}


_TASKS = {
    "single": _Task(Evaluation, {"label": "labels", "prediction": "predictions", "rank": "ranks", "loss": "losses",
                                 "confidence": "confidences"}, _judge_single),
    "multilabel": _Task(MultilabelEvaluation, {"label": "labels", "score": "scores", "loss": "losses"},
                        _judge_multilabel)}


class Evaluator:
    """Evaluates models on one split, as often as asked. They share one pass over it, so it is read and prepared once.

    Args:
        devices: `runtime.Devices`.
        models: dict name -> `forward.Forward`, or what is called like one (`views.AveragedViews`).
        split: `source.Split`.
        transform: `transform.Transform`.
        num_classes: int K.
        batch_size: int, wanted images per batch; see `pipeline.padded_batch_size`.
        peers: `peers.Group`; each worker evaluates its part of every batch, and all get all results.
        task: "single" or "multilabel", as `transform` prepares the labels.
        stream: text stream for the progress of preparing the images, or None.
    """

    def __init__(self, devices, models, split, transform, *, num_classes, batch_size, peers=None, task="single",
                 stream=None):
        self._devices = devices
        self._task = _TASKS[task]
        self._peers = peers or Alone()
        self._models = models
        self._num_classes = num_classes
        self._examples = split.num_examples
        self._stages = transform.evaluation_stages(num_classes)
        self._batch_size = pipeline.padded_batch_size(batch_size, split.num_examples, devices.num_replicas)
        with tf.device("CPU:0"):
            self._batches = pipeline.evaluation_batches(split, self._stages, batch_size=self._batch_size,
                                                        share=devices.share, stream=stream)

    def _replica(self, batch):
        images = stages.on_device(batch, self._stages)
        return {name: self._judged(model, images, batch) for name, model in self._models.items()}

    def _judged(self, model, images, batch):
        logits = tf.cast(model(images, training=False), tf.float32)
        return self._task.judge(batch["label"], logits) | {"mask": batch["mask"], "broken": batch["broken"]}

    @tf.function(autograph=False)
    def _step(self, batch):
        return self._devices.strategy.run(lambda part: self._replica(part), args=(batch,))

    def __call__(self, should_stop=lambda: False):
        """Evaluate the whole split.

        Args:
            should_stop: function without arguments, asked before each batch.

        Returns:
            dict name -> `metrics.Evaluation`, or `multilabel.MultilabelEvaluation`; None if this worker or another one
            stopped.
        """
        found = {name: {column: [] for column in (*self._task.columns, "mask", "broken")} for name in self._models}
        stopped, num_batches = False, -(-self._examples // self._batch_size)
        batches = runtime.distribute(self._devices, self._batches, self._batch_size)
        for batch in itertools.islice(batches, num_batches):
            stopped = should_stop()
            if stopped:
                break
            for model, values in self._step(batch).items():
                for column, value in values.items():
                    parts = self._devices.strategy.experimental_local_results(value)
                    found[model][column] += parts  # read at the end: a GPU need not wait for the host
        tables = None if stopped else {model: _joined(columns) for model, columns in found.items()}
        tables = self._of_all(tables, num_batches)
        return None if tables is None else {model: self._summed(table) for model, table in tables.items()}

    def _of_all(self, tables, num_batches):
        """The tables of the whole split from every worker's, {model: {column: array}}; None if one is None."""
        if self._peers.num_workers == 1:
            return tables
        columns = [] if tables is None else [column for table in tables.values() for column in table.values()]
        blobs = self._peers.exchange_bytes(b"".join(column.tobytes() for column in columns))
        if not all(blobs):
            return None
        place, whole = 0, []
        for column in columns:
            size = column.nbytes
            parts = [np.frombuffer(blob[place:place + size], column.dtype).reshape(
                num_batches, len(column) // num_batches, *column.shape[1:]) for blob in blobs]
            whole.append(np.concatenate(parts, axis=1).reshape(-1, *column.shape[1:]))  # each held a slice of a batch
            place += size
        found = iter(whole)
        return {model: {name: next(found) for name in table} for model, table in tables.items()}

    def _summed(self, table):
        """The evaluation of one model's table, {column: array with a row for each example and for padding}."""
        table = dict(table)
        real, broken = table.pop("mask") > 0, int((table.pop("broken") > 0).sum())
        if int(real.sum()) + broken != self._examples:
            raise RuntimeError(f"evaluated {int(real.sum())} of {self._examples} examples")
        if not real.any():
            raise UserError(f"--on_bad_image: expected an image to evaluate on that can be decoded, found {broken} "
                            "broken ones")
        columns = {self._task.columns[name]: column[real] for name, column in table.items()}
        return self._task.result(num_classes=self._num_classes, **columns, broken=broken,
                                 places=np.flatnonzero(real) if broken else None)


def _joined(columns):
    """{column: array} of {column: list of tensors}."""
    return {name: np.concatenate([part.numpy() for part in parts]) for name, parts in columns.items()}


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """What became of one checkpoint on one split.

    Attributes:
        plain: `metrics.Evaluation`, or `multilabel.MultilabelEvaluation` with the thresholds of the checkpoint.
        averaged: the same with test-time augmentation, or None.
        num_views: int, its views of each image; 1 without.
        class_names: tuple of strings.
        loaded: `networks.Loaded`, the checkpoint.
        split: `source.Split` evaluated; its order is that of the results.
        transform: `transform.Transform` that prepared its images.
    """

    plain: object
    averaged: object
    num_views: int
    class_names: tuple
    loaded: networks.Loaded
    split: object
    transform: object


def evaluate_checkpoint(config, record, choose, split, console, *, weights="auto", tta="none", tta_shift=1):
    """Evaluate one checkpoint on one split.

    Args:
        config: `config.Config` of the run.
        record: `run_record.Record` of the run, for its data.
        choose: function that gives the checkpoint, see `networks.load_model`.
        split: name of a split that the run has.
        console: `console.Console`.
        weights: "auto", "raw", "ema" or "average".
        tta: "none", or the kind of `views.views`.
        tta_shift: int, pixels.

    Returns:
        Evaluated.

    Raises:
        UserError: other data, or a checkpoint that can't be read.
    """
    devices = make_devices(config)
    part = recorded_data.part_of(record.resolved, config, (split,))
    images = inputs.open_images(config, console, record.resolved, part)
    source = images.source
    recorded_data.check_recorded_data(images, record, config)
    with console.phase("loading the weights"), devices.strategy.scope():
        loaded = networks.load_model(config, source.num_classes, choose, weights)
    models, num_views = {"plain": Forward(loaded.model, devices.kind)}, 1
    if tta != "none":
        models["averaged"] = AveragedViews(models["plain"], tta, tta_shift, config.data.task == "multilabel")
        num_views = models["averaged"].num_views
    transform = inputs.make_transform(config, images, loaded.model)
    with memory.data_named_when_out(config.data):
        once = dataclasses.replace(source.splits[split], room=0.0)  # read once, so nothing is gained by holding it
        evaluator = Evaluator(devices, models, once, transform, num_classes=source.num_classes,
                              batch_size=config.run.eval_batch_size, task=config.data.task)
    with decode.broken_images_named():
        found = evaluator()
    found = {name: each.at(loaded.thresholds) for name, each in found.items()}
    return Evaluated(found["plain"], found.get("averaged"), num_views, source.class_names, loaded,
                     source.splits[split], transform)
