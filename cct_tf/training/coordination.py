"""Decisions that the workers of a run must all take alike: where it starts, with which data and weights, rollbacks.

Worker 0, the chief, decides and writes, and broadcasts what it found; the others follow and only read. All workers call
each function here, or none does: there are exchanges inside (`peers.Group.exchange`). In a run of one process, these
functions do what `resume`, `initial_weights` and `divergence` do. No TensorFlow is imported with this module.
"""

import contextlib
import dataclasses
import os
import secrets
import time

from cct_tf.assembly import initial_weights, tuning
from cct_tf.datasets import registry
from cct_tf.errors import OutsideFault, UserError
from cct_tf.runs import checkpoint, found_broken_file, run_record
from cct_tf.runs.run_status import RunStatus
from cct_tf.training import divergence, resume

_MARK_SECONDS = 90.0  # a network file system may show a new file, or a new folder, a minute late


def find_start(config, workdir, console, peers):
    """As `resume.find_start`, by worker 0; the others start where it does.

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


def take_known_broken(start, config, workdir, peers):
    """The `resolved.Resolved` of where a run starts, with all images that it has found broken, the same on all workers.

    Those found after the checkpoint are among them. Under --accept_config_change there are none: the images are read
    anew. None for a new run.
    """
    resolved, found = start.resolved, None
    if resolved is None or config.run.accept_config_change:
        return resolved and dataclasses.replace(resolved, left_out=None, found_broken=())
    if peers.is_chief:
        found = found_broken_file.joined(resolved.found_broken,
                                         found_broken_file.read(workdir.path, resolved.fingerprint))
    return dataclasses.replace(resolved, found_broken=tuple(peers.exchange(found)[0]))


def choose_precision(config, devices, start, peers, console):
    """The `tuning.Choice` of the precision, the same on all workers: by the CPU of worker 0, or as the run began.

    Says where this machine would have chosen another.
    """
    recorded = start.record and start.record.settled_config["precision"]
    chosen = tuning.precision_of(config, devices, recorded)
    if config.model.precision != "auto":
        return chosen
    here = tuning.precision_of(config, devices)
    if here.value != chosen.value and peers.is_chief:
        console.say(f"--precision=auto: goes on in {chosen.value}, as this run began; a new run on this machine would "
                    f"take {here.value} ({here.reason})")
    return tuning.Choice(*peers.exchange([chosen.value, chosen.reason])[0])


def open_images(opening, config, peers):
    """`inputs.Images` as `opening()` gives them, the same on all workers; what has to be prepared first, worker 0 does.

    Raises:
        UserError: workers found different images.
    """
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
    """The `transfer.PretrainedWeights` that --init_from names, the same on all workers; None if the run goes on.

    Raises:
        UserError: workers found different weights.
    """
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
    """As `resume.restore` and `resume.status_at`, by worker 0; the others restore the checkpoint that it could.

    Returns:
        (resume.Start, run_status.RunStatus).

    Raises:
        OutsideFault: as `resume.restore`; or this worker can't read what worker 0 can.
    """
    if peers.is_chief:
        if (start.record is None or config.run.accept_config_change) and not config.run.dry_run:
            found_broken_file.remove(workdir.path)  # it was not taken, see `take_known_broken`
        start = resume.restore(start, trackable, config, workdir, console)
        status = resume.status_at(start, config, workdir, console, source)
        peers.exchange({"checkpoint": start.path and start.path.name, "status": dataclasses.asdict(status)})
        return start, status
    said = peers.exchange()[0]
    start = _start_at(workdir, said["checkpoint"])
    if start.path is not None:
        _read(start.path, trackable)
    return start, RunStatus(**said["status"])


def roll_back(rollbacks, status, peers, summaries, save):
    """Go back to before a run diverged, or stop it, see `divergence`.

    Args:
        rollbacks: `divergence.Rollbacks`.
        status: `run_status.RunStatus` of the run that diverged.
        peers: `peers.Group`; summaries: `summaries.Recorder`; save: `saver.Saver`.

    Returns:
        (divergence.Rollback, run_status.RunStatus there).

    Raises:
        UserError: as `Rollbacks.find` and `Rollbacks.restore`.
        OutsideFault: this worker can't read what worker 0 can.
    """
    if peers.is_chief:
        back = rollbacks.find(status)
        status = rollbacks.restore(back)
        peers.exchange({"checkpoint": back.start.path.name, "status": dataclasses.asdict(status), "text": back.text})
        rollbacks.write_down(back, status, summaries, save)
        return back, status
    said = peers.exchange()[0]
    status, start = RunStatus(**said["status"]), _start_at(rollbacks.workdir, said["checkpoint"])
    _read(start.path, rollbacks.trackable)
    return divergence.Rollback(start, status.rollback_count, status.learning_rate_factor, said["text"]), status


def _read(path, trackable):
    try:
        checkpoint.restore(path, trackable)
    except run_record.Unreadable as error:
        raise OutsideFault(f"{path}: worker 0 can read it, this one cannot ({error})") from None
