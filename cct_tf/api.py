"""Runs from Python: `cct_tf.run(...)` trains, `cct_tf.load(workdir)` looks at what was trained.

    import cct_tf

    run = cct_tf.run(dataset="digits", image_size=16, model="cct_2_3x1_16", epochs=10, workdir="runs/digits")
    run.best                          # {"step": 250, "top1": 0.97, "loss": 0.12}
    run.history["eval/top1"].value    # float64 [evaluations]
    run.predict("photo.png").labels   # ("7",)

One call at a time in a process: `run`, and `evaluate`, `predict` and `model` of a `TrainedRun`.
"""

import collections
import collections.abc
import contextlib
import dataclasses
import functools
import gc
import math
import os
import pathlib
import threading

import numpy as np

from cct_tf import evaluate as evaluate_command
from cct_tf import train as train_command
from cct_tf.assembly import checks, selection
from cct_tf.datasets import listing
from cct_tf.errors import UserError
from cct_tf.evaluation.multilabel import HALF
from cct_tf.images import pixel_type
from cct_tf.machine import gpus, memory, runtime
from cct_tf.machine.console import Console
from cct_tf.machine.interrupts import Interrupts
from cct_tf.runs import run_record, side_by_side
from cct_tf.runs.workdir import Workdir
from cct_tf.settings import calls, command, config
from cct_tf.settings.measure import NAMES, measure_of
from cct_tf.workers import cluster


class _Process:
    """What the calls of this process share.

    Attributes:
        busy: held during a call.
        training: `interrupts.Interrupts` of the run that goes on, or None.
        devices: dict of what the first run was computed with, for those after it; None before it.
    """

    def __init__(self):
        self.busy = threading.Lock()
        self.training = None
        self.devices = None


_process = _Process()


@contextlib.contextmanager
def _one_call():
    """One at a time: strategies, stderr's file descriptor and sys.stdout are the whole process's. Names errors too."""
    with command.errors_named():
        if not _process.busy.acquire(blocking=False):
            raise UserError("cct_tf: expected one call at a time in a process, found another one going on in another "
                            "thread; cct_tf.load alone may be called beside it")
        try:
            yield
        finally:
            _process.busy.release()


@contextlib.contextmanager
def _same_devices(settings):
    """A block that makes a run's devices: those of the process's first run, for TensorFlow can't change them."""
    run = settings.run
    now = {"num_replicas": runtime.local_devices(run.num_replicas, run.strategy)[1],
           "deterministic": run.deterministic, "threads": runtime.num_threads()}
    before = _process.devices or now
    if now != before:
        named = ["--" * (name != "threads") + name for name in now if now[name] != before[name]]
        raise UserError(f"{', '.join(named)}: expected {_listed(before, now)}, as in the first run of this process, "
                        f"found {_listed(now, before)}; TensorFlow can't change them: start a new process (restart the "
                        "kernel of a notebook)")
    yield
    _process.devices = now


def _choose(device):
    """Choose --device for this process, which None leaves as it is; returns it."""
    device = calls.given({"device": device or gpus.current()}, [config.FIELDS["device"]])["device"]
    gpus.choose(device)
    return device


def _listed(values, others):
    """The values that differ from the others', with commas."""
    return ", ".join(str(value) for name, value in values.items() if value != others[name])


def run(*, flagfile=(), quiet=False, **fields):
    """Train a network, as `python -m cct_tf.train` does: the same call on the same `workdir` goes on where it stopped.

        run = cct_tf.run(flagfile="configs/quickstart.cfg", workdir="runs/first", epochs=10)

    The fields are the command's flags, as Python values: `dataset="folder"`, `data_dir="photos"`, `epochs=10`,
    `deterministic=True`, `random_resized_crop=(0.3, 1.0)`, `clip_norm=None`. `workdir` is required. Plan, progress
    and results go to stdout, warnings to stderr.

    A Ctrl-C (SIGINT), SIGTERM or SIGHUP in the main thread ends the run after the step, saved; a second Ctrl-C at once,
    as soon as TensorFlow's call is over. Handlers, locks and streams are given back however the call ends. In another
    thread no handlers can be set: there `cct_tf.stop()` asks a run to stop.

    Runs of one process follow one another, with the same `device`, `num_replicas`, `deterministic` and number of
    threads.

    Args:
        flagfile: a path, or a sequence of them; `fields` win over what they say.
        quiet: bool, write nothing to stdout.
        fields: flags of cct_tf.train.

    Returns:
        TrainedRun, of a run that is finished; None with `dry_run=True`.

    Raises:
        UserError: wrong input, in the line that the command prints; too many non-finite updates in a row.
        OutsideFault: the storage failed; the same call goes on.
        Interrupted: asked to stop. It is no Exception, as KeyboardInterrupt is none; `cct_tf.load` gives the run.
    """
    with _one_call():
        files = [flagfile] if isinstance(flagfile, (str, os.PathLike)) else flagfile
        settings = config.from_dict(calls.given(fields, list(config.FIELDS.values()), files))
        if cluster.from_environment(settings.run.strategy) is not None:
            raise UserError("TF_CONFIG: expected none, or one worker, for cct_tf.run, found several workers; "
                            "python -m cct_tf.train trains with them")
        interrupts = _process.training = Interrupts(owns_process=False)
        try:
            train_command.train(settings, interrupts, quiet, functools.partial(_same_devices, settings))
        finally:
            _process.training = None
            gc.collect()  # images, network and graphs refer to one another, and the next run needs the memory
        interrupts.pass_on()
    return None if settings.run.dry_run else load(settings.run.workdir)


