"""Epochs and examples to steps. Inside the project there is one unit of time: the step. No TensorFlow here.

A step is one update, done or skipped. Step s (from 0) holds positions sB ... sB+B-1 of the endless training stream,
so its epoch is floor(sB / n): batches run across the ends of epochs and nothing is dropped.
"""

import dataclasses
import math
from fractions import Fraction

from cct_tf.errors import UserError


def exact(number):
    """A config's float as the decimal fraction its user wrote (0.1 is 1/10, not 0.1's binary neighbour)."""
    return Fraction(str(number))


@dataclasses.dataclass(frozen=True)
class Gate:
    """Something that happens every so many steps, and at the last one.

    Attributes:
        every: Fraction, steps between two times; need not be whole (epochs seldom are).
        last: int, the run's last step.
    """

    every: Fraction
    last: int

    def is_due(self, step):
        """Whether `step` completed steps reach a multiple of `every` that step - 1 did not."""
        return step > 0 and (step == self.last or math.floor(step / self.every) > math.floor((step - 1) / self.every))

    def next_due(self, step):
        """The first due number of completed steps after `step`."""
        multiple = (math.floor(step / self.every) + 1) * self.every
        return min(math.ceil(multiple), self.last) if step < self.last else self.last


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run in steps.

    Attributes:
        num_examples: int n, training images per epoch.
        batch_size: int B, images per update.
        total_steps: int, the whole run, cool-down included.
        schedule_epochs: Fraction, epochs from the start to the end of the schedule.
        log, evaluate, checkpoint: `Gate`s.
    """

    num_examples: int
    batch_size: int
    total_steps: int
    schedule_epochs: Fraction
    log: Gate
    evaluate: Gate
    checkpoint: Gate

    def epoch_of(self, step):
        """Fraction: epochs completed when `step` steps are."""
        return Fraction(step * self.batch_size, self.num_examples)

    def next_gate(self, step):
        """The first step after `step` at which anything is due."""
        return min(gate.next_due(step) for gate in (self.log, self.evaluate, self.checkpoint))

    @property
    def steps_per_epoch(self):
        return self.num_examples / self.batch_size


def average_start(optim, total_steps, num_examples):
    """The first update, from 0, after which the weights are averaged by --average_last: int, total_steps without.

    Args:
        optim: `config.OptimConfig`.
        total_steps: int, of the whole run.
        num_examples: int, training images.
    """
    return total_steps - math.ceil(exact(optim.average_last) * Fraction(num_examples, optim.batch_size))


def make_plan(optim, run, num_examples):
    """Plan of a run.

    Args:
        optim: `config.OptimConfig`.
        run: `config.RunConfig`.
        num_examples: int, training images.

    Raises:
        UserError: the cool-down is longer than the run, or what --average_last averages.
    """
    steps_per_epoch = Fraction(num_examples, optim.batch_size)
    cooldown = exact(optim.cooldown_epochs)
    if optim.train_steps is not None:
        total_steps = optim.train_steps
        schedule_epochs = total_steps / steps_per_epoch - cooldown
        if schedule_epochs <= 0:
            raise UserError(f"--cooldown_epochs: expected less than the whole run of {total_steps} steps "
                            f"({float(total_steps / steps_per_epoch):.3g} epochs), found {optim.cooldown_epochs:g}")
    else:
        schedule_epochs = exact(optim.epochs)
        total_steps = math.ceil((schedule_epochs + cooldown) * steps_per_epoch)
    if average_start(optim, total_steps, num_examples) < 0:
        raise UserError(f"--average_last: expected at most the whole run of {total_steps} steps "
                        f"({float(total_steps / steps_per_epoch):.3g} epochs), found {optim.average_last:g}")
    if run.eval_every_steps is not None:
        eval_every = Fraction(run.eval_every_steps)
    else:
        eval_every = exact(run.eval_every_epochs) * steps_per_epoch
    return Plan(num_examples, optim.batch_size, total_steps, schedule_epochs,
                log=Gate(Fraction(run.log_every_steps), total_steps),
                evaluate=Gate(eval_every, total_steps),
                checkpoint=Gate(Fraction(run.checkpoint_every_steps), total_steps))
