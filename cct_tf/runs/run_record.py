"""`run.json`: what a checkpoint's weights belong to, and whether its files are whole. No TensorFlow here.

So a command can choose the checkpoint to go on from, and compare configs, before importing it. A checkpoint is a folder
`step_00000500`; what is being written or removed has a hidden name, so a folder of that name is complete.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import shutil
import zlib

from cct_tf.errors import UserError
from cct_tf.runs import found_broken_file
from cct_tf.runs.resolved import Resolved
from cct_tf.runs.run_status import RunStatus
from cct_tf.runs.workdir import naming, readable
from cct_tf.settings import averages
from cct_tf.settings.config import DataConfig

_NAME = re.compile(r"step_(\d{8,})")
_SET_ASIDE = ".corrupt"


class Unreadable(Exception):
    """A checkpoint's files are damaged."""


class NoneReadable(UserError):
    """There are checkpoints, and all are damaged.

    Args:
        folder: pathlib.Path, `checkpoints`.
        damaged: dict pathlib.Path -> Unreadable.
    """

    def __init__(self, folder, damaged):
        super().__init__(f"{folder}: expected a checkpoint that can be read, found none: "
                         + "; ".join(str(error) for error in damaged.values())
                         + "; --restart_if_unreadable sets them aside and starts anew")
        self.damaged = damaged


# What a run.json of before these keys existed means by their absence.
_BEFORE = {"evaluation_due": False, "evaluations_without_best": 0, "rollback_count": 0, "learning_rate_factor": 1.0,
           "thresholds": None}


@dataclasses.dataclass(frozen=True)
class Record:
    """What `run.json` says.

    Attributes:
        config: flat dict, the config as given.
        resolved: `resolved.Resolved`, what was worked out.
        step: int, updates done or skipped.
        status: `run_status.RunStatus`; run.json holds its fields beside those of this class.
        finished: bool, the run reached its end and its last evaluation.
        versions: dict of package versions.
        evaluation_due: bool, the checkpoint was saved to be evaluated.
    """

    config: dict
    resolved: Resolved
    step: int
    status: RunStatus
    finished: bool
    versions: dict
    evaluation_due: bool = False

    @classmethod
    def from_json(cls, found):
        """`Record` of what a run.json of any version holds, without its format and checksums.

        Args:
            found: dict.

        Raises:
            KeyError, TypeError: keys are missing, or others are there.
        """
        found = _BEFORE | found
        status = RunStatus(**{field.name: found.pop(field.name) for field in dataclasses.fields(RunStatus)})
        return cls(resolved=Resolved.from_json(found.pop("resolved")), status=status, **found)

    @property
    def settled_config(self):
        """The config with what `auto` chose where that defines the result: --precision."""
        given = self.config.get("precision", "float32")
        chosen = (self.resolved.precision or "float32") if given == "auto" else given  # converted weights chose none
        return self.config | {"precision": chosen}

    @property
    def keeps_average(self):
        """Whether the checkpoint holds an average of the weights beside them."""
        return averages.kind(self.config) is not None

    def thresholds_of(self, weights):
        """The thresholds fitted when these weights ("raw" ...) were evaluated, tuple of K floats; None if not."""
        is_judged = weights == choose_weights(self, "auto") and self.status.last_evaluated_step == self.step
        return self.status.thresholds if is_judged else None

    def as_json(self):
        """The dict for run.json, but for format and checksums; `from_json` gives the same `Record` of it."""
        status = dataclasses.asdict(self.status)
        if self.status.thresholds is None:
            del status["thresholds"]
        return {"config": self.config, "resolved": self.resolved.as_json(), "step": self.step, **status,
                "finished": self.finished, "versions": self.versions, "evaluation_due": self.evaluation_due}


def versions():
    """The packages that results depend on, for a Record: dict name -> version."""
    names = ("tensorflow", "keras", "numpy")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}


def step_of(path):
    """The step of a checkpoint folder's name, or None if it isn't one."""
    match = _NAME.fullmatch(pathlib.Path(path).name)
    return int(match.group(1)) if match else None


