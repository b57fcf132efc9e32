"""The plan before a run and the results after it, as text for a person."""

import numpy as np

from cct_tf import sizes
from cct_tf.augment.stages import describe
from cct_tf.images import pixel_type
from cct_tf.machine.console import duration, listed
from cct_tf.optim import schedules
from cct_tf.readers import budget
from cct_tf.runs.workdir import Workdir
from cct_tf.settings import averages, flags
from cct_tf.settings.measure import NAMES, number
from cct_tf.training import divergence


def _numbers(values):
    return " ".join(f"{value:.4f}" for value in values)


_SAMPLERS = {"none": "", "balanced": "classes drawn equally often, ",
             "sqrt": "classes drawn by the square roots of their images, "}


def _augmentation(stages, sampling):
    repeated = f"each image {sampling.repeats} times in a batch, " if sampling.repeats > 1 else ""
    return repeated + _SAMPLERS[sampling.sampler] + describe(stages)


_OPTIMIZERS = {"adamw": "AdamW", "sgd": "SGD (Nesterov)", "lion": "Lion", "lamb": "LAMB",
               averages.SCHEDULE_FREE: "schedule-free AdamW"}


def _optimizer(optim):
    if optim.optimizer != "muon":
        return _OPTIMIZERS[optim.optimizer]
    convolutions = ", convolutions too" if optim.muon_convolutions else ""
    apart = ", queries, keys and values apart" if optim.muon_split_qkv else ""
    return f"Muon{convolutions}{apart} (AdamW for what is no matrix)"


def _schedule(optim, plan):
    warmup = optim.warmup_epochs * plan.steps_per_epoch
    lowest = optim.min_learning_rate * schedules.rate_scale(optim)
    text = optim.schedule + (f" to {lowest:g}" if optim.schedule in ("cosine", "linear") else "")
    if optim.schedule == "wsd":
        epochs = float(plan.schedule_epochs)
        text = (f"constant, {optim.decay_shape} decay to {lowest:g} in the last {optim.decay_share * epochs:.4g} of "
                f"{epochs:.4g} epochs")
    if optim.warmup_epochs:
        shape = "reciprocal " if optim.warmup_shape == "reciprocal" else ""
        text += f", {shape}warm-up {optim.warmup_epochs:g} epochs ({warmup:,.0f} steps)"
        if optim.warmup_prefix:
            text += " before it"
        if warmup > plan.total_steps:
            text += ", longer than the run"
    if optim.cooldown_epochs:
        text += f", cool-down {optim.cooldown_epochs:g} epochs"
    return text


def _weights(optim, train_split):
    """What the examples count, in words: a list, empty where each counts 1."""
    parts = []
    if optim.class_weights == "balanced":
        parts.append("classes balanced")
    elif optim.class_weights != "none":
        parts.append(f"classes weighted ({optim.class_weights})")
    if train_split.weights is not None:
        weights = train_split.weights
        parts.append(f"examples weighted by the table, {weights.min():g} to {weights.max():g}, mean "
                     f"{weights.mean():.3g}")
    return parts


def _decay(optim):
    kind = "cautious " if optim.cautious_weight_decay else ""
    kind += "corrected " if optim.corrected_weight_decay else ""
    return f"{kind}weight decay {optim.weight_decay:g} on {optim.weight_decay_mask}"


def _optimiser(optim, plan, task, train_split):
    rate = f"{optim.learning_rate:g}"
    if optim.learning_rate_scaling == "linear":
        rate += f" per 256 images = {optim.learning_rate * schedules.rate_scale(optim):g}"
    if optim.layer_decay < 1:
        rate += f", times {optim.layer_decay:g} per layer before the head"
    parts = [f"smoothing {optim.label_smoothing:g}"]
    if optim.clip_norm:
        parts.append(f"gradients clipped at {optim.clip_norm:g}")
    if optim.loss == "bce" or task == "multilabel":
        parts.append("binary cross-entropy")
    parts += _weights(optim, train_split)
    return (f"{_optimizer(optim)} {rate}, {_schedule(optim, plan)}; {_decay(optim)}, "
            f"{', '.join(parts)}")


