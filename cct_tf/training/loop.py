"""The loop: chunk of steps -> log -> checkpoint -> evaluate, each behind its gate.

The *inner* loop is `TrainStep.run`: many steps in one tf.function, nothing read on the host. The *outer* loop is
`Training.run`: it picks how many steps the next chunk has (up to the next gate, about a second at most, so that a
signal never waits long), and acts at the gates. A checkpoint is saved before each evaluation, so what a fault costs is
the work since then and never an evaluated state.
"""

import math
import time

import tensorflow as tf

from cct_tf.assembly import inputs, recorded_data
from cct_tf.assembly.devices import check_batch, make_devices
from cct_tf.assembly.parts import assemble
from cct_tf.augment import image_ops
from cct_tf.data import pipeline
from cct_tf.engine import losses
from cct_tf.engine.step import MOST_STEPS
from cct_tf.errors import OutsideFault, UserError
from cct_tf.evaluation.evaluator import Evaluator
from cct_tf.evaluation.forward import Forward
from cct_tf.machine import compile_cache, memory, runtime
from cct_tf.machine.console import Console, Progress
from cct_tf.optim import schedules
from cct_tf.pictures import contact_sheet, plots
from cct_tf.pictures.inspection import Inspection
from cct_tf.readers import decode, loading
from cct_tf.runs import checkpoint, run_record
from cct_tf.settings.plan import make_plan
from cct_tf.training import coordination, divergence, report, saver
from cct_tf.training.profiling import Profiler, parse_steps
from cct_tf.training.summaries import NoSummaries, Summaries
from cct_tf.training.timer import Timer
from cct_tf.workers.peers import Alone

_CHUNK_SECONDS = 1.0
_SHEET = 4  # images of the contact sheet, and draws of each


