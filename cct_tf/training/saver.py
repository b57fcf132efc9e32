"""Saves the checkpoints of a run: each state once, its record as often as there is more to say."""

import dataclasses
import importlib.metadata
import platform

from cct_tf.assembly import tuning
from cct_tf.machine import runtime
from cct_tf.runs import checkpoint, file_list, run_record
from cct_tf.training import divergence

# What may change in mid-run, and then changes the last bits of the results.
_COMPUTED_BY = ("device", "num_replicas", "num_workers", "threads", "jit", "accumulate_steps", "fused_update",
                "fast_forms", "recompute")


def resolve(config, images, plan, model, devices, chosen):
    """What a config became on this machine with these data, for run.json.

    Args:
        config: `config.Config`; images: `inputs.Images`; plan: `plan.Plan`; model: keras.Model;
        devices: `runtime.Devices`; chosen: `tuning.Tuning`.

    Returns:
        dict that JSON can hold.
    """
    source = images.source
    return {"mean": list(images.mean), "std": list(images.std),
            "statistics_computed": config.augment.mean is None and source.mean is None,
            "image_size": model.image_size, "classes": list(source.class_names),
            "num_examples": {name: split.num_examples for name, split in source.splits.items()},
            "fingerprint": source.fingerprint, "evaluated_fingerprint": source.evaluated_fingerprint,
            "order": source.order,
            "data_rules": dataclasses.asdict(source.rules), "total_steps": plan.total_steps,
            "threads": runtime.num_threads(), "device": devices.kind, "num_replicas": devices.num_replicas,
            "num_workers": devices.num_workers,
            "jit": chosen.jit.value, "accumulate_steps": chosen.accumulate_steps.value,
            "fused_update": config.run.fused_update, "fast_forms": config.run.fast_forms,
            "recompute": config.run.recompute}


def first_weights(pretrained, adapted, before):
    """What run.json says of the weights that a run started from: {"initial_weights": ...}, or {} where they are random.

    Args:
        pretrained, adapted: `transfer.PretrainedWeights` and `AdaptedWeights` of this start, or None.
        before: dict of the run's checkpoint, whose word stays, or {}.
    """
    if pretrained is not None:
        return {"initial_weights": {"from": pretrained.name, "checksum": pretrained.checksum,
                                    "changes": adapted.changes}}
    return {name: value for name, value in before.items() if name == "initial_weights"}


def images_before(before, now):
    """What run.json says of images that a run had before: {"fingerprints_before": list}, or {} where they are the same.

    Args:
        before: dict of the run's checkpoint, or {}; now: dict of `resolve`.
    """
    found = before.get("fingerprints_before", [])
    if before and before["fingerprint"] != now["fingerprint"]:
        found = [*found, before["fingerprint"]]
    return {"fingerprints_before": found} if found else {}


def say_what_changed(before, now, console):
    """Say if the run goes on computing otherwise than its checkpoint did; both as `resolve` returns them."""
    if "jit" in before:
        before = {"num_workers": 1} | before | {"jit": tuning.recorded_jit(before["jit"])}
    changed = [f"{name} {before[name]} -> {now[name]}" for name in _COMPUTED_BY
               if name in before and before[name] != now[name]]
    if changed:
        console.say(f"computed otherwise than before ({', '.join(changed)}): results agree up to summation order, not "
                    "to the last bit")


class Saver:
    """Saves checkpoints.

    Args:
        config: `config.Config`.
        workdir: `workdir.Workdir`.
        plan: `plan.Plan`.
        trackable: of `checkpoint.make_trackable`.
        state: `state.TrainState`.
        resolved: dict of `resolve`.
        saved_step: int, of the checkpoint that the run goes on from; None at the start.
        is_chief: bool, False saves nothing: another worker does.
    """

    def __init__(self, config, workdir, plan, trackable, state, resolved, saved_step, is_chief=True):
        self._config = config
        self._workdir = workdir
        self._plan = plan
        self._trackable = trackable
        self._state = state
        self._resolved = resolved
        self._saved_step = saved_step
        self._is_chief = is_chief

    def __call__(self, step, standing, finished=False):
        """Save the state of `step`, or bring the record of the checkpoint just saved up to date.

        Args:
            step: int, steps completed.
            standing: `standing.Standing`.
            finished: bool, whether the run is.
        """
        if not self._is_chief:
            return
        record = run_record.Record(
            config=self._config.as_dict(), resolved=self._resolved, step=step,
            last_evaluated_step=standing.last_evaluated_step, best=standing.best, finished=finished,
            versions=versions(), evaluation_due=self._plan.evaluate.is_due(step),
            evaluations_without_best=standing.without_best, rollback_count=standing.rollback_count,
            learning_rate_factor=standing.learning_rate_factor)
        path = self._workdir.checkpoints / f"step_{step:08d}"
        if self._saved_step == step:
            run_record.write_record(path, record)
        else:
            checkpoint.save(self._workdir.checkpoints, self._trackable, record)
            checkpoint.prune(self._workdir.checkpoints, self._config.run.keep_checkpoints,
                             divergence.targets(self._workdir.checkpoints, self._plan, self._state)[-1:])
            self._saved_step = step
        best = self._workdir.best / path.name
        if best.exists():
            run_record.write_record(best, record)

    def take_images(self, source, start, standing):
        """Keep the list of the files; where a run goes on with others, its checkpoint says so from now on.

        Args:
            source: `source.Source`; start: `resume.Start`; standing: `standing.Standing`.
        """
        if not self._is_chief or not source.has_files:
            return
        file_list.write(self._workdir, source)
        if start.record and start.record.resolved["fingerprint"] != source.fingerprint:
            run_record.write_record(start.path, dataclasses.replace(
                start.record, config=self._config.as_dict(), resolved=self._resolved, best=standing.best,
                evaluations_without_best=standing.without_best, finished=False))

    def keep_best(self, step):
        """The checkpoint of `step` is the best so far."""
        if self._is_chief:
            checkpoint.keep_best(self._workdir.best, self._workdir.checkpoints / f"step_{step:08d}")

    def go_back(self, step):
        """The state is that of the checkpoint of `step` again: the next call for it changes its record alone."""
        self._saved_step = step


def versions():
    """The packages that the results depend on, name -> version."""
    names = ("tensorflow", "keras", "numpy")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}
