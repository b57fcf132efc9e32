"""Where numbers go: `metrics.jsonl`, TensorBoard event files, `plots/`."""

import abc
import math
import time

import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams

from cct_tf.evaluation import drawing
from cct_tf.pictures import plots
from cct_tf.runs.checkpoint import storage_faults
from cct_tf.runs.workdir import MetricsFile
from cct_tf.settings import flags
from cct_tf.settings.config import PLACES

_SHOWN_IMAGES = 8  # with the sheet they fill less than a page of TensorBoard
_SECONDS_BETWEEN_PICTURES = 20.0


class Recorder(abc.ABC):
    """Where a run's numbers and pictures go: `Summaries` on worker 0, `NoSummaries` on the workers that write nothing.

    `start` is called once, first; `close` last, also after an error. Steps are those completed.
    """

    @abc.abstractmethod
    def start(self, step, status, pictures):
        """Begin, or go on from `step`: cut what will be written again; write config and pictures.

        Args:
            step: int.
            status: `run_status.RunStatus`.
            pictures: dict tag -> [N, height, width, 3], uint8 or float32 in [0, 1].
        """

    @abc.abstractmethod
    def write_rollback(self, step, status, text):
        """The run went back to `step`: cut what came after it, add a record; for TensorBoard a note, `text`.

        TensorBoard's curves keep what is cut here, and draw the steps that come again as well.

        Args:
            step: int.
            status: `run_status.RunStatus`, with this rollback counted.
            text: a line.
        """

    @abc.abstractmethod
    def write_train(self, step, values):
        """A log record: dict {"train/...", "timing/..."} at `step`."""

    @abc.abstractmethod
    def write_evaluation(self, step, evaluations, last=False, pictures=None):
        """An evaluation at `step`, with its pictures. One record, and event files in a folder for each name.

        Args:
            step: int.
            evaluations: dict name -> `metrics.Evaluation` or `multilabel.MultilabelEvaluation`: "test", or "eval" and,
                of the averaged weights, "eval_ema" or "eval_average". The last one is drawn in `plots/`.
            last: whether it is the run's last of its kind: then the pictures are drawn in any case. Others only some
                time after the ones before, because on a small data set they cost more than the evaluation.
            pictures: function of a name that gives more of them for TensorBoard, {tag: uint8 [height, width, 3]}; or
                None.
        """

    @abc.abstractmethod
    def last_evaluation(self, name):
        """The newest evaluation `name` that was written, "step" and what `measure.Measure` keeps; or None."""

    @abc.abstractmethod
    def close(self):
        """Close the files."""


class Summaries(Recorder):
    """Writes `metrics.jsonl`, TensorBoard's event files and `plots/`.

    Args:
        workdir: `workdir.Workdir`.
        config: `config.Config`, for the text and HParams dashboards.
        plan: `plan.Plan`, which tells the epoch of a step.
        class_names: sequence of strings.
    """

    def __init__(self, workdir, config, plan, class_names):
        self._workdir = workdir
        self._config = config
        self._plan = plan
        self._measure = config.measure
        self._class_names = class_names
        self._metrics = MetricsFile(workdir.metrics)
        self._writers = {}
        self._drawn_at = -math.inf

    def _writer(self, name):
        if name not in self._writers:
            self._writers[name] = tf.summary.create_file_writer(str(self._workdir.path / name))
        return self._writers[name]

    def start(self, step, status, pictures):
        self._metrics.cut(step, status.last_evaluated_step, status.rollback_count)
        with storage_faults(self._workdir.path), self._writer("train").as_default(step=step):
            text = flags.as_flagfile(self._config)
            tf.summary.text("config", "\n".join("    " + line for line in text.splitlines()))
            for tag, images in pictures.items():
                tf.summary.image(tag, images[:_SHOWN_IMAGES], max_outputs=_SHOWN_IMAGES)
            hparams.hparams({name: _plain(value) for name, value in self._config.as_dict().items()
                             if name not in ("workdir", *PLACES)})

    def write_rollback(self, step, status, text):
        with storage_faults(self._workdir.path):
            self._metrics.cut(step, status.last_evaluated_step, status.rollback_count - 1)
            self._record(step, {"rollback/count": status.rollback_count,
                                "rollback/learning_rate_factor": status.learning_rate_factor})
            with self._writer("train").as_default(step=step):
                tf.summary.text("rollback", text)

    def write_train(self, step, values):
        with storage_faults(self._workdir.path):
            self._write_events("train", step, values)
            self._record(step, values)

    def write_evaluation(self, step, evaluations, last=False, pictures=None):
        with storage_faults(self._workdir.path):
            values = {}
            for name, evaluation in evaluations.items():
                # The same tags in both folders: TensorBoard shows the two curves in one chart.
                self._write_events(name, step, evaluation.scalars(_tag(name), self._measure.extra))
                values |= evaluation.scalars(name, self._measure.extra)
            self._record(step, values)
            if last or time.monotonic() - self._drawn_at > _SECONDS_BETWEEN_PICTURES:
                for name, evaluation in evaluations.items():
                    self._draw(step, evaluation, name)
                    with self._writer(name).as_default(step=step):
                        for tag, pixels in (pictures(name) if pictures else {}).items():
                            tf.summary.image(tag, pixels[None])
                    self._writer(name).flush()
                self._drawn_at = time.monotonic()

    def _record(self, step, values):
        """A line of `metrics.jsonl`, with the epochs completed at `step`, a millionth exact."""
        self._metrics.write(step, {"epoch": round(float(self._plan.epoch_of(step)), 6)} | values)

    def _draw(self, step, evaluation, name):
        for kind, figure in drawing.figures(evaluation, self._class_names).items():
            pixels = plots.as_array(figure)
            with self._writer(name).as_default(step=step):
                tf.summary.image(f"{_tag(name)}/{kind}", pixels[None])
            plots.save(pixels, self._workdir.plots / f"{kind}.png")
        plots.save(plots.as_array(plots.curves_figure(self._metrics.read())), self._workdir.plots / "curves.png")

    def last_evaluation(self, name):
        for record in reversed(self._metrics.read()):
            if f"{name}/{self._measure.headline}" in record:
                return {"step": record["step"]} | {kept: record.get(f"{name}/{kept}") for kept in self._measure.kept}
        return None

    def _write_events(self, name, step, values):
        with self._writer(name).as_default(step=step):
            for tag, value in values.items():
                tf.summary.scalar(tag, value)
        self._writer(name).flush()

    def close(self):
        for writer in self._writers.values():
            writer.close()
        self._metrics.close()


class NoSummaries(Recorder):
    """Writes nothing."""

    def start(self, step, status, pictures):
        pass

    def write_rollback(self, step, status, text):
        pass

    def write_train(self, step, values):
        pass

    def write_evaluation(self, step, evaluations, last=False, pictures=None):
        pass

    def last_evaluation(self, name):
        return None

    def close(self):
        pass


def _tag(name):
    """`eval_ema` and `eval_average` are `eval` of other weights."""
    return name.removesuffix("_ema").removesuffix("_average")


def _plain(value):
    """A config value as HParams takes it."""
    if value is None:
        return "default"
    return ",".join(str(part) for part in value) if isinstance(value, tuple) else value
