"""What the fields of a config have to agree in."""

import dataclasses

from cct_tf.errors import UserError
from cct_tf.machine import gpus
from cct_tf.settings import averages, class_weights, folds, measure


def check(config):
    """Raise UserError for what no field of a `config.Config` can judge alone."""
    optim, augment = config.optim, config.augment
    for name in ("random_resized_crop", "crop_ratio"):
        bounds = getattr(augment, name)
        if bounds and bounds[0] > bounds[1]:
            raise UserError(f"--{name}: expected MIN,MAX with MIN at most MAX, found {bounds[0]:g},{bounds[1]:g}")
    for mean, std in (("mean", "std"), ("teacher_mean", "teacher_std")):
        if (config.value(mean) is None) != (config.value(std) is None):
            given, missing = (mean, std) if config.value(std) is None else (std, mean)
            raise UserError(f"--{missing}: expected together with --{given}, found --{given} alone")
    if augment.color_jitter and augment.color_jitter[3:] > (0.5,):
        raise UserError(f"--color_jitter: expected a hue of at most 0.5, half of the circle, found "
                        f"{augment.color_jitter[3]:g}")
    if augment.color_jitter and not any(augment.color_jitter):
        raise UserError("--color_jitter: expected a number above 0, or empty for none, found zeros")
    if augment.crop_padding and augment.random_resized_crop:
        raise UserError("--crop_padding: expected 0 with --random_resized_crop (one crop or the other), found "
                        f"{augment.crop_padding}")
    if augment.fit != "crop" and augment.crop_pct != 1.0:
        raise UserError(f"--crop_pct: expected 1 with --fit={augment.fit}, which keeps the whole image, found "
                        f"{augment.crop_pct:g}")
    if config.data.decode == "fast" and not augment.random_resized_crop:
        raise UserError("--decode: expected exact without --random_resized_crop, for nothing else is decoded at a part "
                        "of its size, found 'fast'")
    if config.data.resize == "fast" and not augment.random_resized_crop:
        raise UserError("--resize: expected exact without --random_resized_crop, for nothing else is resized the fast "
                        "way, found 'fast'")
    if config.data.fold is not None:
        folds.parse(config.data.fold)
        if config.data.validation_fraction:
            raise UserError("--fold: expected it without --validation_fraction, which holds out images too, found both")
    if config.model.init_weights != "auto" and not config.model.init_from:
        raise UserError(f"--init_weights: expected auto without --init_from, found {config.model.init_weights!r}")
    if optim.optimizer == "lion" and optim.beta_1 == 0.0:
        raise UserError("--beta_1: expected above 0 with --optimizer=lion, found 0")
    gpus.parse(config.run.device)
    _check_pixels(config)
    _check_task(config)
    _check_distill(config)
    _check_batch(config)
    _check_warmup(optim)
    _check_schedule(optim)
    _check_weights(config)


def _check_weights(config):
    """What acts on the weights beside the gradients: decay and averages."""
    optim = config.optim
    if optim.optimizer == averages.SCHEDULE_FREE:
        _check_schedule_free(optim)
    if optim.average_last and optim.ema_decay:
        raise UserError(f"--average_last: expected 0 with --ema_decay (one average or the other), found "
                        f"{optim.average_last:g}")
    if optim.average_last and config.run.early_stop_evaluations:
        raise UserError("--early_stop_evaluations: expected 0 with --average_last, whose average begins near the end "
                        f"of the run, found {config.run.early_stop_evaluations}")
    for name in ("muon_convolutions", "muon_split_qkv"):
        if getattr(optim, name) and optim.optimizer != "muon":
            raise UserError(f"--{name}: expected it with --optimizer=muon, found {optim.optimizer!r}")
    for name in ("cautious_weight_decay", "corrected_weight_decay"):
        if getattr(optim, name) and not optim.weight_decay:
            raise UserError(f"--{name}: expected false with --weight_decay=0, found true")
    if optim.corrected_weight_decay and not optim.learning_rate:
        raise UserError("--corrected_weight_decay: expected false with --learning_rate=0, which is no peak, found true")


def _check_pixels(config):
    """What depends on the channels of the images and their bits."""
    data, augment = config.data, config.augment
    if data.bits not in (8, 16):
        raise UserError(f"--bits: expected 8 or 16, found {data.bits}")
    for name in ("mean", "std", "teacher_mean", "teacher_std"):
        values = config.value(name)
        if values is not None and len(values) not in (1, data.channels):
            expected = "one value" if data.channels == 1 else f"one value or {data.channels}"
            raise UserError(f"--{name}: expected {expected} with --channels={data.channels}, found {len(values)}")
    kind = f"--channels={data.channels}" if data.channels not in (1, 3) else "--bits=16"
    if (data.channels in (1, 3) and data.bits == 8) or not (augment.color_jitter or data.resize == "fast"):
        return
    if augment.color_jitter:
        raise UserError(f"--color_jitter: expected none with {kind}, for it changes colours or grey of 8 bits, found "
                        f"{','.join(f'{value:g}' for value in augment.color_jitter)}")
    raise UserError(f"--resize: expected exact with {kind}, for the fast way is of colours of 8 bits, found 'fast'")


