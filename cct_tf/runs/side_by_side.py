"""What a work folder tells of its run, read from run.json, config.cfg and metrics.jsonl. No TensorFlow here."""

import dataclasses
import math
import statistics

from cct_tf.errors import UserError
from cct_tf.runs import inventory
from cct_tf.runs.resolved import Resolved
from cct_tf.runs.workdir import MetricsFile, Workdir
from cct_tf.settings import averages, flags, folds, measure
from cct_tf.settings import config as config_lib

_NO_SETTING = ("workdir", *config_lib.PLACES, "seed")  # fields that tell two runs of one recipe apart


@dataclasses.dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        workdir: text.
        config: flat dict of every field that is not transient, or None where it can't be known.
        state: "finished", "running" (on this machine) or "unfinished".
        step: int, the last one written down.
        total_steps: int, or None.
        resolved: `resolved.Resolved` of its newest checkpoint, or None.
        best, last: dicts of evaluations, {"step", "top1", "loss"} or whatever its `measure` keeps, or None; of the
            averaged weights where it keeps some.
        test: the same of the test at the end, or None.
        images_per_second: float, median of the log records; None without.
        records: list of dicts, `metrics.jsonl`.
        notes: tuple of lines: what is missing or damaged.
    """

    workdir: str
    config: dict | None
    state: str
    step: int
    total_steps: int | None
    resolved: Resolved | None
    best: dict | None
    last: dict | None
    test: dict | None
    images_per_second: float | None
    records: list
    notes: tuple

    @property
    def seed(self):
        return self.config and self.config["seed"]

    @property
    def measure(self):
        """Its `measure.Measure`."""
        return measure.measure_of(self.config or {})

    @property
    def evaluated_on(self):
        """The split of `best` and `last`, or None if it isn't known."""
        counts = self._num_examples
        return ("validation" if "validation" in counts else "test") if counts else None

    @property
    def fingerprint(self):
        """Of its images, or None if they aren't known."""
        return self.resolved and self.resolved.fingerprint

    @property
    def fold(self):
        """The value of --fold, or None."""
        return self.config and self.config["fold"]

    @property
    def data(self):
        """What stands for its images where runs are compared: as `fingerprint`, of all folds where it is of one."""
        return self.resolved and (self.resolved.folds_fingerprint or self.resolved.fingerprint)

    @property
    def _num_examples(self):
        return self.resolved.num_examples if self.resolved else {}

    def curve(self, kind):
        """[(epoch, value)] of "loss" (training) or a metric of the evaluation; [] where the epochs can't be known."""
        images = self._num_examples.get("train")
        if not images or not self.config:
            return []
        tag = "train/loss" if kind == "loss" else f"{_evaluation_of(self.config)}/{kind}"
        return [(record["step"] * self.config["batch_size"] / images, record[tag])
                for record in self.records if _is_number(record.get(tag))]


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ by the seed or the fold alone, and by what changes no result.

    Attributes:
        runs: list of Run.
        settings: dict of the fields in which the groups differ, name -> value.
    """

    runs: list
    settings: dict

    def summary(self, get):
        """{"mean", "std", "count"} of a number over the finished runs that have it; std is the sample's (n - 1).

        Args:
            get: function of a Run -> float or None.
        """
        values = [value for run in self.runs if run.state == "finished" and (value := get(run)) is not None]
        return {"mean": statistics.fmean(values) if values else None,
                "std": statistics.stdev(values) if len(values) > 1 else None, "count": len(values)}


    @property
    def missing_folds(self):
        """(numbers of the folds that no finished run is of, how many there are); ([], 0) where the runs have none."""
        found = [folds.parse(run.fold) for run in self.runs if run.state == "finished" and run.fold]
        count = found[0][1] if found else 0
        return [number for number in range(1, count + 1) if (number, count) not in found], count


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _evaluation_of(config):
    """The evaluation by which the best is chosen."""
    return averages.judged(averages.kind(config or {}))


def _newest(workdir, notes):
    """`run_record.Record` of the newest checkpoint whose run.json can be read, or None."""
    entries = [entry for entry in inventory.take(workdir, contents=False) if entry.kind == "checkpoint"]
    for entry in reversed(entries):
        if entry.record is not None:
            return entry.record
        notes.append(f"damaged: {entry.damage}")
    if not entries:
        notes.append("no checkpoint")
    return None


def _config(workdir, record, notes):
    """Every field's value, of the record, else of config.cfg; None without."""
    if record is None:
        try:
            return flags.load_config([f"--flagfile={workdir.config}"]).as_dict()
        except UserError as error:
            notes.append(f"no config that can be read ({error})")
            return None
    defaults = config_lib.Config().as_dict()
    return {name: tuple(value) if isinstance(value, list) else value
            for name, value in (defaults | record.settled_config).items() if name in defaults}


