"""What a config became: the `resolved.Resolved` that goes into run.json."""

import dataclasses

from cct_tf.assembly import found_broken, own
from cct_tf.machine import runtime
from cct_tf.runs.resolved import Resolved
from cct_tf.settings import class_weights


def resolve(config, model, images=None):
    """What is known of a network and its data set; nothing of a run.

    Args:
        config: `config.Config`.
        model: keras.Model.
        images: `inputs.Images` with a source; None for weights converted without a data set.

    Returns:
        Resolved.
    """
    if images is None:
        return Resolved(model.image_size, (), {}, num_classes=model.num_classes)
    source = images.source
    parts = {name: source.split_fingerprint(name) for name in source.splits}
    folder = {"held": source.splits["train"].reader.image_shape is not None, "fingerprints": parts}
    return Resolved(
        model.image_size, tuple(source.class_names),
        {name: split.num_examples for name, split in source.splits.items()},
        mean=tuple(images.mean), std=tuple(images.std),
        statistics_computed=config.augment.mean is None and (source.mean is None or config.data.channels != 3),
        fingerprint=source.fingerprint, evaluated_fingerprint=parts[source.evaluated_split],
        folds_fingerprint=source.folds_fingerprint,
        folder=folder if source.has_files else None, left_out=source.left_out,
        found_broken=tuple(found_broken.rows(source)), order=source.order, data_rules=dataclasses.asdict(source.rules),
        own_code=own.checksums(config))


def resolve_run(config, model, images, plan, devices, tuning, before=None, initial=None):
    """What is known of a run that starts, or goes on.

    Args:
        config, model, images: as for `resolve`.
        plan: `plan.Plan`.
        devices: `runtime.Devices`.
        tuning: `tuning.Tuning`.
        before: Resolved of the checkpoint that it goes on from, whose word stays on what it started from; None for a
            new run.
        initial: dict of the weights that a new run starts from, see `Resolved`; None where they are random.
    """
    now = resolve(config, model, images)
    if before is not None:
        initial = before.initial_weights
        changed = (before.fingerprint,) if before.fingerprint != now.fingerprint else ()
        now = dataclasses.replace(now, fingerprints_before=before.fingerprints_before + changed)
    return dataclasses.replace(
        now, total_steps=plan.total_steps,
        class_weights=class_weights.of_classes(config.optim.class_weights, now.classes), initial_weights=initial,
        device=devices.kind, num_replicas=devices.num_replicas, num_workers=devices.num_workers,
        threads=runtime.num_threads(), precision=tuning.precision.value, jit=tuning.jit.value,
        accumulate_steps=tuning.accumulate_steps.value, fused_update=config.run.fused_update,
        fast_forms=config.run.fast_forms, recompute=config.run.recompute)
