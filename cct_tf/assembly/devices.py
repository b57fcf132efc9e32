"""From a config to the devices of a run, alone or with other workers."""

from cct_tf.errors import UserError
from cct_tf.machine import runtime
from cct_tf.settings import consistency
from cct_tf.workers import joining


def make_devices(config, peers=None, interrupts=None):
    """`runtime.Devices` of a config.

    Args:
        config: `config.Config`.
        peers: `peers.Peers` of a run of several workers, all of which call this; else None.
        interrupts: `interrupts.Interrupts` of such a run.
    """
    run = config.run
    if peers is None or peers.num_workers == 1:
        return runtime.make_devices(run.num_replicas, run.deterministic, run.strategy)
    # Settled first, and by all: in there one that is missing, or has other devices, blocks the others for good.
    found = peers.exchange(runtime.local_devices(run.num_replicas, run.strategy, peers.cluster))
    if any(each != found[0] for each in found):
        listed = ", ".join(f"{count} {kind} on worker {index}" for index, (kind, count) in enumerate(found))
        raise UserError(f"--num_replicas: expected as many devices of one kind on every worker, found {listed}")
    line = (f"stopped: --startup_timeout: expected TensorFlow of all {peers.num_workers} workers to connect within "
            f"{run.startup_timeout:g} s, found it waiting; can {peers.cluster.name(peers.index)} be reached from the "
            "others, and they from here?")
    with interrupts.held(), joining.deadline(run.startup_timeout, f"[{peers.index}] {line}"):  # which holds them too
        peers.exchange()  # from here on no signal keeps a worker from coming
        joining.end_at_once()
        devices = runtime.make_devices(run.num_replicas, run.deterministic, run.strategy, peers.cluster,
                                       run.collectives)
    peers.exchange()
    peers.judge_silence()
    return devices


def check_batch(config, devices):
    """Raise UserError if the batch can't be shared out among replicas and micro-batches."""
    consistency.check_pieces(config.optim.batch_size, devices.num_replicas, config.run.accumulate_steps or 1)