def list_checkpoints(folder):
    """Complete checkpoints of a folder, lowest step first: list of pathlib.Path. UserError if it can't be read."""
    folder = pathlib.Path(folder)
    with readable():
        if not folder.is_dir():
            return []
        found = [path for path in folder.iterdir() if step_of(path) is not None and path.is_dir()]
    return sorted(found, key=step_of)


def list_set_aside(folder):
    """What `set_aside` made of a folder's checkpoints, in order of names: list of pathlib.Path."""
    return sorted(path for path in pathlib.Path(folder).glob(f"*{_SET_ASIDE}") if step_of(path.stem) is not None)


def read_record(path, contents=True):
    """The `Record` of a checkpoint folder, all of whose files are as they were written.

    Args:
        path: the folder.
        contents: False looks at the sizes of TensorFlow's files only, which is quick.

    Raises:
        Unreadable: naming the file that is missing or damaged.
    """
    name = "run.json"
    try:
        data = _parse((pathlib.Path(path) / name).read_bytes())
        files = data.pop("files", {})
        record = Record.from_json(data)
        for name, checksum in files.items():
            file = pathlib.Path(path) / name
            as_written = _checksum(file) == checksum if contents else file.stat().st_size == int(checksum.split()[0])
            if not as_written:
                raise ValueError("not as it was written")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = {FileNotFoundError: "missing", ValueError: str(error)}.get(type(error), "damaged")
        reason = error.strerror if reason == "damaged" and isinstance(error, OSError) else reason
        raise Unreadable(f"{pathlib.Path(path) / name}: {reason}") from None
    return record


def _parse(text):
    """The dict of a run.json's bytes, without format and checksum. One of before there was a checksum is taken too."""
    data = json.loads(text.decode())
    _, _, others = text.partition(b"\n")
    checksum = f"{zlib.crc32(others):08x}"
    if data.pop("checksum", checksum) != checksum:
        raise ValueError("not as it was written")
    if data.pop("format") != 1:
        raise ValueError("another format")
    return data


def find_checkpoint(workdir, name, workdir_flag="--workdir", flag="--checkpoint"):
    """The checkpoint folder that a command's --checkpoint names.

    Args:
        workdir: `workdir.Workdir`.
        name: "best", "last" or a path.
        workdir_flag, flag: the flags that name the two, for messages.

    Returns:
        (pathlib.Path, Record); the record's images are those of the run's newest checkpoint.

    Raises:
        UserError: there is none, or it can't be read.
    """
    if name in ("best", "last"):
        folder = workdir.best if name == "best" else workdir.checkpoints
        found = list_checkpoints(folder)
        if not found:
            raise UserError(f"{workdir_flag}: expected a run with a {name} checkpoint, found none in {folder}")
        path = found[-1]
    else:
        path = pathlib.Path(name)
        with readable():
            is_one = step_of(path) is not None and path.is_dir()
        if not is_one:
            raise UserError(f"{flag}: expected best, last or a checkpoint folder (step_...), found {name!r}")
    try:
        return path, _with_images_of_run(path, read_record(path))
    except Unreadable as error:
        raise not_readable(error, flag) from None


def _with_images_of_run(path, record):
    """The record of a checkpoint, with the images that its run took since, see --accept_config_change, and those it has
    found broken: what is written in the newest record. Those it had before may be gone."""
    newest, folder = record, path.absolute().parent.parent
    for other in reversed(list_checkpoints(folder / "checkpoints")):
        with contextlib.suppress(Unreadable):
            newest = read_record(other, contents=False)
            break
    before, now = record.resolved, newest.resolved
    if before.fingerprint != now.fingerprint:
        if before.fingerprint not in now.fingerprints_before:
            return record
        flags = {field.name: newest.config.get(field.name, field.default) for field in dataclasses.fields(DataConfig)}
        record = dataclasses.replace(record, config=record.config | flags)
    found = found_broken_file.joined(now.found_broken, found_broken_file.read(folder, now.fingerprint))
    return dataclasses.replace(record, resolved=dataclasses.replace(
        before, fingerprint=now.fingerprint, num_examples=now.num_examples,
        evaluated_fingerprint=now.evaluated_fingerprint, folder=now.folder, left_out=now.left_out, found_broken=found))


