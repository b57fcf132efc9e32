"""The checkpoint of a run that a command works on, found and judged without TensorFlow."""

import collections.abc
import dataclasses
import functools
import pathlib

from cct_tf.runs import run_record
from cct_tf.runs.workdir import Workdir
from cct_tf.settings import config as config_lib


@dataclasses.dataclass(frozen=True)
class Selection:
    """A checkpoint of a run.

    Attributes:
        find: function () -> (pathlib.Path, Record). Finds the checkpoint anew: while its run goes on, the folder found
            before may have been removed.
        path, record: pathlib.Path and `run_record.Record`, as `select` found them.
        settings: `config.Config` of the run.
    """

    find: collections.abc.Callable
    path: pathlib.Path
    record: run_record.Record
    settings: config_lib.Config


def select(workdir, checkpoint="best", weights="auto", *, changed=None, needs_data=True, workdir_flag="--workdir",
           checkpoint_flag="--checkpoint", weights_flag="--weights"):
    """Select a checkpoint of a run.

    Args:
        workdir: str, the run's work folder.
        checkpoint: "best", "last" or the path of a checkpoint folder.
        weights: "auto", "raw", "ema" or "average", see `run_record.choose_weights`.
        changed: dict of config fields that differ from the run's. Replicas and micro-batches always may: the devices
            here need not divide the run's batch.
        needs_data: whether converted weights without a data set are refused.
        workdir_flag, checkpoint_flag, weights_flag: what the command calls these three, for messages.

    Returns:
        Selection.

    Raises:
        UserError: naming the flag: there is no such checkpoint, it is damaged, or it lacks the data set or the weights.
    """
    find = functools.partial(run_record.find_checkpoint, Workdir(workdir), checkpoint, workdir_flag=workdir_flag,
                             flag=checkpoint_flag)
    path, record = find()
    if needs_data:
        run_record.require_data(record, workdir)
    run_record.choose_weights(record, weights, flag=weights_flag)
    fields = record.settled_config | {"num_replicas": None, "accumulate_steps": None} | (changed or {})
    return Selection(find, path, record, config_lib.from_dict(fields))