def _records(workdir, notes):
    """The records of metrics.jsonl that are any."""
    if not workdir.metrics.exists():
        notes.append("no metrics.jsonl")
        return []
    try:
        found = MetricsFile(workdir.metrics).read()
    except UnicodeDecodeError:
        notes.append("damaged: metrics.jsonl is no text")
        return []
    return [record for record in found if isinstance(record, dict) and isinstance(record.get("step"), int)]


def _evaluations(records, prefix, kept):
    """The evaluations of that name, in order: list of dicts, "step" and the metrics in `kept`, None for what is not."""
    return [{"step": record["step"]} | {name: record.get(f"{prefix}/{name}") for name in kept}
            for record in records if _is_number(record.get(f"{prefix}/{kept[0]}"))]


def _best(seen, judge):
    """The best of some evaluations, the first of equals; None without any."""
    best = None
    for one in seen:
        known = {name: math.nan if value is None else value for name, value in one.items()}
        if judge.is_better(known, best):
            best = known
    return best and {name: None if math.isnan(value) else value for name, value in best.items()}


def read(path):
    """The `Run` of a work folder.

    Args:
        path: text.

    Raises:
        UserError: it is no folder of a run, or can't be read.
    """
    workdir, notes = Workdir(path), []
    kept = (workdir.config, workdir.checkpoints, workdir.metrics)
    try:
        if not any(part.exists() for part in kept):
            found = "none of these" if workdir.path.is_dir() else "no such folder"
            raise UserError(f"{path}: expected the folder of a run, with config.cfg, checkpoints/ or metrics.jsonl, "
                            f"found {found}")
        record = _newest(workdir, notes)
        config, records = _config(workdir, record, notes), _records(workdir, notes)
    except OSError as error:
        raise UserError(f"{path}: expected a run that can be read, found {error.filename} ({error.strerror})") from None
    judge = measure.measure_of(config or {})
    seen = _evaluations(records, _evaluation_of(config), judge.kept)
    tests = _evaluations(records, "test", judge.kept)
    speeds = [value for line in records if _is_number(value := line.get("timing/images_per_second"))]
    if records and not seen:
        notes.append("not evaluated yet")
    best = _best(seen, judge) or (record and record.status.best)
    if record and record.resolved.fingerprints_before:
        notes.append("went on with other images (--accept_config_change): what it found before may be on others")
        best = record.status.best
    state = "finished" if record and record.finished else "running" if workdir.is_in_use() else "unfinished"
    resolved = record.resolved if record else None
    step = max([record.step if record else 0, *(line["step"] for line in records)])
    return Run(str(path), config, state, step, resolved and resolved.total_steps, resolved, best,
               seen[-1] if seen else None, tests[-1] if tests else None,
               statistics.median(speeds) if speeds else None, records, tuple(notes))


def differing(runs, how):
    """Fields in which runs of known config differ, seed, fold and folders aside: list of names.

    Args:
        runs: list of Run.
        how: bool, those that change no result, or those that define it.
    """
    known = [run.config for run in runs if run.config]
    return [name for name, field in config_lib.FIELDS.items()
            if field.how == how and not field.transient and name not in _NO_SETTING
            and len({_setting(config, name) for config in known}) > 1]


def _setting(config, name):
    """What a run's value of a field is to others: of a fold, how many there are."""
    return folds.any_of(config[name]) if name == "fold" else config[name]


def group(runs):
    """Groups of runs that differ by seed or fold alone: list of Group, in the order of their first runs."""
    names, groups, data = differing(runs, how=False), {}, {}
    for run in runs:
        if run.config and run.resolved:
            data.setdefault(tuple(_setting(run.config, name) for name in names), run.data)
    for run in runs:
        settings = tuple(_setting(run.config, name) for name in names) if run.config else None
        # A run without a checkpoint joins those of its flags. Nobody knows what one without flags is the same as.
        key = run.workdir if settings is None else (settings, run.data or data.get(settings))
        groups.setdefault(key, Group([], dict(zip(names, settings or (), strict=False)))).runs.append(run)
    return list(groups.values())
