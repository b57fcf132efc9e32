"""Who takes part in a run: TF_CONFIG, judged before TensorFlow is imported.

    TF_CONFIG='{"cluster": {"worker": ["a:2222", "b:2222"]}, "task": {"type": "worker", "index": 0}}'

is worker 0 of two; `b` has index 1. A job `chief`, of one task, may stand before the workers: it is worker 0 then.
"""

import dataclasses
import json
import os

from cct_tf.errors import UserError
from cct_tf.settings import consistency

_EXAMPLE = '{"cluster": {"worker": ["a:2222", "b:2222"]}, "task": {"type": "worker", "index": 0}}'


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The workers of a run, two or more, and which of them this process is.

    Attributes:
        workers: tuple of "host:port".
        index: int, this process. Worker 0 is the chief: it alone writes to the work folder.
    """

    workers: tuple
    index: int

    @property
    def num_workers(self):
        return len(self.workers)

    @property
    def is_chief(self):
        return self.index == 0

    @property
    def port(self):
        """int, on which this worker listens."""
        return int(self.workers[self.index].rpartition(":")[2])

    def name(self, index):
        """`worker 1 (b:2222)`."""
        return f"worker {index} ({self.workers[index]})"

    def address(self, index):
        """(host, port) of a worker."""
        host, _, port = self.workers[index].rpartition(":")
        return host.strip("[]"), int(port)


def from_environment(strategy, environ=os.environ):
    """The cluster that --strategy and TF_CONFIG mean.

    Args:
        strategy: "auto", "single", "mirrored" or "multi_worker".
        environ: mapping with or without TF_CONFIG.

    Returns:
        Cluster, or None for a run of one process.

    Raises:
        UserError: TF_CONFIG is wrong, or does not go with --strategy.
    """
    text = environ.get("TF_CONFIG", "").strip()
    if strategy == "multi_worker" and not text:
        raise UserError("--strategy: expected TF_CONFIG in the environment for multi_worker, found none (the launchers "
                        "in launch/ set it)")
    cluster = parse(text) if text else None
    if cluster is None or cluster.num_workers == 1:
        return None
    if strategy in ("single", "mirrored"):
        raise UserError(f"--strategy: expected auto or multi_worker where TF_CONFIG names {cluster.num_workers} "
                        f"workers, found {strategy}; without TF_CONFIG this machine trains alone")
    return cluster


def parse(text):
    """`Cluster` of the text of TF_CONFIG, of one worker too; None where it names no cluster.

    Raises:
        UserError: naming what is wrong with it.
    """
    try:
        found = json.loads(text)
    except ValueError as error:
        raise UserError(f"TF_CONFIG: expected JSON such as {_EXAMPLE}, found {text[:60]!r} ({error})") from None
    if not isinstance(found, dict):
        raise UserError(f"TF_CONFIG: expected an object such as {_EXAMPLE}, found {text[:60]!r}")
    if not found.get("cluster"):
        return None
    jobs = _jobs(found["cluster"])
    workers = (*jobs.get("chief", ()), *jobs.get("worker", ()))
    for place, address in enumerate(workers):
        if address in workers[:place]:
            raise UserError(f"TF_CONFIG: expected an address of its own for every worker, found {address} twice")
    return Cluster(workers, _index(found.get("task"), jobs))


def _jobs(cluster):
    """dict of job -> tuple of addresses, judged."""
    if not isinstance(cluster, dict):
        raise UserError(f"TF_CONFIG: expected an object as cluster, found {str(cluster)[:60]!r}")
    for job, addresses in cluster.items():
        if job not in ("chief", "worker"):
            raise UserError(f"TF_CONFIG: expected the jobs worker and chief, found {job!r}; this trainer has no "
                            "parameter servers, and every worker evaluates")
        if not isinstance(addresses, list) or not addresses:
            raise UserError(f"TF_CONFIG: expected a list of host:port as {job}, found {str(addresses)[:60]!r}")
        for address in addresses:
            _check_address(address)
    if len(cluster.get("chief", ())) > 1:
        raise UserError(f"TF_CONFIG: expected one chief, found {len(cluster['chief'])}: {', '.join(cluster['chief'])}")
    return {job: tuple(addresses) for job, addresses in cluster.items()}


def _check_address(address):
    host, _, port = address.rpartition(":") if isinstance(address, str) else ("", "", "")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"TF_CONFIG: expected host:port with a port from 1 to 65535, found {address!r}")


def _index(task, jobs):
    """int, the worker that a task is."""
    if not isinstance(task, dict) or task.get("type") not in list(jobs) or type(task.get("index")) is not int:
        raise UserError(f"TF_CONFIG: expected a task with a type ({' or '.join(jobs)}) and an index, found "
                        f"{json.dumps(task)[:80]}")
    job, index = task["type"], task["index"]
    if not 0 <= index < len(jobs[job]):
        raise UserError(f"TF_CONFIG: expected a task index from 0 to {len(jobs[job]) - 1}, the {len(jobs[job])} "
                        f"addresses of {job}, found {index}")
    return index + (len(jobs.get("chief", ())) if job == "worker" else 0)


def check(config, cluster):
    """Judge a config for a cluster.

    Args:
        config: `config.Config`.
        cluster: Cluster, or None.

    Raises:
        UserError: the batch can't be shared out.
    """
    if cluster is None:
        return
    size, workers = config.optim.batch_size, cluster.num_workers
    consistency.check_pieces(size, workers * (config.run.num_replicas or 1), config.run.accumulate_steps or 1)
    if consistency.mixes(config.augment) and size // workers % 2:
        raise UserError("--batch_size: expected an even number of images for each worker with --mixup_alpha and "
                        f"--cutmix_alpha, which mix neighbours, found {size} for {workers} workers")
