"""A run is made ready: devices, images, network and step, restored to where it goes on. `loop.Training` then runs it.

The workers of a run all come through here, and agree on the way, see `coordination`: the order of what is done is part
of their protocol.
"""

import dataclasses
import functools

from cct_tf.assembly import checks, inputs, own, recorded_data, resolving, teachers
from cct_tf.assembly.devices import check_batch, make_devices
from cct_tf.assembly.parts import Assembly, assemble
from cct_tf.augment.stages import on_device, resize_stage
from cct_tf.data import holding, pipeline, sampler
from cct_tf.errors import UserError
from cct_tf.machine import memory
from cct_tf.runs.resolved import Resolved
from cct_tf.runs.run_status import RunStatus
from cct_tf.settings.plan import Plan, make_plan
from cct_tf.training import coordination, resume
from cct_tf.training.profiling import parse_steps
from cct_tf.workers.peers import Alone

# What may change in mid-run, and then changes the last bits of the results.
_COMPUTED_BY = ("device", "num_replicas", "num_workers", "threads", "jit", "accumulate_steps", "fused_update",
                "fast_forms", "recompute")


@dataclasses.dataclass(frozen=True)
class Data:
    """The images of a run, and how they become batches.

    Attributes:
        images: `inputs.Images`.
        transform: `transform.Transform`.
        stages: tuple of `stages.Stage`, the way of a training image.
        sampling: `pipeline.Sampling`.
        train_split: `source.Split` of the training images, resized once where the transform allows it.
    """

    images: inputs.Images
    transform: object
    stages: tuple
    sampling: pipeline.Sampling
    train_split: object


@dataclasses.dataclass(frozen=True)
class Prepared:
    """All that a run needs.

    Attributes:
        config: `config.Config`; workdir: `workdir.Workdir`; console: `console.Console`.
        devices: `runtime.Devices`; peers: `peers.Group`.
        data: Data.
        plan: `plan.Plan`.
        network: `parts.Assembly`, its variables restored.
        start: `resume.Start` that was restored.
        status: `run_status.RunStatus` there.
        resolved: `resolved.Resolved` of the run, for its checkpoints.
    """

    config: object
    workdir: object
    console: object
    devices: object
    peers: object
    data: Data
    plan: Plan
    network: Assembly
    start: resume.Start
    status: RunStatus
    resolved: Resolved


def prepare(config, workdir, start, console, devices=None, peers=None):
    """Make a run ready.

    Args:
        config: `config.Config`.
        workdir: `workdir.Workdir`.
        start: `resume.Start`.
        console: `console.Console`, told what is done and what is different from before.
        devices: `runtime.Devices`, made before TensorFlow is used; None makes them.
        peers: `peers.Peers` of a run of several workers, which all prepare it; None for one process.

    Returns:
        Prepared.

    Raises:
        UserError: the data, the weights or the checkpoint are none that this run can go on with.
        OutsideFault: a checkpoint can't be read, but another start may help.
    """
    devices, peers = devices or make_devices(config), peers or Alone()
    before = coordination.take_known_broken(start, config, workdir, peers)
    images = coordination.open_images(lambda: inputs.open_images(config, console, before), config, peers)
    recorded_data.check_images(images, start, config, workdir, console, peers)
    changed = start.resolved and own.changes(config, start.resolved)
    if changed and peers.is_chief:
        console.say(f"code has changed since this run's last checkpoint: {changed}")
    source = images.source
    recorded_data.check_class_weights(config, source.class_names, before, peers, console)
    check_batch(config, devices)
    plan = make_plan(config.optim, config.run, source.splits["train"].num_examples)
    _check_length(config, plan, start.step, console)
    initial = coordination.read_initial_weights(config, start, peers)
    data = _make_data(config, images, console)
    precision = coordination.choose_precision(config, devices, start, peers, console)
    with console.phase(f"building {config.model.model}"):
        network = assemble(config, devices, source.num_classes, source.splits["train"], plan.total_steps, before,
                           initial, source.class_names, functools.partial(on_device, stages=data.stages),
                           lambda kind, jit: teachers.load(teachers.find(config), images, kind, jit), precision)
    checksums = [teacher.checksum for teacher in network.teachers]
    teachers.check_same(before, checksums, config.run.accept_config_change, peers)
    for warning in network.adapted.warnings if network.adapted and peers.is_chief else ():
        console.warn(warning)
    start, status = coordination.restore(start, network.trackable, config, workdir, console, peers, source)
    found = initial and {"from": initial.name, "checksum": initial.checksum, "changes": network.adapted.changes}
    resolved = resolving.resolve_run(config, network.model, images, plan, devices, network.tuning, before, found)
    resolved = dataclasses.replace(resolved, teachers=tuple(checksums) or None)
    _say_what_changed(before, resolved, console)
    return Prepared(config, workdir, console, devices, peers, data, plan, network, start, status, resolved)


def _make_data(config, images, console):
    """The `Data` of a run."""
    transform = inputs.make_transform(config, images, checks.shape_of(config))
    stages = inputs.training_stages(config, images, transform)
    train_split = images.source.splits["train"]
    sampler.check(config.data.sampler, train_split)
    if not resize_stage(stages).is_random:
        with console.phase("preparing the training images", with_progress=True), \
                memory.data_named_when_out(config.data):
            train_split = holding.hold_at_size(train_split, stages, console.stream)
    return Data(images, transform, stages, inputs.make_sampling(config), train_split)


def _check_length(config, plan, step, console):
    """Whether a run that goes on from `step` has steps left, and those to profile are among them."""
    if step > plan.total_steps:
        flag = "train_steps" if config.optim.train_steps else "epochs"
        raise UserError(f"--{flag}: expected a run of at least {step} steps, where the checkpoint stands, found "
                        f"{plan.total_steps}")
    profiled = parse_steps(config.run.profile_steps)
    if profiled and profiled[0] > plan.total_steps:
        raise UserError(f"--profile_steps: expected steps of this run, 1 to {plan.total_steps}, found "
                        f"{config.run.profile_steps}")
    if profiled and profiled[1] <= step:
        console.say(f"--profile_steps={config.run.profile_steps}: these are done; nothing is traced")


def _say_what_changed(before, now, console):
    """Say if the run goes on computing otherwise than its checkpoint did.

    Args:
        before: `resolved.Resolved` of the checkpoint, or None; now: that of the run.
    """
    pairs = [(name, getattr(before, name, None), getattr(now, name)) for name in _COMPUTED_BY]
    changed = [f"{name} {old} -> {new}" for name, old, new in pairs if old is not None and old != new]
    if changed:
        console.say(f"computed otherwise than before ({', '.join(changed)}): results agree up to summation order, not "
                    "to the last bit")