def not_readable(error, flag="--checkpoint"):
    """The UserError for an `Unreadable` checkpoint; `flag` is the flag that names it."""
    return UserError(f"{flag}: expected a checkpoint that can be read, found it damaged ({error}); another is named "
                     f"with {flag}=PATH")


def require_data(record, workdir):
    """Raise UserError if nobody knows what the classes of a checkpoint are: converted weights without a data set.

    Args:
        record: its Record.
        workdir: --workdir, for the message.
    """
    if not record.resolved.has_data:
        raise UserError(f"--workdir: expected a run with a data set, found weights that were converted without one in "
                        f"{workdir}; cct_tf.convert_torch with --dataset adds it")


def choose_weights(record, asked, flag="--weights"):
    """Which weights of a checkpoint a command's --weights means.

    Args:
        record: its Record.
        asked: "auto" (the average where the run kept one), "raw", "ema" or "average".
        flag: the flag that says so, for messages.

    Returns:
        "raw", "ema" or "average".

    Raises:
        UserError: the run has no such weights.
    """
    kind = averages.kind(record.config)
    best = averages.weights(kind)
    if asked in ("auto", best):
        return best
    if kind is None:
        raise UserError(f"{flag}: expected auto or raw for a run without an average of its weights (--ema_decay), "
                        f"found {asked!r}")
    if kind == "schedule_free":
        raise UserError(f"{flag}: expected auto or average for a run with --optimizer={averages.SCHEDULE_FREE}, whose "
                        f"average is the network, found {asked!r}")
    if asked != "raw":
        raise UserError(f"{flag}: expected auto, raw or {best} for this run, found {asked!r}")
    return asked


def _checksum(path):
    """"BYTES CRC32" of a file."""
    size, crc = 0, 0
    with open(path, "rb") as file:
        while block := file.read(2**20):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return f"{size} {crc:08x}"


def _checksums(folder):
    """{file name: checksum} of TensorFlow's files in a checkpoint folder: as run.json has them, else from the files."""
    try:
        return json.loads((folder / "run.json").read_text(encoding="utf-8")).get("files", {})
    except FileNotFoundError:
        return {path.name: _checksum(path) for path in sorted(folder.iterdir())}


def sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _text(record, files):
    """The text of run.json; `files` as `_checksums` gives them. The first line is the checksum of the others."""
    text = json.dumps({"format": 1, "files": files} | record.as_json(), indent=1) + "\n"
    others = text.removeprefix("{\n")
    return f'{{"checksum": "{zlib.crc32(others.encode()):08x}",\n{others}'


def write_record(path, record):
    """Replace the run.json of a checkpoint folder atomically."""
    text = _text(record, _checksums(path))
    temporary = path / ".run.json.tmp"
    with naming(path), open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path / "run.json")
    sync(path)


def set_aside(path):
    """Rename a damaged checkpoint out of the way; returns its new path."""
    target = path.with_name(path.name + _SET_ASIDE)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(path, target)
    return target


def newest_record(folder, warn, look_only=False):
    """The newest checkpoint whose files are whole, with its record.

    Args:
        folder: pathlib.Path, `checkpoints`.
        warn: function of a line of text; damaged ones are set aside and said, unless none is whole: then the next
            start must not take the folder for a new one.
        look_only: set nothing aside.

    Returns:
        (path, Record), or (None, None) if there is none.

    Raises:
        NoneReadable: there are checkpoints, and none can be read.
    """
    damaged = {}
    for path in reversed(list_checkpoints(folder)):
        try:
            record = read_record(path)
        except Unreadable as error:
            damaged[path] = error
            continue
        for other, error in damaged.items():
            aside = "" if look_only else f" set aside as {set_aside(other).name},"
            warn(f"{error};{aside} going on from {path.name}")
        return path, record
    if damaged:
        raise NoneReadable(folder, damaged)
    return None, None
