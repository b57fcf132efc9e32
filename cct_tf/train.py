"""Train a network: `python -m cct_tf.train --flagfile=configs/quickstart.cfg`.

The same command on the same --workdir goes on from the last checkpoint.
"""

import contextlib
import sys
import time

from cct_tf.machine import compile_cache, files, gpus, runtime, streams
from cct_tf.machine.interrupts import Interrupts
from cct_tf.settings import command, config, flags
from cct_tf.workers import joining

USAGE = """usage: python -m cct_tf.train --workdir=DIR [--flagfile=FILE] [--flag=value ...]

Trains a compact transformer; the same command on the same --workdir goes on where it stopped."""
_LOCK_SECONDS = 150.0  # a file server keeps the lock of a machine that is gone for about 90


def main(given):
    """Train as the flags say."""
    train(config.from_dict(given), Interrupts())


def train(settings, interrupts, quiet=False, choosing_devices=contextlib.nullcontext):
    """Train. Everything that can be judged without TensorFlow is judged before its import.

    Args:
        settings: `config.Config`.
        interrupts: `interrupts.Interrupts`, not installed yet.
        quiet: bool, say nothing on stdout.
        choosing_devices: function that gives a context, within which the devices are made; it may refuse them.

    Raises:
        UserError, OutsideFault, Interrupted: as cct_tf.errors tells; other errors of the storage and of memory too.
    """
    began = time.perf_counter()
    from cct_tf.assembly import checks, initial_weights
    from cct_tf.machine.console import Console
    from cct_tf.runs import run_record
    from cct_tf.runs.workdir import Workdir
    from cct_tf.training import profiling
    from cct_tf.workers import cluster as cluster_lib
    from cct_tf.workers import output
    runtime.check_backend()
    gpus.choose(settings.run.device)
    cluster = cluster_lib.from_environment(settings.run.strategy)
    output.prefix_lines(cluster)
    cluster_lib.check(settings, cluster)
    compile_cache.check(settings.run.compile_cache)
    profiling.parse_steps(settings.run.profile_steps)
    with contextlib.ExitStack() as stack:
        stack.callback(interrupts.uninstall)
        interrupts.install()
        stack.enter_context(streams.watched(interrupts.output_closed))
        console = Console(quiet)
        if any(map(files.by_tensorflow, checks.places(settings))):
            # Before TensorFlow is imported, which the checks now do.
            compile_cache.start(_cache(settings), console.warn)
        with interrupts.held(cluster is not None):
            checks.check_training(settings, stream=console.stream)
        workdir = Workdir(settings.run.workdir)
        workdir.check()
        if not run_record.list_checkpoints(workdir.checkpoints):
            initial_weights.find(settings)
        if cluster is not None:
            console.say(f"{cluster.name(cluster.index)} of {cluster.num_workers}; they have "
                        f"{settings.run.startup_timeout:g} s to find one another")
        peers = stack.enter_context(joining.joined(cluster, settings, interrupts))
        if peers.is_chief and not settings.run.dry_run:
            workdir.create()
            stack.enter_context(workdir.locked(console.warn, _LOCK_SECONDS if cluster else 0.0))
        _train(settings, workdir, peers, interrupts, console, began, choosing_devices)


def _train(settings, workdir, peers, interrupts, console, began, choosing_devices):
    """The part that the workers of a run do in step."""
    from cct_tf.machine import memory
    from cct_tf.runs import fault_file
    from cct_tf.training import coordination, resume
    backup = _restored_backup(settings, workdir, peers, console)
    start = coordination.find_start(settings, workdir, console, peers)
    if resume.is_finished(settings, start):
        if peers.is_chief:
            console.say(f"{workdir.path}: this run is finished (step {start.step:,}); a longer one goes on with "
                        "--epochs or --train_steps and --accept_config_change")
        return
    fault_path = None if settings.run.dry_run else fault_file.path_in(workdir.path, peers.index)
    can_wait = peers.num_workers > 1 or not interrupts.owns_process  # a program has no use for half an import
    with console.phase("starting TensorFlow"), interrupts.held(can_wait):
        runtime.start_tensorflow(_cache(settings), console.warn)
        from cct_tf.assembly.devices import make_devices
        from cct_tf.training import dry_run, loop, preparation
    with fault_file.named(fault_path, lambda: (start.step, start.step)), \
            memory.named_when_out(memory.TRAINING, settings.optim.batch_size):
        with choosing_devices():
            devices = make_devices(settings, peers, interrupts)
        for line in gpus.notes():
            console.say(line)
        if settings.run.compile_cache not in ("auto", _cache(settings)):
            console.say("--compile_cache: what XLA compiles for bfloat16 can't be kept; going on without")
        prepared = preparation.prepare(settings, workdir, start, console, devices, peers)
        training = loop.Training(prepared, backup.changed) if backup else loop.Training(prepared)
        if peers.is_chief:
            console.say("\n".join(training.plan_lines()))
        if settings.run.dry_run:
            dry_run.try_one_step(training)
            return
        if peers.is_chief:
            workdir.write_text(workdir.config, flags.as_flagfile(settings))
            workdir.describe_data(training.images.source, training.broken.named())
        with backup or contextlib.nullcontext(), fault_file.named(fault_path, lambda: training.steps):
            test = training.run(interrupts)
        if peers.is_chief:
            console.say("\n".join(training.result_lines(test, time.perf_counter() - began)))
        else:
            console.say("done; worker 0 says what came out")


def _cache(settings):
    """--compile_cache of this training; "off" where its programs can't be kept."""
    from cct_tf.assembly import tuning
    return "off" if tuning.may_compile_bfloat16(settings) else settings.run.compile_cache


def _restored_backup(settings, workdir, peers, console):
    """The `Backup` of --backup_dir, from which an empty work folder was filled; None without one, or elsewhere."""
    if not settings.run.backup_dir or not peers.is_chief or settings.run.dry_run:
        return None
    from cct_tf.runs import run_record
    with console.phase("looking for a copy of the work folder"):  # which TensorFlow reads
        runtime.start_tensorflow(_cache(settings), console.warn)
        from cct_tf.training import backup
    backup.check(settings.run.backup_dir)
    if not run_record.list_checkpoints(workdir.checkpoints):
        number = backup.restore(workdir, settings.run.backup_dir)
        if number:
            console.say(f"{workdir.path} goes on from its copy in {settings.run.backup_dir}, {number} files")
    return backup.Backup(workdir, settings.run.backup_dir, console.warn)


def run():
    """Entry point of `cct-train`."""
    command.run(main, sys.argv[1:], USAGE, list(config.FIELDS.values()), joining.leave)


if __name__ == "__main__":
    run()
