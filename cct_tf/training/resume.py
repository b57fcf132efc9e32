"""Where a run goes on, and whether it may: judged from `run.json`, before TensorFlow is imported.

`restore` comes later: it reads the weights.
"""

import dataclasses
import pathlib

from cct_tf.errors import OutsideFault, UserError
from cct_tf.runs import checkpoint, run_record
from cct_tf.runs.run_status import RunStatus
from cct_tf.settings import averages
from cct_tf.settings import config as config_lib
from cct_tf.settings.measure import measure_of


@dataclasses.dataclass(frozen=True)
class Start:
    """Where a run begins.

    Attributes:
        path: checkpoint folder to restore, or None for a new run.
        record: its `run_record.Record`, or None.
    """

    path: pathlib.Path | None
    record: run_record.Record | None

    @property
    def step(self):
        return self.record.step if self.record else 0

    @property
    def resolved(self):
        """`resolved.Resolved` of the checkpoint, or None."""
        return self.record.resolved if self.record else None


def _shown(value):
    if value is None or value == ():
        return "default"
    return ",".join(f"{part:g}" for part in value) if isinstance(value, tuple) else str(value)


def _differences(record, config):
    """`config.differences` of a checkpoint and the config given now. An auto that defines the result counts as what it
    became, and given now it keeps that."""
    before, now = record.settled_config, config.as_dict()
    if now["precision"] == "auto":
        now["precision"] = before["precision"]
    return config_lib.differences(before, now)


def find_start(config, workdir, console):
    """The newest usable checkpoint of a work folder, its config compared with the one given now.

    Args:
        config: `config.Config`.
        workdir: `workdir.Workdir`, locked; a dry run only looks.
        console: `console.Console`, told what changed.

    Returns:
        Start.

    Raises:
        UserError: fields that define the result differ and --accept_config_change was not given, or the checkpoint
            can't take the change; or all checkpoints are damaged and --restart_if_unreadable was not given.
    """
    look_only = config.run.dry_run
    if not look_only:
        for folder in (workdir.checkpoints, workdir.best):
            checkpoint.clean(folder)
    try:
        path, record = run_record.newest_record(workdir.checkpoints, console.warn, look_only)
    except run_record.NoneReadable as error:
        if not config.run.restart_if_unreadable:
            raise
        if look_only:
            console.warn(f"{'; '.join(map(str, error.damaged.values()))}; a run sets them aside and starts anew")
        else:
            _set_aside_all(workdir, error.damaged, console)
        return Start(None, None)
    if record is None:
        if run_record.list_checkpoints(workdir.best):
            raise UserError(f"--workdir: expected a new folder, or one of a run that can go on, found "
                            f"{workdir.path} with a best checkpoint alone, which a new run would replace; another "
                            f"--workdir with --init_from={workdir.path} starts from it")
        return Start(None, None)
    defining, how = _differences(record, config)
    named = ", ".join(f"--{name} (checkpoint {_shown(old)}, now {_shown(new)})" for name, old, new in defining)
    if defining and not config.run.accept_config_change:
        raise UserError(f"{path}: expected the config of this run, found other values of {named}; "
                        "--accept_config_change goes on under the new ones, another --workdir starts anew")
    if defining:
        _check_average(record, config, path)
        _check_scale(record, config, path)
        _check_frozen(record, config, path)
        _check_first_weights(defining, path)
        console.say(f"going on under a changed config: {named}")
    changed = [f"--{name} ({_shown(old)} -> {_shown(new)})" for name, old, new in how if name != "workdir"]
    if changed:
        console.say(f"changed since the checkpoint: {', '.join(changed)}")
    return Start(path, record)


def _set_aside_all(workdir, damaged, console):
    """Clear the way for a run from step 0. The checkpoints come last: while one is left, no start takes the folder for
    a new one, and --restart_if_unreadable does the rest.

    Args:
        damaged: dict pathlib.Path -> Unreadable.
    """
    results = workdir.set_aside_results()
    for path, error in damaged.items():
        aside = run_record.set_aside(path)
        console.warn(f"{error}; set aside as {aside.name}, results in {results.name}, starting anew")


def _check_average(record, config, path):
    """A checkpoint without an average can't go on with one, nor drop one: `best` was chosen the other way."""
    before, now = averages.kind(record.config), config.optim.average
    share, beta_1 = record.config.get("beta_1"), config.optim.beta_1
    if before == now == "schedule_free" and share != beta_1:
        raise UserError(f"{path}: expected --beta_1={share:g}, by which its average follows from the weights, found "
                        f"{beta_1:g}; another --workdir starts anew")
    if before == now:
        return
    flag = averages.FLAGS[before or now]
    expected = "on, for it holds such an average" if before else "off, for it holds no average"
    raise UserError(f"{path}: expected {flag} {expected} of the weights, found "
                    f"{'no average' if now is None else averages.FLAGS[now]}; another --workdir starts anew")


