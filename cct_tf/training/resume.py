"""Where a run goes on, and whether it may: judged from `run.json`, before TensorFlow is imported."""

import dataclasses
import pathlib

from cct_tf import config as config_lib
from cct_tf.errors import UserError
from cct_tf.training import checkpoint, run_record


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


def _shown(value):
    if value is None or value == ():
        return "default"
    return ",".join(f"{part:g}" for part in value) if isinstance(value, tuple) else str(value)


def find_start(config, workdir, console):
    """The newest usable checkpoint of a work folder, its config compared with the one given now.

    Args:
        config: `config.Config`.
        workdir: `workdir.Workdir`, locked; a dry run only looks.
        console: `console.Console`, told what changed.

    Returns:
        Start.

    Raises:
        UserError: fields that define the result differ and --accept_config_change was not given.
    """
    look_only = config.run.dry_run
    if not look_only:
        for folder in (workdir.checkpoints, workdir.best):
            checkpoint.clean(folder)
    path, record = run_record.newest_record(workdir.checkpoints, console.warn, look_only)
    if record is None:
        return Start(None, None)
    defining, how = config_lib.differences(record.config, config.as_dict())
    named = ", ".join(f"--{name} (checkpoint {_shown(old)}, now {_shown(new)})" for name, old, new in defining)
    if defining and not config.run.accept_config_change:
        raise UserError(f"{path}: expected the config of this run, found other values of {named}; "
                        "--accept_config_change goes on under the new ones, another --workdir starts anew")
    if defining:
        console.say(f"going on under a changed config: {named}")
    changed = [f"--{name} ({_shown(old)} -> {_shown(new)})" for name, old, new in how if name != "workdir"]
    if changed:
        console.say(f"changed since the checkpoint: {', '.join(changed)}")
    return Start(path, record)


def is_finished(config, start):
    """Whether the run already reached the end of this config."""
    if start.record is None or not start.record.finished:
        return False
    defining, _ = config_lib.differences(start.record.config, config.as_dict())
    return not defining
