"""From a config to the parts of a run: data, model, optimizer, plan. Training and evaluation share it."""

import dataclasses

from cct_tf import config as config_lib
from cct_tf import runtime
from cct_tf.augment import transform as transform_lib
from cct_tf.augment.mix import Mix
from cct_tf.data import registry
from cct_tf.data.pipeline import Stream
from cct_tf.data.source import rules_of
from cct_tf.data.statistics import channel_statistics
from cct_tf.errors import UserError
from cct_tf.models import create_model
from cct_tf.training import checkpoint, file_list, memory, run_record
from cct_tf.training.console import listed
from cct_tf.training.profiling import parse_steps
from cct_tf.training.workdir import Workdir
from cct_tf.workers import joining


@dataclasses.dataclass(frozen=True)
class Images:
    """A data set and how its images are prepared.

    Attributes:
        source: `source.Source`; None for images that are not of the run's data set.
        mean, std: tuples of floats of pixels in [0, 1].
        statistics_from: where they come from, for the plan.
    """

    source: object
    mean: tuple
    std: tuple
    statistics_from: str


def open_images(config, console, resolved=None):
    """Open the data set and settle mean and standard deviation.

    Args:
        config: `config.Config`.
        console: `console.Console`.
        resolved: dict of the run's checkpoint, whose rules and computed statistics stay; None or {} for a new run.

    Returns:
        Images.
    """
    with memory.data_named_when_out(config.data):
        return _open_images(config, console, resolved)


def _open_images(config, console, resolved):
    with console.phase(f"opening {config.data.dataset}", with_progress=True), runtime.quiet_stderr():
        source = registry.open_source(config.data, console.stream, rules_of(resolved))
    if config.augment.mean is not None:
        return Images(source, config.augment.mean, config.augment.std, "flags")
    if resolved and resolved.get("statistics_computed"):
        return Images(source, tuple(resolved["mean"]), tuple(resolved["std"]), "an earlier start of this run")
    if source.mean is not None:
        return Images(source, source.mean, source.std, "the data set's own")
    with console.phase("computing mean and standard deviation", with_progress=True):
        mean, std = channel_statistics(source.splits["train"], console.stream)
    return Images(source, mean, std, "computed from the training images")


def recorded_images(resolved):
    """`Images` prepared as those of a run were, without opening its data set: `resolved` of its record."""
    return Images(None, tuple(resolved["mean"]), tuple(resolved["std"]), "the run")


# Keras' policies: what is added in the name is that variables stay float32.
_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


def build_model(config, num_classes):
    """The network of a config. Call it under the strategy's scope."""
    model = config.model
    return create_model(
        model.model, num_classes=num_classes, image_size=config.augment.image_size,
        positional_embedding=model.positional_embedding, norm_order=model.norm_order,
        dropout_rate=model.dropout_rate, attention_dropout_rate=model.attention_dropout_rate,
        drop_path_rate=model.drop_path_rate, seed=config.run.seed,
        dtype=_POLICIES[model.precision])


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A trained network.

    Attributes:
        model: keras.Model.
        path: pathlib.Path of its checkpoint.
        record: `run_record.Record` of it.
        weights: "raw", or "ema" where they are the averages.
    """

    model: object
    path: object
    record: run_record.Record
    weights: str


def load_model(config, num_classes, choose, weights="auto"):
    """The network of a checkpoint. Call it under the strategy's scope.

    Args:
        config: `config.Config` of the run.
        num_classes: int K.
        choose: function that gives the checkpoint, (path, Record). Asked when everything else is ready: beside a run
            that goes on, the folder found at the start may be gone by then.
        weights: "auto", "raw" or "ema", see `run_record.choose_weights`.

    Returns:
        Loaded.

    Raises:
        UserError: the checkpoint can't be read, or has not these weights.
    """
    model = build_model(config, num_classes)
    path, record = choose()
    chosen = run_record.choose_weights(record, weights)
    try:
        checkpoint.restore_weights(path, model, chosen)
    except run_record.Unreadable as error:
        raise run_record.not_readable(error) from None
    return Loaded(model, path, record, chosen)


def make_transform(config, images, model):
    """The `Transform` that brings the images to what `model` takes."""
    transform = transform_lib.from_config(config.augment, model.image_size, images.mean, images.std)
    block = images.source.rules.resize_block if images.source else None  # nothing is held without a data set
    return dataclasses.replace(transform, resize_block=block)


def make_stream(config, num_classes):
    """The `pipeline.Stream` of a config's training images."""
    augment, mix = config.augment, None
    if config_lib.mixes(augment):
        mix = Mix(augment.mixup_alpha, augment.cutmix_alpha, augment.mix_probability, augment.mix_switch_probability)
    return Stream(num_classes, config.run.seed, config.optim.batch_size, config.optim.label_smoothing,
                  augment.repeated_augmentation, mix, augment.mix_off_epoch)


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
    config_lib.check_pieces(config.optim.batch_size, devices.num_replicas, config.run.accumulate_steps or 1)


def check_length(config, plan, step, console):
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


_GO_ON = "--accept_config_change goes on with them, another --workdir starts anew"
_LOOK = ("cct_tf.train goes on with them under --accept_config_change, and --data_dir=DIR names a folder as it was for "
         "this command alone")


def check_data(images, resolved, changes=None, accept=False, way_out=_GO_ON):
    """Refuse other data than a run was started on, or went on with.

    Args:
        images: Images.
        resolved: dict of the run's checkpoint.
        changes: what is different, for images that may be taken instead, see `file_list.changes`; None where none may.
        accept: bool, whether --accept_config_change takes them.
        way_out: what to do about changed images, text.

    Raises:
        UserError: the fingerprints differ, and it doesn't; or the classes do.
    """
    found = images.source.fingerprint
    if resolved["fingerprint"] == found:
        return
    classes = list(images.source.class_names)
    if changes and resolved["classes"] != classes:
        raise UserError(f"--data_dir: expected the classes of this run, {listed(resolved['classes'])}, found "
                        f"{listed(classes)}; other classes are another run: give it a --workdir of its own")
    if not accept or not changes:
        then = "other data, or another split of it, is another run: give it a --workdir of its own"
        if changes:
            then = f"{changes}; {way_out}"
        raise UserError(f"--data_dir: expected the images and splits this run was started on (fingerprint "
                        f"{resolved['fingerprint'][:12]}), found others ({found[:12]}); {then}")


def check_recorded_data(images, record, config):
    """As `check_data`, for a command that looks at a run; `config` is its `config.Config`, with the work folder."""
    changes, source = None, images.source
    if source.has_files and record.resolved["fingerprint"] != source.fingerprint:
        changes = file_list.changes(Workdir(config.run.workdir), record.resolved, source)
    check_data(images, record.resolved, changes, way_out=_LOOK)


def check_images(images, start, config, workdir, console, peers):
    """As `check_data`, of the run that goes on from `start`; worker 0 knows what changed.

    Raises:
        UserError: other images than the run's, and --accept_config_change was not given or can't take them.
    """
    resolved, source = start.record.resolved if start.record else {}, images.source
    if not resolved or resolved["fingerprint"] == source.fingerprint:
        return
    changes = None
    if source.has_files and start.record.config["dataset"] == config.data.dataset:
        changes = peers.exchange(file_list.changes(workdir, resolved, source) if peers.is_chief else None)[0]
    check_data(images, resolved, changes, config.run.accept_config_change)
    if peers.is_chief:
        console.say(f"going on with other images: {changes}")
