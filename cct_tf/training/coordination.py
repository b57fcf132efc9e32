"""What the workers of a run settle together at its start. Worker 0 judges and writes, the others follow and read.

No TensorFlow is imported with this module. In a run of one process, everything here is what `resume` does.
"""

import contextlib
import dataclasses
import os
import secrets
import time

from cct_tf.assembly import initial_weights
from cct_tf.data import registry
from cct_tf.errors import OutsideFault, UserError
from cct_tf.runs import checkpoint, run_record
from cct_tf.runs.run_status import Standing
from cct_tf.training import divergence, resume

_MARK_SECONDS = 90.0  # a network file system may show a new file, or a new folder, a minute late


def find_start(config, workdir, console, peers):
    """As `resume.find_start`, on worker 0; the others learn what it found.

    Raises:
        UserError: as there; or this worker does not see the work folder of worker 0.
    """
    if peers.num_workers == 1:
        return resume.find_start(config, workdir, console)
    mark = None if config.run.dry_run else workdir.path / ".shared"
    if peers.is_chief:
        start = resume.find_start(config, workdir, console)
        text = secrets.token_hex(8)
        if mark:
            workdir.write_text(mark, text)
        peers.exchange({"checkpoint": start.path and start.path.name, "mark": text})
        peers.exchange()  # all have seen it
        if mark:
            mark.unlink()
        return start
    said = peers.exchange()[0]
    if mark:
        _await_mark(mark, said["mark"])
    peers.exchange()
    return _start_at(workdir, said["checkpoint"])


def _await_mark(path, text):
    deadline = time.monotonic() + _MARK_SECONDS
    while not _is_there(path, text):
        if time.monotonic() > deadline:
            raise UserError("--workdir: expected the folder that worker 0 writes to, which every worker has to see, "
                            f"found {path.parent} without what worker 0 wrote there")
        time.sleep(0.2)


def _is_there(path, text):
    with contextlib.suppress(OSError):
        os.listdir(path.parent)  # has a network file system look again
        return path.read_text(encoding="utf-8") == text
    return False


def _start_at(workdir, name):
    """`resume.Start` at the checkpoint called `name` in the work folder; None is a new run."""
    if name is None:
        return resume.Start(None, None)
    path = workdir.checkpoints / name
    try:
        return resume.Start(path, run_record.read_record(path, contents=False))  # worker 0 has read it all
    except run_record.Unreadable as error:
        raise OutsideFault(f"{error}, on this worker alone") from None


def open_images(opening, config, peers):
    """What `opening()` gives. A data set that may have to be prepared first is, by worker 0."""
    follows = config.data.dataset not in registry.OURS and not peers.is_chief
    if follows:
        peers.wait_for_chief()
    images = opening()
    if config.data.dataset not in registry.OURS and peers.is_chief:
        peers.wait_for_chief()
    expected, *found = peers.exchange(images.source.fingerprint)
    for index, fingerprint in enumerate(found, 1):
        if fingerprint != expected:  # all say so at once: nobody is left waiting in a collective
            raise UserError(f"--data_dir: expected the images of worker 0 (fingerprint {expected[:12]}) on every "
                            f"worker, found others ({fingerprint[:12]}) on worker {index}")
    return images


def read_initial_weights(config, start, peers):
    """The `transfer.PretrainedWeights` that --init_from names, the same on all workers; None if the run goes on."""
    find = initial_weights.find(config) if start.record is None else None
    if find is None:
        return None
    pretrained = find()
    expected, *others = peers.exchange(pretrained.checksum)
    for index, checksum in enumerate(others, 1):
        if checksum != expected:
            raise UserError(f"--init_from: expected the weights of worker 0 (checksum {expected}) on every worker, "
                            f"found others ({checksum}) on worker {index}")
    return pretrained


def restore(start, trackable, config, workdir, console, peers, source):
    """As `resume.restore` and `resume.standing`, on worker 0; the others restore what it could.

    Returns:
        (resume.Start, standing.Standing).
    """
    if peers.is_chief:
        start = resume.restore(start, trackable, config, workdir, console)
        standing = resume.standing(start, config, workdir, console, source)
        peers.exchange({"checkpoint": start.path and start.path.name, "standing": dataclasses.asdict(standing)})
        return start, standing
    said = peers.exchange()[0]
    start = _start_at(workdir, said["checkpoint"])
    if start.path is not None:
        _read(start.path, trackable)
    return start, Standing(**said["standing"])


def roll_back(training, summaries, save):
    """Go back to before a run diverged, or stop it, see `divergence`.

    Args:
        training: `loop.Training`; summaries: `summaries.Summaries`; save: `saver.Saver`.

    Returns:
        (divergence.Rollback, standing.Standing there).
    """
    workdir, peers = training.workdir, training.peers
    parts = training.trackable, training.config, workdir, training.console, training.images.source
    if peers.is_chief:
        back = divergence.find(training.config.optim, workdir, training.plan, training.state, training.standing)
        standing = divergence.restore(back, *parts)
        peers.exchange({"checkpoint": back.start.path.name, "standing": dataclasses.asdict(standing),
                        "text": back.text})
        divergence.write_down(back, standing, workdir, summaries, save)
        return back, standing
    said = peers.exchange()[0]
    standing, start = Standing(**said["standing"]), _start_at(workdir, said["checkpoint"])
    _read(start.path, training.trackable)
    return divergence.Rollback(start, standing.rollback_count, standing.learning_rate_factor, said["text"]), standing


def _read(path, trackable):
    try:
        checkpoint.restore(path, trackable)
    except run_record.Unreadable as error:
        raise OutsideFault(f"{path}: worker 0 can read it, this one cannot ({error})") from None