class Training:
    """A run, assembled: everything `run` needs, restored to where it goes on.

    Args:
        config: `config.Config`.
        workdir: `workdir.Workdir`.
        start: `resume.Start`.
        console: `console.Console`.
        devices: `runtime.Devices`, made before TensorFlow is used; None makes them.
        peers: `peers.Peers` of a run of several workers, each with a Training of its own; None for one process.
    """

    def __init__(self, config, workdir, start, console, devices=None, peers=None):
        self.config, self.workdir, self.console = config, workdir, console
        self.devices, self.peers = devices or make_devices(config), peers or Alone()
        resolved = start.record.resolved if start.record else {}
        self.images = coordination.open_images(
            lambda: inputs.open_images(config, console, resolved), config, self.peers)
        recorded_data.check_images(self.images, start, config, workdir, console, self.peers)
        source = self.images.source
        check_batch(config, self.devices)
        self.plan = make_plan(config.optim, config.run, source.splits["train"].num_examples)
        _check_length(config, self.plan, start.step, console)
        initial = coordination.read_initial_weights(config, start, self.peers)
        with console.phase(f"building {config.model.model}"):
            parts = assemble(config, self.devices, source.num_classes, source.splits["train"],
                                      self.plan.total_steps, resolved, initial, source.class_names)
        for warning in parts.adapted.warnings if parts.adapted and self.peers.is_chief else ():
            console.warn(warning)
        self.model, self.averaged, self.optimizer = parts.model, parts.averaged, parts.optimizer
        self.state, self.tuning, self.train_step = parts.state, parts.tuning, parts.train_step
        self.evaluated = {"eval": self.model} | ({"eval_ema": self.averaged} if self.averaged else {})
        self.transform = inputs.make_transform(config, self.images, self.model)
        self.stream = inputs.make_stream(config, source.num_classes)
        self.train_split = source.splits["train"]
        if self.transform.fits_once:
            with console.phase("preparing the training images"), memory.data_named_when_out(config.data):
                self.train_split = pipeline.hold_at_size(self.train_split, self.transform)
        self.inspection = Inspection(source.splits[source.evaluated_split], self.transform, source.class_names)
        self.trackable = checkpoint.make_trackable(self.model, self.optimizer, self.state, self.averaged)
        self.start, self.standing = coordination.restore(start, self.trackable, config, workdir, console, self.peers,
                                                      source)
        now = saver.resolve(config, self.images, self.plan, self.model, self.devices, self.tuning)
        self.first_weights = saver.first_weights(initial, parts.adapted, resolved)
        now |= self.first_weights | saver.images_before(resolved, now)
        saver.say_what_changed(resolved, now, console)
        self._save = saver.Saver(config, workdir, self.plan, self.trackable, self.state, now,
                                 self.start.step if self.start.record else None, self.peers.is_chief)

    # Assembly.

    def plan_lines(self):
        """The plan as lines of text."""
        sizes = loading.image_sizes(self.images.source.splits["train"].reader)
        kept = image_ops.kept_area(sizes, self.transform.size, self.transform.crop_pct)
        return report.plan_lines(self.config, self.images, self.plan, self.model, self.devices, self.tuning,
                                 self.start, self.first_weights, kept)

    def result_lines(self, test, seconds):
        """What came out, as lines of text; `test` is what `run` returned."""
        return report.result_lines(self.config, self.standing, test, seconds)

    @decode.broken_images_named()
    def try_one_batch(self):
        """Send one training batch through the network and say what came out: the end of a dry run."""
        with self.console.phase("one batch through the network"):
            batch = next(iter(self.batches(int(self.state.step.numpy()), 1)))
            logits = self.model(batch["image"], training=False)
            loss = float(tf.reduce_mean(losses.cross_entropy(batch["label"], logits)))
        self.console.say(f"loss {loss:.4f}; nothing was written to the work folder")

    # Data.

    def batches(self, start_step, num_steps):
        """Dataset of training batches, of each this worker's part."""
        with tf.device("CPU:0"):
            return pipeline.train_batches(self.train_split, self.transform, self.stream, start_step, num_steps,
                                          self.devices.part)

    def evaluator(self, split, models):
        """`Evaluator` of a split, by name, of the models of a dict."""
        source = self.images.source
        models = {name: Forward(model, self.devices.kind, self.tuning.jit.value) for name, model in models.items()}
        with memory.data_named_when_out(self.config.data):
            return Evaluator(self.devices, models, source.splits[split], self.transform,
                             num_classes=source.num_classes, batch_size=self.config.run.eval_batch_size,
                             peers=self.peers)

    def _results(self, evaluator, interrupts):
        with memory.named_when_out(memory.EVALUATION, self.config.run.eval_batch_size):
            return evaluator(should_stop=lambda: interrupts.requested is not None)

    def _pictures(self):
        """What the network will see, {tag: [N, height, width, 3]}: the first batch, and a contact sheet."""
        first = self.transform.unfinish(next(iter(self.batches(0, 1)))["image"])
        rows = min(_SHEET, self.train_split.num_examples) // 2 * 2  # even, for mixing
        if not rows:
            return {"train/batch": first}
        sheet = contact_sheet.draw(self.train_split, self.images.source.class_names, self.transform, self.stream, rows,
                                   _SHEET)
        return {"train/batch": first, "train/preview": plots.as_array(contact_sheet.figure(sheet))[None]}

    def _attention(self, name):
        """What the network of an evaluation looks at, {tag: uint8 [height, width, 3]}."""
        return {"eval/pooling_attention": self.inspection.attention(self.evaluated[name])}

    def _write_features(self):
        """The pooled features of the network that is judged, for TensorBoard's projector."""
        self.inspection.write_features(self.evaluated[self.judged], self.workdir.path / self.judged)

    @property
    def judged(self):
        """Which evaluation chooses the best: of the averaged weights, where the run keeps an average."""
        return "eval_ema" if self.averaged else "eval"

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
        is_best = self.standing.take(step, results[self.judged])
        summaries.write_evaluation(step, results, last=step == self.plan.total_steps or self.standing.is_over,
                                   pictures=self._attention)
        if is_best:
            self._save.keep_best(step)
        self._save(step, self.standing)
        progress.say(report.evaluation_line(step, self.plan, results, is_best))

    def _log(self, step, timer, summaries, progress):
        values = self.state.interval()
        values["train/learning_rate"] = self._learning_rate(step - 1)
        waited = math.nan if self.devices.deterministic else float(self.train_step.wait_seconds.numpy())
        values |= timer.values(self.config.optim.batch_size, waited)
        summaries.write_train(step, values)
        progress.show(step, values)
        self.state.start_interval()
        self.train_step.wait_seconds.assign(0.0)
        timer.reset()

    def _learning_rate(self, step):
        """Of update `step`, from 0."""
        return schedules.learning_rate(self.config.optim, self.plan, step) * self.standing.learning_rate_factor

    def _roll_back(self, summaries, progress, timer):
        """Go back to before the run diverged, or stop it; returns (steps completed, iterator over the rest)."""
        back, self.standing = coordination.roll_back(self, summaries, self._save)
        self.standing.last = summaries.last_evaluation(self.judged)
        self.train_step.wait_seconds.assign(0.0)
        timer.reset()
        progress.advance(back.start.step)
        progress.say(back.text)
        return back.start.step, self._iterator(back.start.step)

    @decode.broken_images_named()
    def run(self, interrupts):
        """Train to the end, or until a signal asks to stop.

        Args:
            interrupts: `interrupts.Interrupts`.

        Returns:
            `metrics.Evaluation` of the best weights on the test split, where it is not what `eval/*` uses; else None.

        Raises:
            Interrupted: a signal asked to stop; the state is saved.
            UserError: too many non-finite updates in a row.
            OutsideFault: a checkpoint could not be saved.
        """
        plan, step = self.plan, int(self.state.step.numpy())
        with self.console.phase("preparing evaluation and the first batch"):
            evaluator = self.evaluator(self.images.source.evaluated_split, self.evaluated)
            shown = self._pictures() if step == 0 and self.peers.is_chief else {}
        timer, (summaries, progress, profiler) = Timer(), self._outputs(step)
        self._save.take_images(self.images.source, self.start, self.standing)
        summaries.start(step, self.standing, shown)
        self.standing.last = summaries.last_evaluation(self.judged)
        iterator = self._iterator(step)
        interrupts.can_save = True
        self.peers.judge_exchanges(self.config.run.collective_timeout)
        try:
            self._before_first_step(step, evaluator, summaries, progress, interrupts)
            while step < plan.total_steps and not self.standing.is_over:
                stopped, count = self._agree(step, interrupts, timer, profiler)
                if stopped:
                    break
                with profiler.chunk(step):
                    step = self._chunk(step, count, iterator, timer, progress)
                if divergence.is_due(self.config.optim, self.state):
                    profiler.close(step)
                    step, iterator = self._roll_back(summaries, progress, timer)
                    continue
                if plan.log.is_due(step):
                    self._log(step, timer, summaries, progress)
                if plan.checkpoint.is_due(step) or plan.evaluate.is_due(step):
                    self._save(step, self.standing)
                if plan.evaluate.is_due(step):
                    self._evaluate(step, evaluator, summaries, progress, interrupts)
            self._stop_if_asked(step, interrupts)
            return self._finish(step, summaries, progress, interrupts)
        finally:
            profiler.close(step)
            progress.close()
            summaries.close()

    def _outputs(self, step):
        """What a run shows and writes from `step` on, worker 0 alone: (summaries, progress, profiler)."""
        is_chief, source = self.peers.is_chief, self.images.source
        summaries = (Summaries if is_chief else NoSummaries)(self.workdir, self.config, self.plan, source.class_names)
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
                self._save(step, self.standing)
        elif record.evaluation_due and self.standing.last_evaluated_step < step or (
                step == self.plan.total_steps and self.standing.best is None):
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
            self._save(step, self.standing)
            self.peers.wait_for_chief()
            interrupts.check(f"saved step {step:,} of {self.plan.total_steps:,}; the same command goes on from it")

    def _chunk(self, step, count, iterator, timer, progress):
        """`count` steps; returns the number of completed steps."""
        rates = [self._learning_rate(step + index) for index in range(count)]
        if timer.is_first:
            with self.console.phase("compiling the training step"):
                compile_cache.steady_names()
                self._timed(iterator, rates, timer)
            compile_cache.keep()
            self.train_step.wait_seconds.assign(0.0)  # like the chunk's time, it says nothing of those to come
        else:
            self._timed(iterator, rates, timer)
        step = int(self.state.step.numpy())
        progress.advance(step)
        return step

    def _timed(self, iterator, rates, timer):
        start = time.perf_counter()
        self.train_step.run(iterator, rates)
        self.state.step.numpy()  # waits for the device
        timer.add(len(rates), time.perf_counter() - start)

    def _finish(self, step, summaries, progress, interrupts):
        """After the last step: test the best weights, if the best was chosen on a validation split."""
        if step < self.plan.total_steps:
            progress.say(report.early_stop_line(step, self.plan, self.standing))
        if self.peers.is_chief:
            self._write_features()
        test = None
        splits = self.images.source.splits
        if "validation" in splits and "test" in splits:
            if self.standing.best is None:
                raise UserError(f"{self.workdir.best}: expected the best checkpoint of this run, found none")
            best = self.workdir.best / f"step_{self.standing.best['step']:08d}"
            try:
                weights = run_record.choose_weights(run_record.read_record(best), "auto")
                checkpoint.restore_weights(best, self.model, weights)
            except run_record.Unreadable as error:
                # Elsewhere than on worker 0, which reads it too, the storage is to blame.
                raise (UserError if self.peers.is_chief else OutsideFault)(
                    f"{best}: expected the best checkpoint of this run, found it damaged ({error})") from None
            tested = self._results(self.evaluator("test", {"test": self.model}), interrupts)
            if tested is None and self._is_asked_to_stop(interrupts):
                interrupts.check("trained to the end, but not tested yet; the same command does it")
            summaries.write_evaluation(step, tested, last=True)
            test = tested["test"]
        self._save(step, self.standing, finished=True)
        return test


def _check_length(config, plan, step, console):
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
