"""A sweep in time: the trials, the repeats of the finalists, the results. No TensorFlow in this process.

    trials    claim -> train, watched -> complete, pruned or failed; until none is left
    finals    each finalist under further seeds; until none is left
    results   ranking -> test of the winner, once -> table.txt, best.cfg, plots/

Several processes may do this at once on one folder: each takes what nobody holds, and takes over what a process that is
gone has left.
"""

import dataclasses
import json
import math
import time

from cct_tf.errors import UserError
from cct_tf.settings.measure import NAMES, number
from cct_tf.sweep import best_config, plots, results, space, table, training
from cct_tf.sweep.folder import held, read_json

_POLL_SECONDS = 2.0  # for what other processes hold


@dataclasses.dataclass(frozen=True)
class Options:
    """What a later start may ask for otherwise.

    Attributes:
        trials: int; seeds: int, repeats of each finalist; finalists: int.
        passed: tuple of flags that each training and evaluation is given, such as --compile_cache.
    """

    trials: int
    seeds: int
    finalists: int
    passed: tuple = ()


class Sweep:
    """A sweep on its way.

    Args:
        folder: `folder.Folder`.
        base: `config.Config`.
        search: `study.Search`.
        study: `study.Study`, planned.
        options: Options.
        console: `console.Console`.
    """

    def __init__(self, folder, base, search, study, options, console):
        self._folder, self._base, self._search, self._study = folder, base.as_dict(), search, study
        self._options, self._console, self._metric = options, console, base.measure.name

    def run(self):
        """To the end; returns what `result.json` holds, a dict."""
        while self._run_trial():
            pass
        ranked = results.rows(self._trials(), self._search.maximize)
        finalists = [row for row in ranked if row.state == "COMPLETE"][:self._options.finalists]
        if not finalists:
            raise UserError(f"--space: expected at least one trial that trains to its end, found none of "
                            f"{self._options.trials}; {self._folder.table} has the reasons")
        ranking = []
        if self._options.seeds:
            while self._run_final(finalists):
                pass
            ranking = self._ranking(finalists)
        return self._conclude(ranked, ranking)

    def _trials(self):
        return self._study.trials()[:self._options.trials]

    # Trials.

    def _run_trial(self):
        """Run one trial, or wait a moment for those of other processes; False when all have ended."""
        with self._study.claimed(self._options.trials) as claimed:
            if claimed is not None:
                self._train(claimed)
                with held(self._folder.path / ".result"):
                    self._write_table(results.rows(self._trials(), self._search.maximize), [])
                return True
        if all(trial.state.is_finished() for trial in self._trials()):
            return False
        time.sleep(_POLL_SECONDS)
        return True

    def _train(self, trial):
        begins = "" if trial.is_new else "goes on: "
        self._console.say(f"trial {trial.number}: {begins}{table.values_text(trial.values)}")
        workdir = self._folder.trial(trial.number)
        try:
            settings = space.with_values(self._base, self._search.space, trial.values)
        except UserError as error:
            self._failed(trial.number, str(error))
            return
        watch = _Watch(self._study, trial.number, workdir, settings.as_dict(), self._say_figure)
        ended = training.train(self._argv(trial.values), workdir, watch)
        if ended.status is None:
            self._study.prune(trial.number)
            self._console.say(f"trial {trial.number}: pruned")
        elif ended.status:
            self._failed(trial.number, ended.reason)
        else:
            self._complete(trial.number, watch)

    def _complete(self, trial, watch):
        place, value = results.best_of(watch.values(), self._search.maximize)
        if not place:
            self._failed(trial, "no evaluation with a finite value")
            return
        self._study.complete(trial, value)
        best = results.rows(self._trials(), self._search.maximize)[0]
        self._console.say(f"trial {trial}: complete, best {NAMES[self._metric]} {number(self._metric, value)}"
                          f" (of all so far: trial {best.number}, {number(self._metric, best.value)})")

    def _failed(self, trial, reason):
        self._study.fail(trial, reason)
        self._console.say(f"trial {trial}: failed, {reason}")

    def _say_figure(self, trial, count, value):
        shown = "not finite" if math.isnan(value) else number(self._metric, value)
        self._console.say(f"trial {trial}: evaluation {count}, {NAMES[self._metric]} {shown}")

    def _argv(self, values, *further):
        """Flags of a training with these values."""
        return [f"--flagfile={self._folder.base}", *(f"--{each.name}={each.as_text(values[each.name])}"
                                                     for each in self._search.space),
                "--notest_at_end", *self._options.passed, *further]

    # Finals.

    def _seeds(self):
        return [self._base["seed"] + place for place in range(1, self._options.seeds + 1)]

    def _run_final(self, finalists):
        """Run one repeat, or wait a moment for those of other processes; False when all have ended."""
        is_busy = False
        for seed in self._seeds():
            for row in finalists:
                workdir = self._folder.final(row.number, seed)
                workdir.mkdir(exist_ok=True)
                with held(workdir / ".sweep", wait=False) as is_mine:
                    if is_mine and not self._has_ended(workdir, row.values):
                        self._repeat(row, seed, workdir)
                        return True
                is_busy = is_busy or not is_mine
        if is_busy:
            time.sleep(_POLL_SECONDS)
        return is_busy

    def _evaluations(self, workdir, values):
        settings = space.with_values(self._base, self._search.space, values)
        return training.Evaluations(workdir, settings.as_dict())

    def _has_ended(self, workdir, values):
        return (workdir / "failed.txt").exists() or self._evaluations(workdir, values).is_finished

    def _repeat(self, row, seed, workdir):
        ended = training.train(self._argv(row.values, f"--seed={seed}"), workdir)
        if ended.status:
            self._folder.write(workdir / "failed.txt", f"{ended.reason}\n")
            self._console.say(f"trial {row.number}, seed {seed}: failed, {ended.reason}")
        else:
            value = self._final_value(row, seed)
            self._console.say(f"trial {row.number}, seed {seed}: best {NAMES[self._metric]} "
                              f"{'not finite' if math.isnan(value) else number(self._metric, value)}")

    def _final_value(self, row, seed):
        """The best evaluation of a repeat; NaN of one that failed."""
        workdir = self._folder.final(row.number, seed)
        if (workdir / "failed.txt").exists():
            return math.nan
        found = [value for _, value in self._evaluations(workdir, row.values).read()]
        return results.best_of(found, self._search.maximize)[1]

    def _ranking(self, finalists):
        values = {row.number: tuple(self._final_value(row, seed) for seed in self._seeds()) for row in finalists}
        return results.rank(values, self._search.maximize)

    # Results.

    def _conclude(self, ranked, ranking):
        winner = ranking[0].number if ranking else ranked[0].number
        row = next(row for row in ranked if row.number == winner)
        with held(self._folder.path / ".result"):
            found = {"trial": winner, "values": row.values, "validation": row.value, "metric": self._metric,
                     "trials": self._options.trials, "test": self._test(winner)}
            if ranking:
                found["repeats"] = {"seeds": self._seeds(), "values": list(ranking[0].values), "mean": ranking[0].mean}
            best_config.write(self._folder, self._base, self._search, found)
            written, notes = plots.write(self._study.study, self._folder.plots, f"best {NAMES[self._metric]}")
            lines = self._write_table(ranked, ranking, found)
            self._folder.write(self._folder.result, json.dumps(found, indent=1) + "\n")
        self._console.say("\n".join(["", *lines, *notes, *(f"wrote {path}" for path in (
            self._folder.table, self._folder.best, *written))]))
        return found

    def _test(self, winner):
        """What the best weights of the winner reach on the test split: a dict, read once; None without such a split."""
        kept = read_json(self._folder.result)
        if kept and kept["trial"] == winner:
            return kept["test"]
        workdir, tested = self._folder.trial(winner), None
        plan = training.Evaluations(workdir, self._base).plan
        if plan is not None and "test" in plan.num_examples:
            with self._console.phase(f"testing trial {winner}"):
                tested = training.evaluate(workdir, self._options.passed)
            tested = {name: tested[name] for name in (*NAMES, "examples") if name in tested}
        self._folder.write(self._folder.result, json.dumps({"trial": winner, "test": tested}) + "\n")
        return tested

    def _write_table(self, ranked, ranking, found=None):
        lines = table.lines(ranked, self._search.space, self._metric)
        if ranking:
            lines += ["", *table.finalist_lines(ranking, self._metric)]
        if found:
            lines += ["", *table.winner_lines(found)]
        self._folder.write(self._folder.table, "\n".join(lines) + "\n")
        return lines


class _Watch:
    """Looks at a training: reports each of its evaluations once, and says when the pruner stops it.

    The decision after the last evaluation that was reported before may not have been made: it is asked for again.

    Args:
        study: `study.Study`; trial: int, its number; workdir: pathlib.Path; config: flat dict of the run.
        say: function of (trial, count, value), told each evaluation.
    """

    def __init__(self, study, trial, workdir, config, say):
        self._study, self._trial, self._workdir, self._say = study, trial, workdir, say
        self._evaluations = training.Evaluations(workdir, config)
        self._judged = max(len(study.trials()[trial].intermediate_values) - 1, 0)

    def values(self):
        return [value for _, value in self._evaluations.read()]

    def __call__(self):
        found = self._evaluations.read()[self._judged:]
        plan = self._evaluations.plan
        if not found or plan is None:
            return False
        training.require_validation(plan, self._workdir)
        for step, value in found:
            self._judged += 1
            is_stopped = self._study.report(self._trial, self._judged, value)
            self._say(self._trial, self._judged, value)
            if is_stopped and step < plan.total_steps:
                return True
        return False
