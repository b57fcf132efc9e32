"""Puts together what a training run computes with: network, average, optimizer, step."""

import dataclasses

from cct_tf.assembly import initial_weights, networks, tuning
from cct_tf.engine import losses
from cct_tf.engine.distillation import Distillation, Teachers
from cct_tf.engine.loss_scale import LossScale
from cct_tf.engine.state import TrainState
from cct_tf.engine.step import TrainStep
from cct_tf.layers import products
from cct_tf.models import own
from cct_tf.optim import freezing
from cct_tf.optim.ema import Ema, LastAverage
from cct_tf.optim.optimizers import make_optimizer
from cct_tf.optim.schedule_free import ScheduleFreeAverage
from cct_tf.runs import checkpoint
from cct_tf.settings import class_weights
from cct_tf.settings.plan import average_start


@dataclasses.dataclass(frozen=True)
class Assembly:
    """The parts of a run that hold its variables, and the step that changes them.

    Attributes:
        model: the network.
        averaged: the network of the averaged weights, or None.
        optimizer: of `optim.optimizers`.
        state: `state.TrainState`.
        tuning: `tuning.Tuning`.
        train_step: `step.TrainStep`.
        trackable: tf.train.Checkpoint of all of these, see `checkpoint.make_trackable`.
        adapted: `transfer.AdaptedWeights` that the network starts from, or None.
        teachers: list of `teachers.Loaded`.
    """

    model: object
    averaged: object
    optimizer: object
    state: TrainState
    tuning: tuning.Tuning
    train_step: TrainStep
    trackable: object
    adapted: object = None
    teachers: list = dataclasses.field(default_factory=list)


def assemble(config, devices, num_classes, train_split, total_steps, resolved=None, pretrained=None, classes=(),
             prepare=None, load_teachers=None, precision=None):
    """`Assembly` of a run with its initial weights.

    Args:
        config: `config.Config`.
        devices: `runtime.Devices`.
        num_classes: int K.
        train_split: `source.Split`.
        total_steps: int, of the whole run.
        resolved: `resolved.Resolved` of the run's checkpoint, or None.
        pretrained: `transfer.PretrainedWeights` to start from, or None.
        classes: names of the K classes, compared with those that the weights were trained for.
        prepare: see `step.TrainStep`.
        load_teachers: function of (kind of device, one of `tuning.JIT`) -> list of `teachers.Loaded`; None for none.
        precision: `tuning.Choice` that was made before; None makes it for a new run on this machine.
    """
    precision = precision or tuning.precision_of(config, devices)
    config = tuning.with_precision(config, precision.value)
    optim, run = config.optim, config.run
    with devices.strategy.scope():
        model = networks.build_model(config, num_classes)
        adapted = initial_weights.assign(pretrained, model, classes) if pretrained else None
        weights = model.trainable_variables  # the average has those that are frozen too: it is a whole network
        if model.variant is not None:
            freezing.freeze(model, config.model.freeze)
        optimizer = make_optimizer(optim, model.trainable_variables, run.fused_update,
                                   model.variant and model.variant.depth)
        # The average is a network of its own, not swapped in for evaluations: it needs its memory anyway, a swap
        # needs that of a third copy, and one that is broken off leaves the wrong weights in the run. The price is
        # that the forward pass of evaluation is traced twice (CCT-7: about 2 s more).
        averaged = networks.build_model(config, num_classes) if optim.average else None
    if model.variant is None:
        own.judge(model)
    state = TrainState(LossScale(devices.kind) if config.model.precision == "float16" else None, devices.kind)
    average = None
    if averaged is not None:
        start = average_start(optim, total_steps, train_split.num_examples)
        average = _average(optim, devices, optimizer, weights, averaged, state, start)
    fast = devices.kind == "CPU" and precision.value == "bfloat16" and products.multiplies_bfloat16()
    chosen = tuning.choose(config, precision, devices, model.variant, num_classes, total_steps, resolved, fast)
    with devices.strategy.scope():
        taught = load_teachers(devices.kind, chosen.jit.value) if load_teachers else []
    train_step = TrainStep(
        devices, model, optimizer, state, batch_size=optim.batch_size, accumulate_steps=chosen.accumulate_steps.value,
        clip_norm=optim.clip_norm, weighted=train_split.weights is not None,
        example_loss=losses.make_loss(optim, train_split, num_classes, config.data.task,
                                      class_weights.of_classes(optim.class_weights, classes)),
        max_skipped_updates=optim.max_skipped_updates, jit=chosen.jit.value, fast_forms=run.fast_forms,
        recompute=run.recompute, average=average, prepare=prepare,
        example_accuracy=losses.make_accuracy(config.data.task), teachers=_teachers(config.distill, taught))
    trackable = checkpoint.make_trackable(model, optimizer, state, averaged, average and average.kept)
    return Assembly(model, averaged, optimizer, state, chosen, train_step, trackable, adapted, taught)


def _average(optim, devices, optimizer, weights, averaged, state, start):
    """The `ema.Average` that `OptimConfig.average` names, begun.

    Args:
        weights: list of keras.Variable, those of the network that can be trained.
        averaged: the network of their averages.
        start: of `plan.average_start`.
    """
    strategy, averages = devices.strategy, averaged.trainable_variables
    if optim.average == "ema":
        average = Ema(strategy, optim.ema_decay, optim.ema_warmup, weights, averages)
    elif optim.average == "last":
        average = LastAverage(strategy, state.step, start, weights, averages, devices.kind)
    else:
        average = ScheduleFreeAverage(strategy, optimizer, weights, averages)
    average.start()
    return average


def _teachers(distill, taught):
    """`distillation.Teachers` of a list of `teachers.Loaded`, or None of an empty one."""
    if not taught:
        return None
    how = Distillation(distill.distill, distill.distill_weight, distill.distill_temperature,
                       distill.distill_standardize)
    return Teachers(how, [teacher.run for teacher in taught])