def stop():
    """Ask the run that goes on in another thread to stop: it saves after the step, and `run` raises Interrupted there.

    Does nothing where none goes on.
    """
    interrupts = _process.training
    if interrupts is not None:
        interrupts.stop("cct_tf.stop()")


def load(workdir):
    """The run of a work folder, as it stands now: finished, going on in another process, or interrupted.

    Reads small files only, so it takes no time; TensorFlow is imported by the first `model`, `evaluate` or `predict`.

    Args:
        workdir: path.

    Returns:
        TrainedRun.

    Raises:
        UserError: it is no folder of a run, or can't be read.
    """
    with command.errors_named():
        path = calls.given({"workdir": workdir}, [config.FIELDS["workdir"]])["workdir"]
        checks.check_workdir(path)
        return TrainedRun(path)


Curve = collections.namedtuple("Curve", ["step", "epoch", "value"])
Curve.__doc__ = "One quantity over a run: step int64 [n], epoch float64 [n] (NaN in old runs), value float64 [n]."


class History(collections.abc.Mapping):
    """What a run wrote down while it trained: a mapping from a name to its `Curve`.

    Names are those of metrics.jsonl and TensorBoard: "train/loss", "train/accuracy", "train/learning_rate",
    "eval/top1", "eval/loss", "eval_ema/top1" or "eval_average/top1" of averaged weights, "test/top1",
    "timing/images_per_second"...
    A value that was not finite is NaN.

    Args:
        records: list of dicts, the lines of metrics.jsonl.
    """

    def __init__(self, records):
        self._rows = {}  # step -> {name: value}; several records of one step are one row
        for record in records:
            row = {name: math.nan if value is None else value for name, value in record.items()}
            self._rows.setdefault(record["step"], {}).update(row)
        self._names = list(dict.fromkeys(name for row in self._rows.values() for name in row
                                         if name not in ("step", "epoch")))

    def __getitem__(self, name):
        if name not in self._names:
            raise KeyError(name)
        rows = [row for row in self._rows.values() if name in row]
        return Curve(np.array([row["step"] for row in rows], np.int64),
                     np.array([row.get("epoch", math.nan) for row in rows], np.float64),
                     np.array([row[name] for row in rows], np.float64))

    def __iter__(self):
        return iter(self._names)

    def __len__(self):
        return len(self._names)

    def __repr__(self):
        return f"History({', '.join(f'{name} [{len(self[name].value)}]' for name in self)})"

    def to_pandas(self):
        """A pandas.DataFrame: a row for each step written down, by step; columns "epoch" and the names; NaN elsewhere.

        Raises:
            UserError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise UserError("to_pandas: expected pandas to be installed, found it is not; pip install pandas") from None
        table = pandas.DataFrame(list(self._rows.values()), columns=["step", "epoch", *self._names])
        return table.set_index("step")


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """What a network says of images.

    Attributes:
        images: tuple, what each row is of: a path, or the place of an array among the arguments.
        class_names: tuple of K strings.
        probabilities: float32 [N, K], rows with sum 1; with --task=multilabel each of its own.
        broken: dict path -> why it can't be read; empty unless `skip_broken`.
        thresholds: float64 [K] with --task=multilabel: those fitted in the evaluation of the checkpoint, 0.5 for
            weights that were not evaluated; else None.
    """

    images: tuple
    class_names: tuple
    probabilities: np.ndarray
    broken: dict
    thresholds: np.ndarray | None = None

    @property
    def labels(self):
        """The most probable class of each image: tuple of N strings; with thresholds of N tuples, all that reach them.
        """
        if self.thresholds is not None:
            return tuple(tuple(name for name, is_there in zip(self.class_names, row, strict=True) if is_there)
                         for row in self.probabilities >= self.thresholds)
        return tuple(self.class_names[index] for index in self.probabilities.argmax(axis=1))

    def top(self, count=5):
        """The most probable classes of each image: list of N lists of (class name, probability)."""
        order = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :count]
        return [[(self.class_names[index], float(row[index])) for index in indices]
                for row, indices in zip(self.probabilities, order, strict=True)]

    def __repr__(self):
        shown = ", ".join(f"{image}: {label}" for image, label in zip(self.images[:5], self.labels[:5], strict=True))
        return f"Predictions({shown}{', ...' * (len(self.images) > 5)})"


class TrainedRun:
    """A run as it stood when this object was made; `cct_tf.load` looks again.

    Args:
        workdir: text, the folder of the run.

    Attributes:
        workdir: pathlib.Path, absolute.
        config: dict of the run's flags by name; None where it can't be known.
        state: "finished", "running" (on this machine) or "unfinished".
        step, total_steps: ints, where it stands and where it ends; total_steps is None before the first checkpoint.
        best, last: dicts {"step", "top1", "loss"} of evaluations, or None; on the validation split where the run has
            one, else on the test split; of the averaged weights where it keeps an average. With --task=multilabel
            {"step", "map", "loss"}; the metric of --best_metric is always among them.
        test: the same of the best weights on the test split, of a finished run with a validation split; else None.
        best_checkpoint: pathlib.Path of the best weights' folder, or None.
        class_names: tuple of strings, () before the first checkpoint.
        history: History.
        notes: tuple of lines: what is missing or damaged.
    """

    def __init__(self, workdir):
        self.workdir = pathlib.Path(workdir).absolute()
        found = side_by_side.read(str(self.workdir))
        self.config, self.state, self.notes = found.config, found.state, found.notes
        self.step, self.total_steps = found.step, found.total_steps
        self.best, self.last, self.test = found.best, found.last, found.test
        self.best_checkpoint = next(reversed(run_record.list_checkpoints(Workdir(self.workdir).best)), None)
        self.class_names = tuple(found.resolved.classes) if found.resolved else ()
        self.history = History(found.records)
        self._network = None, None  # the last one used by `predict`, and what it was asked for

    def __repr__(self):
        text = f"{self.workdir}: {self.state}, step {self.step:,}"
        text += f" of {self.total_steps:,}" if self.total_steps else ""
        name = measure_of(self.config or {}).shown
        if self.best and self.best.get(name) is not None:
            text += f", best {NAMES[name]} {100 * self.best[name]:.2f}% at step {self.best['step']:,}"
        if self.test and self.test.get(name) is not None:
            text += f", test {NAMES[name]} {100 * self.test[name]:.2f}%"
        return f"<TrainedRun {text}>"

    def model(self, checkpoint="best", weights="auto", *, device=None):
        """The network with the weights of a checkpoint: a keras.Model of its own at each call.

        It takes normalised images, float32 [B, S, S, 3], and gives logits [B, K]; `predict` takes images as they are.

        Args:
            checkpoint: "best", "last", or the path of a checkpoint folder.
            weights: "raw", "ema" (their moving average), "average" (another one), or "auto": an average where the
                run kept one.
            device: "auto", "cpu", "gpu" or "gpu:2", which only the first call of a process can choose; None: what it
                has chosen, else "auto".

        Raises:
            UserError: there is none, or it can't be read; there is no such device.
        """
        with _one_call():
            _choose(device)
            selected = self._select(checkpoint, weights)
            runtime.start_tensorflow("auto", Console().warn)
            runtime.local_devices()  # which may refuse them
            from cct_tf.assembly import networks
            found = networks.load_model(selected.settings, selected.record.resolved.num_classes, selected.find,
                                        weights).model
            return found.network if found.variant is None else found  # the user's own, without what stands in for it

    def evaluate(self, split=None, *, checkpoint="best", weights="auto", tta="none", tta_shift=1, eval_batch_size=None,
                 data_dir=None, image_root=None, class_names=None, output_dir=None, mistakes=40, device=None):
        """What `python -m cct_tf.evaluate --json` finds, on one device.

        Args:
            split: "train", "validation" or "test"; None is test where the run has such a split, else validation.
            checkpoint, weights: as of `model`.
            tta, tta_shift: test-time augmentation, "none", "flip" or "shifts", and its pixels.
            eval_batch_size: int; None is the run's.
            data_dir, image_root, class_names: paths, where the data set is elsewhere now.
            output_dir: path of a folder for pictures; None draws none.
            mistakes: int, how many of the worst ones are listed.
            device: as of `model`.

        Returns:
            dict: "top1", "top5", "loss", "balanced_accuracy", "classes", "calibration", "worst_mistakes" and more; see
            docs/evaluation.md, and with --task=multilabel docs/multilabel.md.

        Raises:
            UserError: the run has no such split or weights, or its images have changed.
        """
        asked = {"split": split, "checkpoint": checkpoint, "weights": weights, "tta": tta, "tta_shift": tta_shift,
                 "output_dir": output_dir, "mistakes": mistakes, "eval_batch_size": eval_batch_size,
                 "data_dir": data_dir, "image_root": image_root, "class_names": class_names}
        asked = {name: value for name, value in asked.items() if value is not None}
        with _one_call():
            # Strategies of different size would poison each other, so it is the one of a single device.
            return evaluate_command.evaluate(calls.given(asked, evaluate_command.FIELDS) | {
                "workdir": str(self.workdir), "device": _choose(device), "num_replicas": 1, "json": True})

    def predict(self, images, *, checkpoint="best", weights="auto", batch_size=32, skip_broken=False, device=None):
        """The classes of images, as `python -m cct_tf.predict` tells them.

        Args:
            images: uint8 [H, W, C] or [N, H, W, C], or uint16 of a run with --bits=16, which takes both; a path,
                folder or pattern; or a sequence of paths or of arrays, which may differ in size. Of a run with
                --channels=1 or 3, C may be either. They are resized and cropped as in the run's evaluation. A folder
                is searched with those below it, and a file that is named twice counts once.
            checkpoint, weights: as of `model`.
            batch_size: int, images computed together.
            skip_broken: bool, leave broken files out; `images` and `broken` of the result tell which.
            device: as of `model`.

        Returns:
            Predictions.

        Raises:
            UserError: a file that can't be read, or no image; arrays of another type or shape; as of `model`.
        """
        with _one_call():
            calls.given({"batch_size": batch_size}, [config.FIELDS["batch_size"]])
            _choose(device)
            listed = _images(images)
            size = min(batch_size, len(listed))
            selected = self._select(checkpoint, weights)
            listed = _of_pixels(listed, pixel_type.of_config(selected.settings.data))
            runtime.start_tensorflow("auto", Console().warn)
            from cct_tf.evaluation import prediction
            with memory.named_when_out(memory.PREDICTION, size):
                asked = selected.path, weights, size
                if asked != self._network[0]:
                    self._network = asked, prediction.load(selected.settings, selected.record, selected.find, weights,
                                                           size, False)
                network, loaded = self._network[1]
                predictor = prediction.Predictor(network, size)
                found = [each for batch in predictor(listed) for each in batch]
        thresholds = None
        if selected.settings.data.task == "multilabel":
            thresholds = np.array(loaded.thresholds or [HALF] * len(self.class_names))
        return self._predictions(listed, found, skip_broken, thresholds)

    def _predictions(self, listed, found, skip_broken, thresholds):
        broken = {each.path: str(each.broken) for each in found if each.broken}
        if broken and not skip_broken:
            more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
            raise UserError(f"{next(iter(broken.values()))}{more}; skip_broken=True leaves it out")
        good = [(place, each) for place, each in enumerate(found) if not each.broken]
        if not good:
            raise UserError(f"images: expected at least one image that can be read, found {len(broken)} broken")
        names = tuple(place if isinstance(listed[place], np.ndarray) else listed[place] for place, _ in good)
        return Predictions(names, self.class_names, np.stack([each.probabilities for _, each in good]), broken,
                           thresholds)

    def _select(self, checkpoint, weights):
        """`selection.Selection` of a checkpoint to build the network of, judged without TensorFlow."""
        asked = calls.given({"checkpoint": checkpoint, "weights": weights}, evaluate_command.FIELDS)
        selected = selection.select(str(self.workdir), asked["checkpoint"], asked["weights"])
        checks.check_model(selected.settings.model, selected.settings.augment.image_size)
        return selected


def _images(images):
    """What `predict` is given, as a list of paths or of arrays [H, W, C]. Raises UserError."""
    if isinstance(images, (str, os.PathLike)):
        images = [images]
    if isinstance(images, (list, tuple)):
        if all(isinstance(image, (str, os.PathLike)) for image in images):
            return listing.list_images([os.path.expanduser(image) for image in images])
    else:
        images = np.asarray(images)
        images = [images] if images.ndim == 3 else list(images) if images.ndim == 4 else [images]
    arrays = [np.asarray(image) for image in images]
    for array in arrays:
        if array.dtype not in (np.uint8, np.uint16) or array.ndim != 3 or not array.size:
            raise UserError(f"images: expected paths, or uint8 or uint16 [H, W, C] or [N, H, W, C], found "
                            f"{array.dtype} {list(array.shape)}")
    if not arrays:
        raise UserError("images: expected at least one image, found none")
    return arrays


def _of_pixels(images, kind):
    """The list of `_images` with its arrays as a PixelType. Raises UserError."""
    try:
        return [pixel_type.levels_of(kind, each) if isinstance(each, np.ndarray) else each for each in images]
    except ValueError as error:
        raise UserError(f"images: {error}") from None
