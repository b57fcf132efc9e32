"""The end of a dry run: one real step, of which nothing is kept but what it says of time and memory."""

import math

from cct_tf.images import decode
from cct_tf.machine import compile_cache, memory, runtime


@decode.broken_images_named()
def try_one_step(training):
    """Do the next step of a run, as the run would: on all replicas, in all micro-batches, with gradients and update.

    What does not fit in memory is found here, before a run is begun. The state of this process is thrown away.

    Args:
        training: `loop.Training`.

    Raises:
        as the step of a run.
    """
    network, plan, console = training.network, training.plan, training.console
    step = min(int(network.state.step.numpy()), plan.total_steps - 1)
    network.state.start_interval()
    with console.phase("compiling the training step and doing one"):
        compile_cache.steady_names()
        iterator = runtime.distribute(training.devices, training.batches(step, 1), plan.batch_size)
        network.train_step.run(iterator, [training.learning_rate(step)])
        loss = network.state.interval()["train/loss"]
    compile_cache.keep()
    said = f"loss {loss:.4f}" if math.isfinite(loss) else "loss or gradient not finite, the update was skipped"
    peaks = ", ".join(f"{name} {peak:.2f} GiB" for name, peak in memory.peaks_gib(training.devices).items())
    console.say(f"{said}; peak memory: {peaks}; nothing was written to the work folder")
