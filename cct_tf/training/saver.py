"""Saves the checkpoints of a run: each state once, its record as often as there is more to say.

With --async_save a thread writes, after the values were copied to the host, while training goes on. All else here waits
for it first: so what is on the disk comes about in the order in which it was asked for.
"""

import dataclasses

from cct_tf.runs import background, checkpoint, file_list, run_record
from cct_tf.training import divergence


class Saver:
    """Saves checkpoints.

    Args:
        config: `config.Config`.
        workdir: `workdir.Workdir`.
        plan: `plan.Plan`.
        trackable: of `checkpoint.make_trackable`.
        state: `state.TrainState`.
        resolved: `resolved.Resolved` of the run.
        saved_step: int, of the checkpoint that the run goes on from; None at the start.
        is_chief: bool, False saves nothing: another worker does.
        broken: `broken_images.BrokenImages` of the run, or None.
        saved: function without arguments, called when something was saved.
    """

    def __init__(self, config, workdir, plan, trackable, state, resolved, saved_step, is_chief=True,
                 broken=None, saved=lambda: None):
        self._config = config
        self._workdir = workdir
        self._plan = plan
        self._trackable = trackable
        self._state = state
        self._resolved = resolved
        self._saved_step = saved_step
        self._is_chief = is_chief
        self._broken, self._saved = broken, saved
        self._writing, self._copy = background.Background("checkpoint"), None

    def __call__(self, step, status, finished=False):
        """Save the state of `step`, or bring the record of the checkpoint just saved up to date.

        Args:
            step: int, steps completed.
            status: `run_status.RunStatus`.
            finished: bool, whether the run is.
        """
        if not self._is_chief:
            return
        self.wait()
        resolved = self._resolved
        if self._broken is not None:
            found = self._broken.rows(step * self._plan.batch_size)
            resolved = dataclasses.replace(resolved, found_broken=found)
        record = run_record.Record(
            config=self._config.as_dict(), resolved=resolved, step=step, status=status, finished=finished,
            versions=run_record.versions(), evaluation_due=self._plan.evaluate.is_due(step))
        if self._saved_step == step:
            self._write_record(record)
        elif self._config.run.async_save:
            self._write_beside(record)
        else:
            self._write(self._trackable, record, self._state.row_start())

    def _write_beside(self, record):
        if self._copy is None:
            self._copy = checkpoint.HostCopy(self._trackable)
        else:
            self._copy.take()
        row_start = self._state.row_start()
        self._writing.start(lambda: self._write(self._copy.trackable, record, row_start))

    def _write(self, trackable, record, row_start):
        """Write a checkpoint and remove those that are not kept; in the thread, where there is one."""
        folder = self._workdir.checkpoints
        checkpoint.save(folder, trackable, record)
        checkpoint.prune(folder, self._config.run.keep_checkpoints,
                         divergence.targets(folder, self._plan, row_start)[-1:])
        self._saved_step = record.step
        self._bring_up_to_date(record)

    def _write_record(self, record):
        run_record.write_record(self._workdir.checkpoints / f"step_{record.step:08d}", record)
        self._bring_up_to_date(record)

    def _bring_up_to_date(self, record):
        best = self._workdir.best / f"step_{record.step:08d}"
        if best.exists():
            run_record.write_record(best, record)
        self._saved()

    def check(self):
        """Raise the error of a checkpoint that could not be written; does not wait for one that is being written."""
        self._writing.check()

    def wait(self):
        """Wait until what was saved is on the disk; raises its error."""
        self._writing.wait()

    def take_images(self, source, start, status):
        """Keep the list of the files; where a run goes on with others, its checkpoint says so from now on.

        Args:
            source: `source.Source`; start: `resume.Start`; status: `run_status.RunStatus`.
        """
        if not self._is_chief:
            return
        if source.has_files:
            file_list.write(self._workdir, source)
        before, now = start.resolved, self._resolved
        if start.record and (before.fingerprint != now.fingerprint or self._config.run.accept_config_change and (
                before.left_out, before.found_broken) != (now.left_out, now.found_broken)):
            run_record.write_record(start.path, dataclasses.replace(
                start.record, config=self._config.as_dict(), resolved=self._resolved, status=status, finished=False))

    def keep_best(self, step):
        """The checkpoint of `step` is the best so far."""
        if self._is_chief:
            self.wait()
            checkpoint.keep_best(self._workdir.best, self._workdir.checkpoints / f"step_{step:08d}")

    def go_back(self, step):
        """The state is that of the checkpoint of `step` again: the next call for it changes its record alone."""
        self._saved_step = step
