"""The loop: chunk of steps -> log -> checkpoint -> evaluate, each behind its gate.

The *inner* loop is `TrainStep.run`: many steps in one tf.function, nothing read on the host. The *outer* loop is
`Training.run`: it picks how many steps the next chunk has (up to the next gate, about a second at most, so that a
signal never waits long), and acts at the gates. A checkpoint is saved before each evaluation, so what a fault costs is
the work since then and never an evaluated state.
"""

import functools
import math
import time

import tensorflow as tf

from cct_tf.assembly.forward import Forward
from cct_tf.augment import image_ops
from cct_tf.augment.stages import on_device
from cct_tf.data import pipeline
from cct_tf.engine.step import MOST_STEPS
from cct_tf.errors import OutsideFault, UserError
from cct_tf.evaluation.evaluator import Evaluator
from cct_tf.images import decode
from cct_tf.machine import compile_cache, memory, runtime
from cct_tf.machine.console import Console, Progress
from cct_tf.optim import schedules
from cct_tf.pictures import contact_sheet, plots
from cct_tf.pictures.inspection import Inspection
from cct_tf.runs import checkpoint, run_record
from cct_tf.settings import averages
from cct_tf.training import coordination, divergence, report, saver
from cct_tf.training.broken_images import BrokenImages
from cct_tf.training.profiling import Profiler, parse_steps
from cct_tf.training.summaries import NoSummaries, Summaries
from cct_tf.training.timer import Timer

_CHUNK_SECONDS = 1.0
_BROKEN = "mended, the same command goes on; --on_bad_image=skip --accept_config_change goes on without it"
_SHEET = 4  # images of the contact sheet, and draws of each