def _average(optim):
    if optim.average == "schedule_free":
        return [("average", f"of all updates, by the squares of their learning rates, {optim.beta_1:g} of it in the "
                            "weights; evaluated in their place")]
    if optim.average == "last":
        return [("average", f"of the weights after each update of the last {optim.average_last:g} epochs; evaluated "
                            "beside them, chooses the best")]
    if not optim.ema_decay:
        return []
    warmup = " after a warm-up" if optim.ema_warmup else ""
    return [("average", f"of the weights (EMA), decay {optim.ema_decay:g}{warmup}; evaluated beside them, chooses the "
                        "best")]


def _teachers(distill):
    if not distill.teacher:
        return []
    how = "" if distill.distill == "hard" else f", temperature {distill.distill_temperature:g}" + (
        ", logits standardised" if distill.distill_standardize else "")
    return [("learns from", f"{listed(distill.teacher.split(','))}: {distill.distill}, weight "
             f"{distill.distill_weight:g}{how}")]


def _steps(plan):
    epochs = round(float(plan.epoch_of(plan.total_steps)), 2)
    return (f"{plan.total_steps:,} of {plan.batch_size} images ({plan.steps_per_epoch:,.1f} an epoch, {epochs:g} "
            f"{'epoch' if epochs == 1 else 'epochs'})")


def _how_often(run, plan):
    """When a run evaluates, in words."""
    every = plan.evaluate.every
    if every >= plan.total_steps:
        return "after the last step"
    if every <= 1:
        return "after every step"
    if run.eval_every_steps is not None:
        return f"every {run.eval_every_steps:,} steps"
    epochs = "every epoch" if run.eval_every_epochs == 1 else f"every {run.eval_every_epochs:g} epochs"
    return f"{epochs} ({'' if every.denominator == 1 else 'about '}{float(every):,.0f} steps)"


def _batch(config, plan):
    """A note on a batch that is larger than the data set."""
    if plan.batch_size <= plan.num_examples:
        return []
    return [f"--batch_size={plan.batch_size} is more than the {plan.num_examples:,} training images: a step takes "
            "some of them more than once, and is more than an epoch"]


def _several(config, source):
    """How many labels a training image has, where they may be several."""
    if config.data.task != "multilabel":
        return ""
    each = source.splits["train"].labels.sum(axis=1)
    return f"; {each.mean():.2f} labels an image, {each.min()} to {each.max()}"


def _evaluation(config, plan, source):
    evaluated, patience = source.evaluated_split, config.run.early_stop_evaluations
    text = f"on the {evaluated} split, {_how_often(config.run, plan)}"
    if config.measure.name not in ("top1", "map"):
        text += f"; the best is that of the {'lowest' if config.measure.name == 'loss' else 'highest'} " + NAMES[
            config.measure.name]
    if evaluated == "test":
        text += "; the best is then chosen on test data"
    elif "test" in source.splits and config.run.test_at_end:
        text += "; the best weights are tested at the end"
    return text + (f"; the run ends after {patience} without a new best" if patience else "")


_PRECISIONS = {"float32": "float32", "bfloat16": "bfloat16 (weights, norms, softmax and loss in float32)",
               "float16": "float16, the loss scaled (weights, norms, softmax and loss in float32)"}
# CCT-7/3x1, two cores with AVX512_BF16, images/s in turn, without XLA: float32 17.3, bfloat16 23.7; 16.7 and float16
# 15.1. With AVX2, forward and backward of a block without XLA took
# 77 ms in float32, 197 in bfloat16, 112 in float16.
_ON_CPUS = {"bfloat16": "on CPUs bfloat16 is faster than float32 only with AVX512_BF16 or AMX",
            "float16": "on CPUs float16 is slower than float32"}
_COMPILED = {"off": "without XLA", "encoder": "the encoder with XLA", "all": "with XLA"}