def _check_task(config):
    """What depends on how many labels an image has."""
    task, best = config.data.task, config.run.best_metric
    if best is not None and best not in measure.TASKS[task]:
        raise UserError(f"--best_metric: expected one of {', '.join(measure.TASKS[task])} with --task={task}, found "
                        f"{best!r}")
    if task == "multilabel" and config.data.sampler != "none":
        raise UserError("--sampler: expected none with --task=multilabel, where an image is of several classes, found "
                        f"{config.data.sampler!r}")
    if not class_weights.is_file(config.optim.class_weights):
        class_weights.read(config.optim.class_weights)


def _check_distill(config):
    """What the kinds of distillation take."""
    distill = config.distill
    for field in dataclasses.fields(distill):
        name = field.name
        if name == "teacher" or getattr(distill, name) == field.default:
            continue
        if not distill.teacher:
            raise UserError(f"--{name}: expected it with --teacher, found none")
        if distill.distill == "hard" and name in ("distill_temperature", "distill_standardize"):
            raise UserError(f"--{name}: expected it with --distill=soft, found 'hard'")
    if distill.teacher and config.data.task == "multilabel":
        raise UserError("--teacher: expected none with --task=multilabel, whose classes are not one choice, found "
                        f"{distill.teacher!r}")


def _check_warmup(optim):
    """What the shapes of the warm-up take."""
    if optim.warmup_shape == "reciprocal" and optim.warmup_epochs % 1:
        raise UserError("--warmup_epochs: expected whole epochs with --warmup_shape=reciprocal, which changes the rate "
                        f"once an epoch, found {optim.warmup_epochs:g}")
    if optim.warmup_shape == "reciprocal" and optim.warmup_learning_rate:
        raise UserError("--warmup_learning_rate: expected 0 with --warmup_shape=reciprocal, which has a start of its "
                        f"own, found {optim.warmup_learning_rate:g}")
    if optim.warmup_prefix and optim.schedule in ("constant", "wsd"):
        raise UserError(f"--warmup_prefix: expected false with --schedule={optim.schedule}, which stays at the peak "
                        "after the warm-up, found true")


def _check_schedule(optim):
    """What the schedules take."""
    if optim.schedule == "constant" and optim.cooldown_epochs:
        raise UserError("--cooldown_epochs: expected 0 with --schedule=constant, found "
                        f"{optim.cooldown_epochs:g}")
    for name in ("decay_share", "decay_shape"):
        found = getattr(optim, name)
        if optim.schedule != "wsd" and found != getattr(type(optim), name):
            raise UserError(f"--{name}: expected it with --schedule=wsd, found {optim.schedule!r}")


def _check_schedule_free(optim):
    """What the schedule-free optimizer does itself."""
    for name, only, reason in (
            ("schedule", "constant", "which needs no other"),
            ("ema_decay", 0, "which averages the weights itself"),
            ("average_last", 0, "which averages the weights itself"),
            ("cautious_weight_decay", False, "whose average moves the weights too"),
            ("corrected_weight_decay", False, "whose rate does not fall")):
        found = getattr(optim, name)
        if found != only:
            shown = repr(found) if isinstance(found, str) else str(found).lower()
            raise UserError(f"--{name}: expected {str(only).lower()} with --optimizer={optim.optimizer}, {reason}, "
                            f"found {shown}")
    if optim.beta_1 == 0.0:
        raise UserError(f"--beta_1: expected above 0 with --optimizer={optim.optimizer}, found 0")


def mixes(augment):
    """Whether an `AugmentConfig` mixes images."""
    return (augment.mixup_alpha > 0 or augment.cutmix_alpha > 0) and augment.mix_probability > 0


def check_pieces(batch_size, num_replicas, accumulate_steps):
    """Raise UserError unless a batch can be shared out among replicas and micro-batches."""
    if batch_size % (num_replicas * accumulate_steps):
        raise UserError(f"--batch_size: expected a multiple of replicas x accumulate_steps "
                        f"({num_replicas} x {accumulate_steps}), found {batch_size}")


def _check_batch(config):
    """The batch must be shared out evenly among replicas, micro-batches, repeats and pairs."""
    size, augment, run = config.optim.batch_size, config.augment, config.run
    check_pieces(size, run.num_replicas or 1, run.accumulate_steps or 1)
    repeats = augment.repeated_augmentation
    if size % repeats:
        raise UserError(f"--repeated_augmentation: expected a divisor of --batch_size={size}, found {repeats}")
    if mixes(augment) and size // repeats % 2:
        each = f" ({repeats} draws each)" if repeats > 1 else ""
        raise UserError("--batch_size: expected an even number of images for --mixup_alpha and --cutmix_alpha, which "
                        f"mix neighbours, found {size // repeats}{each}")
