"""What becomes of a run with too many non-finite updates in a row: it stops, or goes back and on at half the rate.

A rollback is a resume within the process, in an order in which it can be killed anywhere:

    find         the checkpoint to go back to is chosen; nothing is changed yet
    restore      weights, optimizer and state are read from it
    write_down   checkpoints after it are removed, the newest first
                 metrics.jsonl is cut there, and the record of the rollback added
                 the checkpoint's record gets the count and the factor of the learning rates

Only `write_down` writes. Its last line makes the rollback happen, in one rename: killed before it, the run goes on from
what is left, diverges in the same way and comes here again; a record without its checkpoint is cut. The same examples
follow, with the same randomness: only the rate differs. No TensorFlow is imported with this module.
"""

import contextlib
import dataclasses

from cct_tf.errors import UserError
from cct_tf.runs import checkpoint, run_record
from cct_tf.training import resume

MOST_ROLLBACKS = 3
FACTOR = 0.5  # of the learning rates; a power of two, so that it rounds nothing


def is_due(optim, state):
    """Whether so many updates in a row were skipped that the run can't just go on."""
    return int(state.skipped_in_row.numpy()) >= optim.max_skipped_updates


def targets(folder, plan, row_start):
    """Checkpoints from before the row of skipped updates, lowest step first: list of paths.

    Of those, the ones that the plan asks for, if any: a run that was stopped by a signal saved others, and must go
    back to where the undisturbed run does.

    Args:
        folder: pathlib.Path, `checkpoints`; plan: `plan.Plan`; row_start: int, `TrainState.row_start`.
    """
    before = [path for path in run_record.list_checkpoints(folder) if run_record.step_of(path) <= row_start]
    planned = [path for path in before if _is_planned(plan, run_record.step_of(path))]
    return planned or before


def _is_planned(plan, step):
    return step == 0 or plan.checkpoint.is_due(step) or plan.evaluate.is_due(step)


@dataclasses.dataclass(frozen=True)
class Rollback:
    """A rollback that is to happen.

    Attributes:
        start: `resume.Start`, the checkpoint to go back to.
        count: int, rollbacks of the run with this one; factor: float, of the learning rates from there on.
        text: a line on it.
    """

    start: resume.Start
    count: int
    factor: float
    text: str


@dataclasses.dataclass(frozen=True)
class Rollbacks:
    """Rolls one run back, in the three parts above.

    Attributes:
        config: `config.Config`; workdir: `workdir.Workdir`; console: `console.Console`; plan: `plan.Plan`.
        state: `state.TrainState`, which tells when the run diverged.
        trackable: of `checkpoint.make_trackable`, what is read from a checkpoint.
        source: `source.Source` of the run.
    """

    config: object
    workdir: object
    console: object
    plan: object
    state: object
    trackable: object
    source: object

    def find(self, status):
        """The rollback that is due; only looks.

        Args:
            status: `run_status.RunStatus` of the run that diverged.

        Returns:
            Rollback, to the newest target whose files are whole.

        Raises:
            UserError: --on_divergence=stop, or there were enough rollbacks, or there is nothing to go back to.
        """
        optim, diverged_at = self.config.optim, int(self.state.step.numpy())
        start = _newest_whole(targets(self.workdir.checkpoints, self.plan, self.state.row_start()))
        if optim.on_divergence == "stop" or status.rollback_count >= MOST_ROLLBACKS or start is None:
            raise _stop(optim, status, diverged_at, start)
        count, factor = status.rollback_count + 1, status.learning_rate_factor * FACTOR
        return Rollback(start, count, factor,
                        f"rolled back to step {start.step:,} ({count} of {MOST_ROLLBACKS}): "
                        f"{optim.max_skipped_updates} non-finite updates in a row up to step {diverged_at:,}; "
                        f"learning rates x {factor:g} from here")

    def restore(self, back):
        """Read the state to go back to; writes nothing.

        Args:
            back: Rollback.

        Returns:
            `run_status.RunStatus` there, with this rollback counted.

        Raises:
            UserError: TensorFlow can't read the checkpoint, though its checksums are right.
        """
        try:
            checkpoint.restore(back.start.path, self.trackable)
        except run_record.Unreadable as error:
            raise UserError(f"--on_divergence: expected a checkpoint to go back to that can be read, found "
                            f"{error}") from None
        status = resume.status_at(back.start, self.config, self.workdir, self.console, self.source)
        return dataclasses.replace(status, rollback_count=back.count, learning_rate_factor=back.factor)

    def write_down(self, back, status, summaries, save):
        """Make the work folder that of a run that was rolled back.

        Args:
            back: Rollback; status: `run_status.RunStatus` of `restore`; summaries: `summaries.Summaries`;
            save: `saver.Saver`.
        """
        step = back.start.step
        checkpoint.remove_after(self.workdir.checkpoints, step)
        summaries.write_rollback(step, status, back.text)
        save.go_back(step)
        save(step, status)  # only now has it happened


def _newest_whole(paths):
    """The `resume.Start` of the last path that is whole, or None."""
    for path in reversed(paths):
        with contextlib.suppress(run_record.Unreadable):
            return resume.Start(path, run_record.read_record(path))
    return None


def _stop(optim, status, step, start):
    """The UserError that ends the run."""
    limit, tried = optim.max_skipped_updates, ""
    if status.rollback_count:
        tried = f" after {status.rollback_count} rollbacks (learning rates x {status.learning_rate_factor:g})"
    good = f"the last good checkpoint is {start.path}" if start else "no good checkpoint was saved before them"
    return UserError(f"--max_skipped_updates: expected fewer than {limit} non-finite updates in a row, found {limit} "
                     f"up to step {step}{tried}; try a lower --learning_rate or a --clip_norm; {good}")