class Training:
    """The loop of a run that was made ready.

    Args:
        prepared: `preparation.Prepared`.

    Attributes:
        config, workdir, console, devices, peers, plan, network, start, resolved: those of `prepared`.
        images, transform, stages, sampling, train_split: those of its data.
        broken: `broken_images.BrokenImages`.
        status: `run_status.RunStatus`, up to date.
        steps: (first, last) of the chunk in work, or of the last one.
        last: dict of the newest evaluation, "step" and what the config's `measure` keeps; or None.
    """

    def __init__(self, prepared, saved=lambda: None):
        self.config, self.workdir, self.console = prepared.config, prepared.workdir, prepared.console
        self.devices, self.peers, self.plan = prepared.devices, prepared.peers, prepared.plan
        data, self.network = prepared.data, prepared.network
        self.images, self.transform, self.train_split = data.images, data.transform, data.train_split
        self.stages, self.sampling = data.stages, data.sampling
        self.start, self.resolved = prepared.start, prepared.resolved
        self.status, self.last = prepared.status, None
        self.steps = (self.start.step, self.start.step)
        self.broken = BrokenImages(prepared)
        self._save = saver.Saver(self.config, self.workdir, self.plan, self.network.trackable, self.network.state,
                                 self.resolved, self.start.step if self.start.record else None, self.peers.is_chief,
                                 self.broken, saved)

    # For people.

    def plan_lines(self):
        """The plan as lines of text."""
        kept = ()
        if self.transform.fit == "crop":
            sizes = self.images.source.splits["train"].reader.sizes()
            kept = image_ops.kept_area(sizes, self.transform.size, self.transform.crop_pct)
        return report.plan_lines(self.config, self.images, self.stages, self.sampling, self.plan, self.network.model,
                                 self.devices, self.network.tuning, self.start, self.resolved.initial_weights, kept,
                                 self.network.teachers)

    def result_lines(self, test, seconds):
        """What came out, as lines of text; `test` is what `run` returned."""
        return report.result_lines(self.config, self.status.best, self.last, test, seconds)

    # Data.

    def batches(self, start_step, num_steps):
        """Dataset of training batches, of each this worker's part."""
        with tf.device("CPU:0"):
            return pipeline.train_batches(self.train_split, self.stages, self.sampling, start_step, num_steps,
                                          self.devices.share)

    def evaluator(self, split, models):
        """`Evaluator` of a split, by name, of the models of a dict."""
        source, jit = self.images.source, self.network.tuning.jit.value
        models = {name: Forward(model, self.devices.kind, jit) for name, model in models.items()}
        with memory.data_named_when_out(self.config.data):
            return Evaluator(self.devices, models, source.splits[split], self.transform,
                             num_classes=source.num_classes, batch_size=self.config.run.eval_batch_size,
                             peers=self.peers, task=self.config.data.task, stream=self.console.stream)

    def _results(self, evaluator, interrupts):
        with memory.named_when_out(memory.EVALUATION, self.config.run.eval_batch_size):
            return evaluator(should_stop=lambda: interrupts.requested is not None)

    def _pictures(self):
        """What the network will see, {tag: [N, height, width, 3]}: the first batch, and a contact sheet."""
        with tf.device("CPU:0"):  # the whole batch, of which a replica gets a slice
            first = self.transform.unfinish(on_device(next(iter(self.batches(0, 1))), self.stages))
        rows = min(_SHEET, self.train_split.num_examples) // 2 * 2  # even, for mixing
        if not rows:
            return {"train/batch": first}
        sheet = contact_sheet.draw(self.train_split, self.images.source.class_names, self.transform, self.stages,
                                   self.sampling, rows, _SHEET)
        return {"train/batch": first, "train/preview": plots.as_array(contact_sheet.figure(sheet))[None]}

    def _attention(self, name):
        """What the network of an evaluation looks at, {tag: uint8 [height, width, 3]}."""
        return self._inspection.pictures(self.evaluated[name])

    def _write_features(self):
        """The pooled features of the network that is judged, for TensorBoard's projector."""
        self._inspection.write_features(self.evaluated[self.judged], self.workdir.path / self.judged)

    @functools.cached_property
    def _inspection(self):
        source = self.images.source
        return Inspection(source.splits[source.evaluated_split], self.transform, source.class_names)

    @property
    def evaluated(self):
        """The networks that `eval/*` is about, {name of the evaluation: network}."""
        network = self.network
        if self.judged == "eval":
            return {"eval": network.averaged or network.model}
        return {"eval": network.model, self.judged: network.averaged}

    @property
    def judged(self):
        """Which evaluation chooses the best: of the averaged weights, where the run keeps an average."""
        return averages.judged(self.config.optim.average)

    def _iterator(self, step):
        """Over the batches after `step` completed steps, each shared out among the replicas."""
        compile_cache.steady_names()
        rest = self.batches(step, max(self.plan.total_steps - step, 1))
        return runtime.distribute(self.devices, rest, self.plan.batch_size)

    # Acting.

    def _evaluate(self, step, evaluator, summaries, progress, interrupts):
        """Evaluate the state of `step`, which has been saved."""
        results = self._results(evaluator, interrupts)
        if results is None:
            return
        self.broken.agree()
        judged = results[self.judged]
        measure = self.config.measure
        self.last = {"step": step} | measure.of(judged)
        self.status, is_best = self.status.after(step, judged, measure)
        summaries.write_evaluation(step, results, last=step == self.plan.total_steps or self._is_over,
                                   pictures=self._attention)
        if is_best:
            self._save.keep_best(step)
        self._save(step, self.status)
        progress.say(report.evaluation_line(step, self.plan, results, is_best, measure))

    def _log(self, step, timer, summaries, progress):
        values = self.network.state.interval()
        values["train/learning_rate"] = self.learning_rate(step - 1)
        waited = math.nan if self.devices.deterministic else float(self.network.train_step.wait_seconds.numpy())
        values |= timer.values(self.config.optim.batch_size, waited)
        values |= self.broken.counted(step * self.plan.batch_size)
        summaries.write_train(step, values)
        progress.show(step, values)
        self.network.state.start_interval()
        self.network.train_step.wait_seconds.assign(0.0)
        timer.reset()

    @property
    def _patience(self):
        return self.config.run.early_stop_evaluations

    @property
    def _is_over(self):
        """Whether the run ends before its last step."""
        return self.status.is_over(self._patience)

    def learning_rate(self, step):
        """Of update `step`, from 0."""
        return schedules.learning_rate(self.config.optim, self.plan, step) * self.status.learning_rate_factor

    def _roll_back(self, summaries, progress, timer):
        """Go back to before the run diverged, or stop it; returns (steps completed, iterator over the rest)."""
        self._save.wait()
        rollbacks = divergence.Rollbacks(self.config, self.workdir, self.console, self.plan, self.network.state,
                                         self.network.trackable, self.images.source)
        back, self.status = coordination.roll_back(rollbacks, self.status, self.peers, summaries, self._save)
        self.last = summaries.last_evaluation(self.judged)
        self.network.train_step.wait_seconds.assign(0.0)
        timer.reset()
        progress.advance(back.start.step)
        progress.say(back.text)
        return back.start.step, self._iterator(back.start.step)

    @decode.broken_images_named(_BROKEN)
    def run(self, interrupts, between_chunks=lambda: None):
        """Train to the end, or until a signal asks to stop.

        Args:
            interrupts: `interrupts.Interrupts`.
            between_chunks: function without arguments, called before each chunk of steps; what it asks of `interrupts`
                is done before the next step.

        Returns:
            `metrics.Evaluation` of the best weights on the test split, where it is not what `eval/*` uses; else None.

        Raises:
            Interrupted: a signal asked to stop; the state is saved.
            UserError: too many non-finite updates in a row.
            OutsideFault: a checkpoint could not be saved.
        """
        plan, step = self.plan, int(self.network.state.step.numpy())
        with self.console.phase("preparing evaluation and the first batch"):
            evaluator = self.evaluator(self.images.source.evaluated_split, self.evaluated)
            shown = self._pictures() if step == 0 and self.peers.is_chief else {}
        timer, (summaries, progress, profiler) = Timer(), self._outputs(step)
        self._save.take_images(self.images.source, self.start, self.status)
        self.broken.listen()
        summaries.start(step, self.status, shown)
        self.last = summaries.last_evaluation(self.judged)
        iterator = self._iterator(step)
        interrupts.can_save = True
        self.peers.judge_exchanges(self.config.run.collective_timeout)
        try:
            self._before_first_step(step, evaluator, summaries, progress, interrupts)
            while step < plan.total_steps and not self._is_over:
                between_chunks()
                stopped, count = self._agree(step, interrupts, timer, profiler)
                if stopped:
                    break
                with profiler.chunk(step):
                    step = self._chunk(step, count, iterator, timer, progress)
                self._save.check()
                self.broken.agree()
                if divergence.is_due(self.config.optim, self.network.state):
                    profiler.close(step)
                    step, iterator = self._roll_back(summaries, progress, timer)
                    continue
                if plan.log.is_due(step):
                    self._log(step, timer, summaries, progress)
                if plan.checkpoint.is_due(step) or plan.evaluate.is_due(step):
                    self._save(step, self.status)
                if plan.evaluate.is_due(step):
                    self._evaluate(step, evaluator, summaries, progress, interrupts)
            self._stop_if_asked(step, interrupts)
            return self._finish(step, summaries, progress, interrupts)
        finally:
            try:
                profiler.close(step)
                progress.close()
                summaries.close()
            finally:
                self._save.wait()

    def _outputs(self, step):
        """What a run shows and writes from `step` on, worker 0 alone: (summaries, progress, profiler)."""
        is_chief, source = self.peers.is_chief, self.images.source
        summaries = NoSummaries()
        if is_chief:
            summaries = Summaries(self.workdir, self.config, self.plan, source.class_names)
        progress = Progress(self.console if is_chief else Console(quiet=True), self.plan, step)
        profiled = parse_steps(self.config.run.profile_steps) if is_chief else None
        return summaries, progress, Profiler(profiled, self.workdir.path / "train", progress.say)

    def _before_first_step(self, step, *args):
        """A new run that may be rolled back saves its start; one that goes on does the evaluation owed, if any.

        One is owed at the end too, where there is no best: the one before may have been found on other images.
        """
        record = self.start.record
        if record is None:
            if self.config.optim.on_divergence == "rollback":
                self._save(step, self.status)
                self._save.wait()  # the names of what is compiled next count what TensorFlow does, see steady_names
        elif record.evaluation_due and self.status.last_evaluated_step < step or (
                step == self.plan.total_steps and self.status.best is None):
            self._evaluate(step, *args)

    def _agree(self, step, interrupts, timer, profiler):
        """What all workers do next: (whether to stop, steps of the chunk: up to the next gate, and about a second)."""
        count = min(self.plan.next_gate(step) - step, timer.steps_in(_CHUNK_SECONDS), MOST_STEPS,
                    profiler.most_steps(step))
        found = self.peers.exchange({"stop": interrupts.requested, "count": count})
        return any(each["stop"] for each in found), min(each["count"] for each in found)

    def _is_asked_to_stop(self, interrupts):
        """Whether a worker is, so that all stop; worker 0 comes here when it has written all that it had to."""
        asked = [number for number in self.peers.exchange(interrupts.requested) if number]
        if asked and interrupts.requested is None:
            interrupts.requested = asked[0]
        return bool(asked)

    def _stop_if_asked(self, step, interrupts):
        """Save the state of `step` and raise Interrupted, on all workers, if one of them is asked to stop."""
        if self._is_asked_to_stop(interrupts):
            self._save(step, self.status)
            self._save.wait()
            self.peers.wait_for_chief()
            interrupts.check(f"saved step {step:,} of {self.plan.total_steps:,}; the same command goes on from it")

    def _chunk(self, step, count, iterator, timer, progress):
        """`count` steps; returns the number of completed steps."""
        self.steps = (step + 1, step + count)
        rates = [self.learning_rate(step + index) for index in range(count)]
        if timer.is_first:
            with self.console.phase("compiling the training step"):
                compile_cache.steady_names()
                self._timed(iterator, rates, timer)
            compile_cache.keep()
            self.network.train_step.wait_seconds.assign(0.0)  # like the chunk's time, it says nothing of those to come
        else:
            self._timed(iterator, rates, timer)
        step = int(self.network.state.step.numpy())
        progress.advance(step)
        return step

    def _timed(self, iterator, rates, timer):
        start = time.perf_counter()
        self.network.train_step.run(iterator, rates)
        self.network.state.step.numpy()  # waits for the device
        timer.add(len(rates), time.perf_counter() - start)

    def _finish(self, step, summaries, progress, interrupts):
        """After the last step: test the best weights, if the best was chosen on a validation split."""
        if step < self.plan.total_steps:
            progress.say(report.early_stop_line(step, self.plan, self.status, self._patience, self.config.measure))
        if self.peers.is_chief:
            self._write_features()
        test = None
        splits = self.images.source.splits
        if self.config.run.test_at_end and "validation" in splits and "test" in splits:
            if self.status.best is None:
                raise UserError(f"{self.workdir.best}: expected the best checkpoint of this run, found none")
            best = self.workdir.best / f"step_{self.status.best['step']:08d}"
            try:
                record = run_record.read_record(best)
                weights = run_record.choose_weights(record, "auto")
                checkpoint.restore_weights(best, self.network.model, weights)
            except run_record.Unreadable as error:
                # Elsewhere than on worker 0, which reads it too, the storage is to blame.
                raise (UserError if self.peers.is_chief else OutsideFault)(
                    f"{best}: expected the best checkpoint of this run, found it damaged ({error})") from None
            tested = self._results(self.evaluator("test", {"test": self.network.model}), interrupts)
            if tested is None and self._is_asked_to_stop(interrupts):
                interrupts.check("trained to the end, but not tested yet; the same command does it")
            tested = {name: each.at(record.thresholds_of(weights)) for name, each in tested.items()}
            summaries.write_evaluation(step, tested, last=True)
            self.broken.agree()
            test = tested["test"]
        self._save(step, self.status, finished=True)
        self._save.wait()
        return test
