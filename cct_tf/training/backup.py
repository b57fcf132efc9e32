"""A copy of the work folder elsewhere, such as `gs://bucket/run`, from which an empty work folder goes on.

    files/DIGEST-NAME    contents, stored once, under the first 16 hex digits of their SHA-256
    list_N.json          what is where, written last: {"files": {path: name below files/}}

A reader takes the newest list whose files are all there and whole, so a copy that was cut short is never seen. Older
lists, and files that none of the newest two names, go.
"""

import hashlib
import json
import os
import pathlib
import re
import threading

from cct_tf.errors import OutsideFault, UserError
from cct_tf.machine import remote_systems

_BLOCK = 16 * 2**20  # bytes copied at a time
_FIRST_WAIT, _LONGEST_WAIT = 5.0, 300.0  # seconds before a copy that failed is tried again
_LAST_WAIT = 60.0  # seconds that the end of a run waits for the last copy
_LISTS = 2  # kept


class Changed(Exception):
    """A file of the work folder changed, or went, while it was copied."""


class Backup:
    """Copies the work folder in a thread of its own whenever there is something new; a context manager.

    A copy that fails is tried again, and said once; it never stops the run.

    Args:
        workdir: `workdir.Workdir`.
        place: text, the folder of the copy.
        warn: function of a line of text.
    """

    def __init__(self, workdir, place, warn):
        self._folder, self._place, self._warn = workdir.path, place.rstrip("/"), warn
        self._system = remote_systems.system(place)
        self._wake, self._is_over, self._is_whole = threading.Event(), False, False
        self._stored, self._number, self._digests = set(), 0, {}
        self._thread = threading.Thread(target=self._run, daemon=True, name="backup")

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._is_over = True
        self._wake.set()
        self._thread.join(_LAST_WAIT)
        if self._thread.is_alive() or not self._is_whole:
            self._warn(f"--backup_dir: the last copy to {self._place} is not complete")

    def changed(self):
        """Something new was saved."""
        self._wake.set()

    def _run(self):
        wait, has_failed = None, False
        while True:
            self._wake.wait(wait)
            is_last = self._is_over
            self._wake.clear()
            try:
                self.copy()
                wait, has_failed, self._is_whole = None, False, True
            except Exception as error:  # each file system has its own, and a copy never ends a run
                self._is_whole = False
                if not has_failed and not isinstance(error, Changed):
                    self._warn(f"--backup_dir: copying to {self._place} failed, and is tried again: "
                               f"{' '.join(str(error).split())[:200]}")
                    has_failed = True
                wait = min(2 * (wait or _FIRST_WAIT / 2), _LONGEST_WAIT)
            if is_last:
                return

    def copy(self):
        """Copy what is new, then the list; raises Changed, or whatever the file system does."""
        if not self._number:
            lists = _lists(self._place)
            self._number = max(lists, default=0)
            self._stored = set().union(*(_read(self._place, number).values() for number in lists[-_LISTS:]))
        self._system.makedirs(f"{self._place}/files")
        listed = {}
        for path in sorted(self._folder.rglob("*")):
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(self._folder).parts):
                name = self._name(path)
                if name not in self._stored:
                    _copied(self._system, path, f"{self._place}/files/{name}", name)
                    self._stored.add(name)
                listed[str(path.relative_to(self._folder))] = name
        self._number += 1
        with self._system.opened(f"{self._place}/list_{self._number:08d}.json", "wb") as file:
            file.write(json.dumps({"files": listed}).encode())
        self._remove_old()

    def _name(self, path):
        """What a file is stored as. Of one that is read already, its size and time tell that it is the same."""
        try:
            found = path.stat()
            key = (str(path), found.st_size, found.st_mtime_ns)
            if key not in self._digests:
                self._digests[key] = f"{_digest(path)}-{path.name}"
        except FileNotFoundError as error:
            raise Changed from error
        return self._digests[key]

    def _remove_old(self):
        lists = _lists(self._place)
        for number in lists[:-_LISTS]:
            self._system.remove(f"{self._place}/list_{number:08d}.json")
        self._stored = set().union(*(_read(self._place, number).values() for number in lists[-_LISTS:]))
        for name in self._system.names(f"{self._place}/files"):
            if name not in self._stored:
                self._system.remove(f"{self._place}/files/{name}")


def _digest(path):
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            found.update(block)
    return found.hexdigest()[:16]


def _copied(system, path, target, name):
    found = hashlib.sha256()
    try:
        with open(path, "rb") as source, system.opened(target, "wb") as file:
            while block := source.read(_BLOCK):
                found.update(block)
                file.write(block)
    except FileNotFoundError as error:
        raise Changed from error
    if not name.startswith(found.hexdigest()[:16]):
        raise Changed


def _lists(place):
    """Numbers of the lists, from the oldest on."""
    system = remote_systems.system(place)
    if not system.exists(place):
        return []
    found = (re.fullmatch(r"list_(\d+)\.json", name) for name in system.names(place))
    return sorted(int(match.group(1)) for match in found if match)


def _read(place, number):
    """{path: name} of a list; {} of one that is damaged."""
    try:
        return dict(json.loads(remote_systems.system(place).read(f"{place}/list_{number:08d}.json", None))["files"])
    except (ValueError, KeyError, TypeError):
        return {}


def check(place):
    """Raise UserError if no file system here knows the place; it need not be there yet."""
    try:
        remote_systems.system(place)
    except UserError as error:
        raise UserError(f"--backup_dir: {error}") from None


def restore(workdir, place):
    """Fill an empty work folder from its copy.

    Args:
        workdir: `workdir.Workdir`, created.
        place: text, the folder of the copy.

    Returns:
        int, files restored; 0 if there is no copy.

    Raises:
        OutsideFault: there is a copy, and it can't be read.
    """
    place = place.rstrip("/")
    try:
        lists = _lists(place)
        for number in reversed(lists):
            listed = _read(place, number)
            # What makes a checkpoint one, its run.json, comes last: a start that is killed leaves no half one.
            ordered = sorted(listed.items(), key=lambda pair: (pair[0].endswith("run.json"), pair[0]))
            if listed and all(_fetched(f"{place}/files/{name}", name, workdir.path / path) for path, name in ordered):
                return len(listed)
    except Exception as error:  # each file system has its own
        raise OutsideFault(f"--backup_dir: {place} can't be read ({' '.join(str(error).split())[:200]}); the same "
                           "command tries again") from None
    if lists:
        raise OutsideFault(f"--backup_dir: expected a whole copy in {place}, found damaged or missing files; give a "
                           "--backup_dir that is empty, or mend it")
    return 0


def _fetched(stored, name, target):
    """Copy a file here; whether it is there and whole. It is seen whole or not at all."""
    system = remote_systems.system(stored)
    if not system.exists(stored):
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary, found = target.with_name(f".{target.name}.tmp"), hashlib.sha256()
    with system.opened(stored, "rb") as source, open(temporary, "wb") as file:
        while block := source.read(_BLOCK):
            found.update(block)
            file.write(block)
    if not name.startswith(found.hexdigest()[:16]):
        pathlib.Path(temporary).unlink()
        return False
    os.replace(temporary, target)
    return True
