"""The loop: chunk of steps -> log -> checkpoint -> evaluate, each behind its gate.

The *inner* loop is `TrainStep.run`: many steps in one tf.function, nothing read on the host. The *outer* loop is
`Training.run`: it picks how many steps the next chunk has (up to the next gate, about a second at most, so that a
signal never waits long), and acts at the gates. A checkpoint is saved before each evaluation, so what a fault costs is
the work since then and never an evaluated state.
"""

import importlib.metadata
import platform
import time

import tensorflow as tf

from cct_tf import runtime
from cct_tf.data import decode, pipeline
from cct_tf.errors import UserError
from cct_tf.optim import schedules
from cct_tf.optim.optimizers import make_optimizer
from cct_tf.plan import make_plan
from cct_tf.training import checkpoint, losses, report, run_record, setup
from cct_tf.training.console import Progress
from cct_tf.training.evaluation import Evaluator
from cct_tf.training.resume import find_start
from cct_tf.training.state import TrainState
from cct_tf.training.step import MOST_STEPS, TrainStep
from cct_tf.training.summaries import Summaries
from cct_tf.training.timer import Timer

_CHUNK_SECONDS = 1.0


class Training:
    """A run, assembled: everything `run` needs, restored to where it goes on.

    Args:
        config: `config.Config`.
        workdir: `workdir.Workdir`.
        start: `resume.Start`.
        console: `console.Console`.
    """

    def __init__(self, config, workdir, start, console):
        self.config, self.workdir, self.console, self.start = config, workdir, console, start
        self.devices = setup.make_devices(config)  # first: logical devices come before TensorFlow is used
        resolved = start.record.resolved if start.record else {}
        self.images = setup.open_images(config, console, setup.known_statistics(resolved))
        if resolved:
            setup.check_data(self.images, resolved)
        source = self.images.source
        setup.check_batch(config, self.devices)
        self.plan = make_plan(config.optim, config.run, source.splits["train"].num_examples)
        self._check_length()
        # What auto chose is part of the run where the run began on such a device.
        same_device = resolved.get("device") == self.devices.kind
        self.jit = runtime.choose_jit(config.run.jit, self.devices.kind, resolved["jit"] if same_device else None)
        with console.phase(f"building {config.model.model}"), self.devices.strategy.scope():
            self.model = setup.build_model(config, source.num_classes)
            self.optimizer = make_optimizer(config.optim, self.model.trainable_variables)
        self.transform = setup.make_transform(config, self.images, self.model)
        self.state = TrainState()
        self.train_split = source.splits["train"]
        if self.transform.fits_once:
            with console.phase("preparing the training images"):
                self.train_split = pipeline.hold_at_size(self.train_split, self.transform)
        self.trackable = checkpoint.make_trackable(self.model, self.optimizer, self.state)
        self.train_step = TrainStep(
            self.devices, self.model, self.optimizer, self.state, batch_size=config.optim.batch_size,
            accumulate_steps=config.run.accumulate_steps, clip_norm=config.optim.clip_norm,
            max_skipped_updates=config.optim.max_skipped_updates, jit=self.jit.value)
        self._restore()
        record = self.start.record
        self.last_evaluated_step = record.last_evaluated_step if record else 0
        self.best = self._best_of(record)
        self.last = None
        self._saved_step = None
        self._note_hardware(resolved)

    # Assembly.

    def _check_length(self):
        if self.start.step > self.plan.total_steps:
            flag = "train_steps" if self.config.optim.train_steps else "epochs"
            raise UserError(f"--{flag}: expected a run of at least {self.start.step} steps, where the checkpoint "
                            f"stands, found {self.plan.total_steps}")

    def _best_of(self, record):
        """The best result so far, if its weights are still there.

        After going back to an older checkpoint they may be gone: a better result replaced them. It comes again.
        """
        best = record.best if record else None
        if best and not (self.workdir.best / f"step_{best['step']:08d}").exists():
            self.console.say(f"the best weights of step {best['step']} are no longer kept: the best is chosen anew")
            return None
        return best

    def _note_hardware(self, resolved):
        now = self._resolved()
        changed = [f"{name} {resolved[name]} -> {now[name]}" for name in ("device", "num_replicas", "threads", "jit")
                   if resolved and resolved[name] != now[name]]
        if changed:
            self.console.say(f"computed otherwise than before ({', '.join(changed)}): results agree up to summation "
                             "order, not to the last bit")

    def _restore(self):
        """Restore the newest readable checkpoint; damaged ones are set aside and said."""
        while self.start.path is not None:
            try:
                checkpoint.restore(self.start.path, self.trackable)
                return
            except run_record.Unreadable as error:
                if len(run_record.list_checkpoints(self.workdir.checkpoints)) == 1:
                    # Set aside, it would let the next start begin anew.
                    raise UserError(f"{self.workdir.checkpoints}: expected a checkpoint that can be read, found none "
                                    f"({error})") from None
                if self.config.run.dry_run:
                    raise UserError(f"{error}; a run goes on from the checkpoint before it") from None
                aside = run_record.set_aside(self.start.path)
                self.console.warn(f"{error}: damaged, set aside as {aside.name}, going on from the one before")
                self.start = find_start(self.config, self.workdir, self.console)

    def _resolved(self):
        source = self.images.source
        return {"mean": list(self.images.mean), "std": list(self.images.std),
                "statistics_computed": self.config.augment.mean is None and source.mean is None,
                "image_size": self.model.image_size, "classes": list(source.class_names),
                "num_examples": {name: split.num_examples for name, split in source.splits.items()},
                "fingerprint": source.fingerprint, "order": source.order, "total_steps": self.plan.total_steps,
                "threads": runtime.num_threads(), "device": self.devices.kind,
                "num_replicas": self.devices.num_replicas, "jit": self.jit.value}

    def plan_lines(self):
        """The plan as lines of text."""
        return report.plan_lines(self.config, self.images, self.plan, self.model, self.devices, self.jit, self.start)

    def result_lines(self, test, seconds):
        """What came out, as lines of text; `test` is what `run` returned."""
        return report.result_lines(self.config, self.best, self.last, test, seconds)

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
        """Dataset of training batches."""
        source, config = self.images.source, self.config
        with tf.device("CPU:0"):
            return pipeline.train_batches(
                self.train_split, self.transform, num_classes=source.num_classes,
                label_smoothing=config.optim.label_smoothing, seed=config.run.seed,
                batch_size=config.optim.batch_size, start_step=start_step, num_steps=num_steps)

    def evaluator(self, split):
        """`Evaluator` of a split, by name."""
        source = self.images.source
        return Evaluator(self.devices, self.model, source.splits[split], self.transform,
                         num_classes=source.num_classes, batch_size=self.config.run.eval_batch_size)

    # Acting.

    def _save(self, step, finished=False):
        """Save a checkpoint of `step`, or bring the record of the one just saved up to date."""
        record = run_record.Record(
            config=self.config.as_dict(), resolved=self._resolved(), step=step,
            last_evaluated_step=self.last_evaluated_step, best=self.best, finished=finished, versions=_versions(),
            evaluation_due=self.plan.evaluate.is_due(step))
        path = self.workdir.checkpoints / f"step_{step:08d}"
        if self._saved_step == step:
            run_record.write_record(path, record)
        else:
            checkpoint.save(self.workdir.checkpoints, self.trackable, record)
            checkpoint.prune(self.workdir.checkpoints, self.config.run.keep_checkpoints)
            self._saved_step = step
        best = self.workdir.best / path.name
        if best.exists():
            run_record.write_record(best, record)

    def _evaluate(self, step, evaluator, summaries, progress, interrupts):
        """Evaluate the state of `step`, which has been saved."""
        result = evaluator(should_stop=lambda: interrupts.requested is not None)
        if result is None:
            return
        summaries.write_evaluation(step, result, last=step == self.plan.total_steps)
        self.last = {"step": step, "top1": result.top1, "loss": result.loss}
        is_best = self.best is None or result.top1 > self.best["top1"]
        if is_best:
            self.best = self.last
            checkpoint.keep_best(self.workdir.best, self.workdir.checkpoints / f"step_{step:08d}")
        self.last_evaluated_step = step
        self._save(step)
        progress.say(f"evaluation at step {step:,} (epoch {float(self.plan.epoch_of(step)):.2f}): top-1 "
                     f"{100 * result.top1:.2f}%, loss {result.loss:.4f}{' (best so far)' if is_best else ''}")

    def _log(self, step, timer, summaries, progress):
        values = self.state.interval()
        values["train/learning_rate"] = schedules.learning_rate(self.config.optim, self.plan, step - 1)
        values |= timer.values(self.config.optim.batch_size, float(self.train_step.wait_seconds.numpy()))
        summaries.write_train(step, values)
        progress.show(step, values)
        self.state.start_interval()
        self.train_step.wait_seconds.assign(0.0)
        timer.reset()

    def _check_divergence(self):
        limit = self.config.optim.max_skipped_updates
        if int(self.state.skipped_in_row.numpy()) >= limit:
            saved = run_record.list_checkpoints(self.workdir.checkpoints)
            last = f"; the last good checkpoint is {saved[-1]}" if saved else ""
            raise UserError(f"--max_skipped_updates: expected fewer than {limit} non-finite updates in a row, found "
                            f"{limit} up to step {int(self.state.step.numpy())}; try a lower --learning_rate or a "
                            f"--clip_norm{last}")

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
        summaries = Summaries(self.workdir, self.config, self.images.source.class_names)
        with self.console.phase("preparing evaluation and the first batch"):
            evaluator = self.evaluator(self.images.source.evaluated_split)
            shown = None
            if step == 0:
                shown = self.transform.unfinish(next(iter(self.batches(0, 1)))["image"])
        self._saved_step = step or None
        progress, timer = Progress(self.console, plan, step), Timer()
        summaries.start(step, self.last_evaluated_step, shown)
        self.last = summaries.last_evaluation()
        iterator = runtime.distribute(self.devices, self.batches(step, max(plan.total_steps - step, 1)),
                                      plan.batch_size)
        interrupts.can_save = True
        try:
            if self._owes_evaluation(step):
                self._evaluate(step, evaluator, summaries, progress, interrupts)
            while step < plan.total_steps and interrupts.requested is None:
                step = self._chunk(step, iterator, timer, progress)
                self._check_divergence()
                if plan.log.is_due(step):
                    self._log(step, timer, summaries, progress)
                if plan.checkpoint.is_due(step) or plan.evaluate.is_due(step):
                    self._save(step)
                if plan.evaluate.is_due(step):
                    self._evaluate(step, evaluator, summaries, progress, interrupts)
            if interrupts.requested is not None:
                self._save(step)
                interrupts.check(f"saved step {step:,} of {plan.total_steps:,}; the same command goes on from it")
            return self._finish(summaries, interrupts)
        finally:
            progress.close()
            summaries.close()

    def _owes_evaluation(self, step):
        """Whether the checkpoint of `step` was saved to be evaluated, and it has not been."""
        record = self.start.record
        return record is not None and record.evaluation_due and self.last_evaluated_step < step

    def _chunk(self, step, iterator, timer, progress):
        """Some steps, up to the next gate and about a second; returns the number of completed steps."""
        count = min(self.plan.next_gate(step) - step, timer.steps_in(_CHUNK_SECONDS), MOST_STEPS)
        rates = [schedules.learning_rate(self.config.optim, self.plan, step + index) for index in range(count)]
        if timer.is_first:
            with self.console.phase("compiling the training step"):
                self._timed(iterator, rates, timer)
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

    def _finish(self, summaries, interrupts):
        """After the last step: test the best weights, if the best was chosen on a validation split."""
        step, test = self.plan.total_steps, None
        splits = self.images.source.splits
        if "validation" in splits and "test" in splits:
            if self.best is None:
                raise UserError(f"{self.workdir.best}: expected the best checkpoint of this run, found none")
            best = self.workdir.best / f"step_{self.best['step']:08d}"
            try:
                run_record.read_record(best)
                checkpoint.restore_weights(best, self.model)
            except run_record.Unreadable as error:
                raise UserError(f"{best}: expected the best checkpoint of this run, found it damaged "
                                f"({error})") from None
            test = self.evaluator("test")(should_stop=lambda: interrupts.requested is not None)
            if test is None:
                interrupts.check("trained to the end, but not tested yet; the same command does it")
            summaries.write_evaluation(step, test, prefix="test", last=True)
        self._save(step, finished=True)
        return test


def _versions():
    names = ("tensorflow", "keras", "numpy")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}