def _check_scale(record, config, path):
    """Only a checkpoint of a float16 run holds the scale of the loss."""
    before = record.settled_config["precision"]
    now = before if config.model.precision == "auto" else config.model.precision
    if (before == "float16") != (now == "float16"):
        expected = "float16, for it holds a loss scale" if before == "float16" else "float32 or bfloat16"
        raise UserError(f"{path}: expected --precision={expected}, found {now}; another --workdir starts anew")


def _check_frozen(record, config, path):
    """The optimizer's state is that of the weights that learn."""
    before, now = record.config.get("freeze"), config.model.freeze
    if before != now:
        raise UserError(f"{path}: expected --freeze={before or ''}, whose weights its optimizer knows, found "
                        f"{_shown(now)}; a run with another --workdir and --init_from={path} starts from these weights")


def _check_first_weights(defining, path):
    """They are read when a run begins; a run that goes on would name others and not take them."""
    for name, old, new in defining:
        if name in ("init_from", "init_weights"):
            raise UserError(f"{path}: expected --{name} as when the run began ({_shown(old)}), for no weights are read "
                            f"again, found {_shown(new)}; another --workdir starts from them")


def is_finished(config, start):
    """Whether the run already reached the end of this config."""
    if start.record is None or not start.record.finished:
        return False
    defining, _ = _differences(start.record, config)
    return not defining


def restore(start, trackable, config, workdir, console):
    """Restore the newest readable checkpoint; damaged ones are set aside and said.

    Args:
        start: Start, from `find_start` with the same config, workdir and console.
        trackable: tf.train.Checkpoint, everything built.

    Returns:
        Start: the one restored.

    Raises:
        OutsideFault: none was readable, and --restart_if_unreadable: the next start begins anew.
    """
    while start.path is not None:
        try:
            checkpoint.restore(start.path, trackable)
            break
        except run_record.Unreadable as error:
            is_last = len(run_record.list_checkpoints(workdir.checkpoints)) == 1
            if is_last and not config.run.restart_if_unreadable:
                # Set aside, it would let the next start begin anew.
                raise run_record.NoneReadable(workdir.checkpoints, {start.path: error}) from None
            if config.run.dry_run:
                then = "starts anew" if is_last else "goes on from the checkpoint before it"
                raise UserError(f"{error}; a run {then}") from None
            start = _step_back(start, error, is_last, config, workdir, console)
    return start


def _step_back(start, error, is_last, config, workdir, console):
    """The Start before one that TensorFlow could not read, though its checksums were right."""
    if is_last:
        _set_aside_all(workdir, {start.path: error}, console)
    else:
        aside = run_record.set_aside(start.path)
        console.warn(f"{error}: damaged, set aside as {aside.name}, going on from the one before")
        start = find_start(config, workdir, console)
    if is_last or start.path is None:
        # Not in this process: the failed read may have replaced some of the initial weights.
        raise OutsideFault(f"{error}; the same command starts anew") from None
    return start


def status_at(start, config, workdir, console, source=None):
    """`RunStatus` at a Start, with the images of `source`, a `source.Source`; without it, with those of the Start.

    The best result so far counts if it was found on the same images, and its weights are still there, and whole.

    After going back to an older checkpoint they may be gone: a better result replaced them. It comes again. That they
    are damaged is better known now than when the end of the run tests them.
    """
    record = start.record
    if record is None:
        return RunStatus()
    defining, _ = _differences(record, config)
    status, best = record.status, record.status.best
    other_images = source is not None and record.resolved.fingerprint != source.fingerprint
    if defining or other_images:
        # Patience begins anew under a changed config, or a run that stopped early would stop again at once.
        status = dataclasses.replace(status, evaluations_without_best=0)
    if best and measure_of(record.config) != config.measure:
        console.say(f"the best so far, at step {best['step']}, was chosen by another metric: it is chosen anew")
        return dataclasses.replace(status, best=None)
    if best and other_images and record.resolved.evaluated_fingerprint != source.evaluated_fingerprint:
        console.say(f"the best so far, at step {best['step']}, was found on other images: the best is chosen anew")
        return dataclasses.replace(status, best=None)
    if best and not _is_kept(best, workdir, console):
        return dataclasses.replace(status, best=None, evaluations_without_best=0)
    return status


def _is_kept(best, workdir, console):
    """Whether the weights of the best evaluation are there, and whole; says if they aren't."""
    path = workdir.best / f"step_{best['step']:08d}"
    try:
        run_record.read_record(path)
    except run_record.Unreadable as error:
        if path.exists():
            console.warn(f"{error}; the best is chosen anew")
        else:
            console.say(f"the best weights of step {best['step']} are no longer kept: the best is chosen anew")
        return False
    return True
