"""The plan before a run and the results after it, as text for a person."""

from cct_tf import flags
from cct_tf.data.source import Encoded, Windowed
from cct_tf.training.console import duration


def _classes(names, shown=10):
    listed = ", ".join(names[:shown])
    return listed + (f" ... ({len(names) - shown} more)" if len(names) > shown else "")


def _numbers(values):
    return " ".join(f"{value:.4f}" for value in values)


def _augmentation(augment):
    parts = []
    if augment.random_resized_crop:
        parts.append("random resized crop {:g}-{:g}".format(*augment.random_resized_crop))
    if augment.crop_padding:
        parts.append(f"crop after padding by {augment.crop_padding}")
    if augment.flip != "none":
        parts.append(f"{augment.flip} flip")
    return ", ".join(parts) or "none"


def _schedule(optim, plan):
    warmup = optim.warmup_epochs * plan.steps_per_epoch
    text = f"{optim.schedule} to {optim.min_learning_rate:g}" if optim.schedule == "cosine" else "constant"
    if optim.warmup_epochs:
        text += f", warm-up {optim.warmup_epochs:g} epochs ({warmup:,.0f} steps)"
        if warmup > plan.total_steps:
            text += ", longer than the run"
    if optim.cooldown_epochs:
        text += f", cool-down {optim.cooldown_epochs:g} epochs"
    return text


def _reading(reader):
    if isinstance(reader, Windowed):
        return f"windowed (streamed, shuffled {reader.window:,} records at a time)"
    if isinstance(reader, Encoded):
        return "indexed, decoded as needed from " + ("disk" if reader.on_disk else "memory")
    return "indexed, held in memory"


def plan_lines(config, images, plan, model, devices, jit, start):
    """The plan: a list of lines.

    Args:
        config: `config.Config`; images: `setup.Images`; plan: `plan.Plan`; model: keras.Model;
        devices: `runtime.Devices`; jit: `runtime.Choice`; start: `resume.Start`.
    """
    source, optim, run = images.source, config.optim, config.run
    counts = ", ".join(f"{split.num_examples:,} {name}" for name, split in source.splits.items())
    parameters = sum(int(variable.value.shape.num_elements()) for variable in model.trainable_variables)
    evaluated = source.evaluated_split
    rows = [
        ("data set", f"{config.data.dataset}: {counts}; {_reading(source.splits['train'].reader)}"),
        ("classes", f"{source.num_classes}: {_classes(source.class_names)}"),
        ("images", f"{model.image_size} x {model.image_size}, mean {_numbers(images.mean)}, std {_numbers(images.std)} "
                   f"({images.statistics_from})"),
        ("augmentation", _augmentation(config.augment)),
        ("model", f"{config.model.model}, {parameters:,} parameters"),
        ("optimiser", f"AdamW {optim.learning_rate:g}, {_schedule(optim, plan)}; weight decay {optim.weight_decay:g} "
                      f"on {optim.weight_decay_mask}, smoothing {optim.label_smoothing:g}"
                      + (f", gradients clipped at {optim.clip_norm:g}" if optim.clip_norm else "")),
        ("steps", f"{plan.total_steps:,} of {optim.batch_size} images ({plan.steps_per_epoch:,.1f} an epoch, "
                  f"{float(plan.epoch_of(plan.total_steps)):g} epochs)"),
        ("evaluation", f"on the {evaluated} split, every {float(plan.evaluate.every):,.6g} steps"
                       + ("; the best is then chosen on test data" if evaluated == "test" else "; the best weights "
                          "are tested at the end" if "test" in source.splits else "")),
        ("devices", f"{devices.description}, {optim.batch_size // devices.num_replicas} images per replica"
                    + (f" in {run.accumulate_steps} micro-batches" if run.accumulate_steps > 1 else "")
                    + f", float32, XLA {'on' if jit.value else 'off'} ({jit.reason})"),
        ("writes to", run.workdir + (f" (goes on from step {start.step:,})" if start.record else "")),
    ]
    rows += [("note", note) for note in source.notes]
    return [f"  {name:<13} {text}" for name, text in rows]


def result_lines(config, best, last, test, seconds):
    """What came out, and the next commands to try: a list of lines.

    Args:
        config: `config.Config`.
        best: dict {"step", "top1", "loss"} or None.
        last: dict {"step", "top1", "loss"} or None, of the last step.
        test: `metrics.Evaluation` of the best weights on the test split, or None.
        seconds: float, since the command started.
    """
    lines = [f"done in {duration(seconds)}"]
    for name, result in (("best", best), ("last", last)):
        if result is not None:
            lines.append(f"  {name}  step {result['step']:,}: top-1 {100 * result['top1']:.2f}%, "
                         f"loss {result['loss']:.4f}")
    if test is not None:
        lines.append(f"  test  best weights: top-1 {100 * test.top1:.2f}%, top-5 {100 * test.top5:.2f}%, "
                     f"loss {test.loss:.4f} ({test.examples:,} images)")
    workdir = config.run.workdir
    return lines + ["next:", "  " + flags.as_command_line("cct_tf.evaluate", [f"--workdir={workdir}"]),
                    "  " + flags.as_command_line("tensorboard.main", ["--logdir", workdir]),
                    f"  look at {workdir}/plots/curves.png"]