def _chosen(config, tuning):
    return f" ({tuning.precision.reason})" if config.model.precision == "auto" else ""


def _micro_batches(choice):
    return f" in {choice.value} micro-batches ({choice.reason})" if choice.value > 1 else ""


def _going_on(start):
    if start.record is None:
        return ""
    status = start.record.status
    return f" (goes on from step {start.step:,}" + (
        f"; rolled back {status.rollback_count} of {divergence.MOST_ROLLBACKS} times, learning rates x "
        f"{status.learning_rate_factor:g}" if status.rollback_count else "") + ")"


def _initial_weights(found):
    """The row of the weights that the run started from."""
    return [("starts from", "; ".join([found["from"], *found["changes"]]))] if found else []


def _size(config, model):
    """Parameters, and how many of them learn."""
    count, trained = (sum(int(variable.value.shape.num_elements()) for variable in variables)
                      for variables in (model.weights, model.trainable_variables))
    frozen = f"; {count - trained:,} of them frozen (--freeze={config.model.freeze})" if trained < count else ""
    return f"{count:,} parameters{frozen}"


def _broken(source, run, shown=3):
    """Notes on the broken images, left out or found since: their number, the first few, and where all are named."""
    where = f"{'a run lists them in' if run.dry_run else 'see'} {Workdir(run.workdir).broken_images}"
    found = [split.reader.origin(place) for split in source.splits.values() if split.reader.broken
             for place in split.reader.broken.known]
    lines = []
    for names, what in (([name for name, _ in source.broken], "left out"), (found, "found since the run began")):
        count = f"{len(names)} broken image{'s' if len(names) > 1 else ''} {what}"
        more = f" and {len(names) - shown} more" if len(names) > shown else ""
        lines += [f"{count}: {', '.join(names[:shown])}{more}; {where}"] if names else []
    return lines


_MOST_CUT_OFF = 0.1  # of the area of an image, that the plan does not mention


def _kept(shares):
    """A note on what the evaluation crop cuts off; `shares` as `plan_lines` takes them."""
    median = float(np.median(shares)) if len(shares) else 1.0
    if median >= 1 - _MOST_CUT_OFF:
        return []
    return [f"evaluation keeps the centre of an image, {100 * median:.0f}% of its area (median); --fit=pad or stretch "
            "keeps all of it, and --image_size=H,W changes the network's shape"]


_FITS = {"crop": "", "pad": " (whole images, with the mean beside them)", "stretch": " (whole images, stretched)"}


def plan_lines(config, images, stages, sampling, plan, model, devices, tuning, start, initial_weights, kept_area=(),
               teachers=()):
    """The plan: a list of lines.

    Args:
        config: `config.Config`; images: `inputs.Images`; stages: tuple of `stages.Stage`;
        sampling: `pipeline.Sampling`; plan: `plan.Plan`; model: keras.Model;
        devices: `runtime.Devices`; tuning: `tuning.Tuning`; start: `resume.Start`;
        initial_weights: of `resolved.Resolved`; kept_area: shares of images, `image_ops.kept_area`;
        teachers: list of `teachers.Loaded`.
    """
    source, optim, run = images.source, config.optim, config.run
    counts = ", ".join(f"{split.num_examples:,} {name}" for name, split in source.splits.items())
    rows = [
        ("data set", f"{config.data.dataset}: {counts}; {source.splits['train'].reader.describe()}"),
        ("input", budget.describe()),
        ("classes", f"{source.num_classes}: {listed(source.class_names)}" + _several(config, source)),
        ("images", sizes.shown(model.image_size) + pixel_type.of_config(config.data).describe()
                   + f"{_FITS[config.augment.fit]}, mean {_numbers(images.mean)}, std {_numbers(images.std)} "
                   f"({images.statistics_from})"),
        ("augmentation", _augmentation(stages, sampling)),
        ("model", f"{config.model.model}, {_size(config, model)}"),
        *_initial_weights(initial_weights),
        ("optimiser", _optimiser(optim, plan, config.data.task, source.splits["train"])),
        ("steps", _steps(plan)),
        *_teachers(config.distill),
        *_average(optim),
        ("evaluation", _evaluation(config, plan, source)),
        ("devices", f"{devices.description}, {optim.batch_size // devices.num_replicas} images per replica"
                    + _micro_batches(tuning.accumulate_steps)),
        ("computes in", f"{_PRECISIONS[tuning.precision.value]}{_chosen(config, tuning)}, "
                        f"{_COMPILED[tuning.jit.value]} ({tuning.jit.reason})"
                        + (", blocks recomputed" if run.recompute else "")),
        ("writes to", run.workdir + _going_on(start)),
    ]
    notes = [*_batch(config, plan), *_kept(kept_area), *source.notes, *_broken(source, run)]
    notes += [f"{teacher.path} has no names of classes: its logits are taken to be of the classes above, in their order"
              for teacher in teachers if teacher.by_number]
    rows += [("note", note) for note in notes]
    if devices.kind == "CPU" and config.model.precision in _ON_CPUS:
        rows.append(("note", _ON_CPUS[config.model.precision]))
    return [f"  {name:<13} {text}" for name, text in rows]


