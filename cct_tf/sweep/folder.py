"""The folder of a sweep: its record, its locks, the names in it. Neither TensorFlow nor Optuna here.

    sweep.json             what was asked for, and the name of the study; a later start must ask for the same
    study.db               Optuna's study, unless --storage says otherwise
    base.cfg               the base, a flagfile
    trial_0000/ ...        the work folder of each trial; output.txt in it is what its training said
    final_0007_seed_3/     the repeats of the finalists
    table.txt, best.cfg    the results
    result.json            who won, and what came out on the test split
    plots/                 history.png, importance.png, parallel_coordinates.png
"""

import contextlib
import fcntl
import json
import pathlib
import uuid

from cct_tf.errors import UserError
from cct_tf.runs.workdir import Workdir
from cct_tf.settings import config

_FORMAT = 1
# Cadences change no result of a run, but they do change which evaluations there are to choose from.
_CADENCES = ("eval_every_epochs", "eval_every_steps")


@contextlib.contextmanager
def held(path, wait=True):
    """Hold a lock while the block runs; it goes with the process. Gives whether it is held.

    Args:
        path: pathlib.Path of the lock's file.
        wait: whether to wait for it.

    Raises:
        UserError: the file system has no locks.
    """
    with open(path, "a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        except OSError as error:
            raise UserError(f"--workdir: expected a file system with file locks, found none at {path} "
                            f"({error.strerror})") from None
        yield True


class Folder:
    """A sweep's folder.

    Args:
        path: text. Created by `create`, not here.
    """

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.record = self.path / "sweep.json"
        self.base = self.path / "base.cfg"
        self.table = self.path / "table.txt"
        self.best = self.path / "best.cfg"
        self.result = self.path / "result.json"
        self.plots = self.path / "plots"
        self.database = self.path / "study.db"

    def check(self):
        """Raise UserError if neither a sweep nor a range test can be here: there is a run, or a file."""
        Workdir(self.path).check()
        for name in ("checkpoints", "config.cfg", "metrics.jsonl"):
            if (self.path / name).exists():
                raise UserError(f"--workdir: expected a folder of its own, found a run in {self.path} ({name})")

    def create(self):
        """Make the folder, or say in one line why it can't be one."""
        self.check()
        Workdir(self.path).create()

    def claiming(self):
        """Context in which one process at a time looks for its next trial."""
        return held(self.path / ".claim")

    def trial(self, number):
        """Work folder of a trial: pathlib.Path."""
        return self.path / f"trial_{number:04d}"

    def final(self, number, seed):
        """Work folder of a repeat of a trial under another seed: pathlib.Path."""
        return self.path / f"final_{number:04d}_seed_{seed}"

    def write(self, path, text):
        """Replace a small text file, whole."""
        Workdir(self.path).write_text(path, text)

    def settle(self, asked):
        """Compare what is asked for with the record, if there is one; call it while `claiming`.

        Args:
            asked: dict {"base": flat dict, "storage": text, and flags of the sweep: value}.

        Returns:
            The name of the study, a new one where there is no record; `keep` writes it.

        Raises:
            UserError: something is asked for that makes another sweep.
        """
        if not self.record.exists():
            return f"{self.path.absolute().name}-{uuid.uuid4().hex[:8]}"
        try:
            record = json.loads(self.record.read_text(encoding="utf-8"))
            before = record["base"]
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{self.record}: expected the record of a sweep, found another ({error})") from None
        differing = [(name, old, new) for name, old, new in config.differences(before, asked["base"])[0]]
        differing += [(name, before.get(name), asked["base"][name]) for name in _CADENCES
                      if before.get(name) != asked["base"][name]]
        differing += [(name, record.get(name), value) for name, value in asked.items()
                      if name != "base" and record.get(name) != value]
        if differing:
            name, old, new = differing[0]
            more = f" (and --{', --'.join(each[0] for each in differing[1:])})" if differing[1:] else ""
            raise UserError(f"--{name}: expected {_shown(old)}, as when the sweep in {self.path} began, found "
                            f"{_shown(new)}{more}; another sweep needs another --workdir")
        return record["study"]

    def keep(self, name, asked):
        """Write the record, if there is none; arguments as `settle` gives and takes them."""
        if not self.record.exists():
            self.write(self.record, json.dumps({"format": _FORMAT, "study": name} | asked, indent=1) + "\n")


def _shown(value):
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def read_json(path):
    """What a small JSON file holds; None if there is none, or half of one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
