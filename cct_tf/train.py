"""Train a network: `python -m cct_tf.train --flagfile=configs/quickstart.cfg`.

The same command on the same --workdir goes on from the last checkpoint.
"""

import contextlib
import sys
import time

from cct_tf import command, compile_cache, config, flags, runtime
from cct_tf.workers import joining

_USAGE = """usage: python -m cct_tf.train --workdir=DIR [--flagfile=FILE] [--flag=value ...]

Trains a compact transformer; the same command on the same --workdir goes on where it stopped."""


def main(given):
    """Train as the flags say. Everything that can be judged without TensorFlow is judged before its import."""
    began = time.perf_counter()
    settings = config.from_dict(given)
    from cct_tf import checks
    from cct_tf.training import profiling
    from cct_tf.training.console import Console
    from cct_tf.training.interrupts import Interrupts
    from cct_tf.training.workdir import Workdir
    from cct_tf.workers import cluster as cluster_lib
    from cct_tf.workers import output
    runtime.check_backend()
    compile_cache.check(settings.run.compile_cache)
    profiling.parse_steps(settings.run.profile_steps)
    cluster = cluster_lib.from_environment(settings.run.strategy)
    cluster_lib.check(settings, cluster)
    output.prefix_lines(cluster)
    interrupts = Interrupts().install()
    with contextlib.ExitStack() as stack:
        stack.callback(interrupts.uninstall)
        with interrupts.held(cluster is not None):
            checks.check_config(settings)
        workdir, console = Workdir(settings.run.workdir), Console()
        if cluster is not None and not cluster.is_chief or settings.run.dry_run:
            workdir.check()
        else:
            workdir.create()
            stack.enter_context(workdir.locked(console.warn))
        peers = stack.enter_context(joining.joined(cluster, settings, interrupts))
        _train(settings, workdir, peers, interrupts, console, began)


def _train(settings, workdir, peers, interrupts, console, began):
    """The part that the workers of a run do in step."""
    from cct_tf.training import memory, resume, together
    start = together.find_start(settings, workdir, console, peers)
    if resume.is_finished(settings, start):
        if peers.is_chief:
            console.say(f"{workdir.path}: this run is finished (step {start.step:,}); a longer one goes on with "
                        "--epochs or --train_steps and --accept_config_change")
        return
    with console.phase("starting TensorFlow"), interrupts.held(peers.num_workers > 1):
        runtime.start_tensorflow(settings.run.compile_cache, console.warn)
        from cct_tf.training import loop, setup
    with memory.named_when_out(memory.TRAINING, settings.optim.batch_size):
        devices = setup.make_devices(settings, peers, interrupts)
        training = loop.Training(settings, workdir, start, console, devices, peers)
        if peers.is_chief:
            console.say("\n".join(training.plan_lines()))
        if settings.run.dry_run:
            training.try_one_batch()
            return
        if peers.is_chief:
            workdir.write_text(workdir.config, flags.as_flagfile(settings))
            workdir.write_text(workdir.classes, "".join(f"{name}\n" for name in training.images.source.class_names))
        test = training.run(interrupts)
        if peers.is_chief:
            console.say("\n".join(training.result_lines(test, time.perf_counter() - began)))


def run():
    """Entry point of `cct-train`."""
    command.run(main, sys.argv[1:], _USAGE, list(config.FIELDS.values()), joining.leave)


if __name__ == "__main__":
    run()