_EVALUATIONS = {"eval_ema": "EMA ", "eval_average": "averaged "}  # what their figures are called beside those of "eval"


def evaluation_line(step, plan, results, is_best, measure):
    """What an evaluation found; `results` is a dict of evaluations, "eval" and maybe "eval_ema" or so."""
    found = [f"{_EVALUATIONS.get(name, '')}{measure.words(measure.of(result))}"
             for name, result in results.items()]
    broken = max(result.broken for result in results.values())
    found += [f"without {broken:,} broken image{'s' if broken > 1 else ''}"] if broken else []
    return (f"evaluation at step {step:,} (epoch {float(plan.epoch_of(step)):.2f}): {'; '.join(found)}"
            f"{' (best so far)' if is_best else ''}")


def early_stop_line(step, plan, status, patience, measure):
    """Why a run ends at `step`, before the end of its plan.

    Args:
        step: int; plan: `plan.Plan`; status: `run_status.RunStatus`; patience: int, --early_stop_evaluations;
        measure: `measure.Measure`.
    """
    best = status.best[measure.name]
    return (f"stopped early at step {step:,} of {plan.total_steps:,}: {status.evaluations_without_best} evaluations "
            f"without a better {NAMES[measure.name]} than {number(measure.name, best)} at step "
            f"{status.best['step']:,} "
            f"(--early_stop_evaluations={patience})")


def result_lines(config, best, last, test, seconds):
    """What came out, and the next commands to try: a list of lines.

    Args:
        config: `config.Config`.
        best, last: dicts of evaluations, "step" and what the config's measure keeps, or None.
        test: the evaluation of the best weights on the test split, or None.
        seconds: float, since the command started.
    """
    lines = [f"done in {duration(seconds)}"]
    average = averages.weights(config.optim.average)
    weights = "weights" if average == "raw" else f"{averages.WEIGHTS[average]} weights"
    for name, result in (("best", best), ("last", last)):
        if result is not None:
            lines.append(f"  {name}  step {result['step']:,}: {config.measure.words(result)}"
                         + (f" ({weights})" if average != "raw" else ""))
    if test is not None:
        second = ("f1_fitted", "F1 at fitted thresholds") if config.data.task == "multilabel" else ("top5", "top-5")
        headline, loss = config.measure.words(config.measure.of(test)).rsplit(", ", 1)
        lines.append(f"  test  best {weights}: {headline}, {second[1]} {100 * getattr(test, second[0]):.2f}%, {loss} "
                     f"({test.examples:,} images)")
    workdir = config.run.workdir
    return lines + ["next:", "  " + flags.as_command_line("cct_tf.evaluate", [f"--workdir={workdir}"]),
                    "  " + flags.as_command_line("tensorboard.main", ["--logdir", workdir]),
                    f"  look at {workdir}/plots/curves.png"]
