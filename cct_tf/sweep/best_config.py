"""best.cfg: the winner as a flagfile, with the head that configs/ have."""

import shlex

from cct_tf.benchmark import machine
from cct_tf.settings import config, flags
from cct_tf.sweep import space, table, training

_OF_TRIALS = ("workdir", "test_at_end")  # a run of its own has another folder, and is tested


def write(folder, base, search, found):
    """Write it.

    Args:
        folder: `folder.Folder`.
        base: flat dict of the base.
        search: `study.Search`.
        found: dict, as result.json holds it.
    """
    values = space.with_values(base, search.space, found["values"]).as_dict()
    lines = [line for line in flags.as_flagfile(config.from_dict(values)).splitlines() if line.startswith("--")]
    kept = [line for line in lines if _is_said(line[2:].partition("=")[0], values)]
    head = _head(folder, base, search, found)
    folder.write(folder.best, "\n".join([*head, "", f"--workdir={folder.path / 'best'}", *kept]) + "\n")


def _is_said(name, values):
    return name not in _OF_TRIALS and values[name] != config.FIELDS[name].default


def _head(folder, base, search, found):
    plan = training.Evaluations(folder.trial(found["trial"]), base).plan
    about = machine.describe()
    device = f"{plan.num_replicas} GPU{'s' * (plan.num_replicas > 1)}, " if plan and plan.device == "GPU" else ""
    pruner = "no pruner" if search.pruner == "none" else f"pruner {search.pruner}"
    command = f"python -m cct_tf.train --flagfile={shlex.quote(str(folder.best))}"
    winner, *seen = [line.strip() for line in table.winner_lines(found)]
    return [f"# The {winner}",
            f"# Searched by {search.sampler} (seed {search.seed}), {pruner}, in {folder.path}.",
            "#", f"#   command    {command}",
            f"#   hardware   any; found on {device}{about['processors']} cores of {about['cpu']}",
            *(f"#   {'seen here' if not place else '':<9}  {line}" for place, line in enumerate(seen))]
