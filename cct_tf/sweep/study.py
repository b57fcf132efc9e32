"""The study: what Optuna keeps of the trials, who takes which, what is drawn and what is stopped. No TensorFlow here.

Optuna stores no sampler and no pruner, so a sweep that is killed has to find the same decisions again. Both are pure
functions here, `draw` and `judge`: a copy of the history in memory, asked by Optuna's own class, made anew and seeded
by the sweep's seed and the trial's number.

A trial waits, runs, and ends (complete, pruned, failed). Whoever runs one holds a lock in its work folder, so a trial
that runs without a lock was left behind by a process that is gone: it is taken up under its number with its values.
"""

import contextlib
import dataclasses
import math

from cct_tf.errors import OutsideFault, UserError
from cct_tf.sweep.folder import held

_PARAMETERS = "values"  # name of the attribute that is written in one piece
_RUNG = "completed_rung_"  # how Optuna's halving marks a trial
_TIMEOUT = 120.0  # seconds to wait for SQLite's lock


def require_package():
    """Raise UserError if Optuna is missing."""
    import importlib.util
    if importlib.util.find_spec("optuna") is None:
        raise UserError("--space: expected the package optuna, found none; pip install optuna, or the extra sweep "
                        "of this project")


@dataclasses.dataclass(frozen=True)
class Search:
    """How a sweep looks for values.

    Attributes:
        space: tuple of `space.Range`.
        sampler: "tpe" or "random".
        seed: int.
        pruner: "halving", "median" or "none".
        prune_after: int, evaluations of the first rung; no trial is stopped before.
        keep: int, of how many trials halving lets one go on.
        maximize: bool, whether more is better.
    """

    space: tuple
    sampler: str = "tpe"
    seed: int = 0
    pruner: str = "halving"
    prune_after: int = 1
    keep: int = 3
    maximize: bool = True


def without_password(url):
    """A storage's URL as it may be written down; None of None.

    Raises:
        UserError: it is no URL.
    """
    from sqlalchemy import engine, exc
    try:
        return url and engine.make_url(url).render_as_string(hide_password=True)
    except exc.ArgumentError:
        raise UserError(f"--storage: expected the URL of a database, such as sqlite:///study.db, found {url!r}"
                        ) from None


def optuna():
    """The package, quiet."""
    import optuna as package
    package.logging.set_verbosity(package.logging.ERROR)
    return package


def _distribution(each):
    kinds = optuna().distributions
    if each.choices:
        return kinds.CategoricalDistribution(each.choices)
    if each.whole:
        return kinds.IntDistribution(each.low, each.high, log=each.log, step=each.step or 1)
    return kinds.FloatDistribution(each.low, each.high, log=each.log, step=each.step)


def _sampler(search, number):
    import numpy as np
    seed = int(np.random.SeedSequence([search.seed, number]).generate_state(1)[0])
    samplers = optuna().samplers
    return samplers.TPESampler(seed=seed) if search.sampler == "tpe" else samplers.RandomSampler(seed=seed)


def _pruner(search):
    pruners = optuna().pruners
    if search.pruner == "halving":
        return pruners.SuccessiveHalvingPruner(min_resource=search.prune_after, reduction_factor=search.keep)
    if search.pruner == "median":
        return pruners.MedianPruner(n_warmup_steps=search.prune_after)
    return pruners.NopPruner()


def _copy(history, search, **parts):
    """A study in memory that holds `history`."""
    package = optuna()
    copy = package.create_study(direction="maximize" if search.maximize else "minimize", **parts)
    copy.add_trials([trial for trial in history if trial.state != package.trial.TrialState.WAITING])
    return copy


def draw(history, number, search):
    """The values of trial `number`: dict name -> value, a function of the arguments alone.

    Args:
        history: list of Optuna's FrozenTrial, those of lower numbers.
        number: int.
        search: Search.
    """
    copy = _copy(history, search, sampler=_sampler(search, number))
    return copy.ask({each.name: _distribution(each) for each in search.space}).params


def judge(history, values, search):
    """Whether a trial is stopped after its last evaluation so far: a function of the arguments alone.

    Args:
        history: list of FrozenTrial, all others.
        values: sequence of floats, the trial's evaluations so far, in their order.
        search: Search.

    Returns:
        (bool, dict of the marks that other trials will be judged by).
    """
    copy, stopped = _copy(history, search, pruner=_pruner(search)), False
    trial = copy.ask()
    for count, value in enumerate(values, 1):
        trial.report(value, count)
        stopped = trial.should_prune()
    marks = copy.get_trials(deepcopy=False)[-1].system_attrs
    return stopped, {name: value for name, value in marks.items() if name.startswith(_RUNG)}


@dataclasses.dataclass(frozen=True)
class Claimed:
    """A trial that this process runs.

    Attributes:
        number: int.
        values: dict name -> value.
        is_new: bool, False of one that another process left behind.
    """

    number: int
    values: dict
    is_new: bool


class Study:
    """The trials of a sweep in Optuna's storage. Make it, and call what changes it, as the comments say.

    Args:
        folder: `folder.Folder`.
        storage: URL that SQLAlchemy takes.
        name: of the study.
        search: Search.
    """

    def __init__(self, folder, storage, name, search):
        self._folder, self._search = folder, search
        package = optuna()
        self._states = package.trial.TrialState
        arguments = {"connect_args": {"timeout": _TIMEOUT}} if storage.startswith("sqlite") else {"pool_pre_ping": True}
        with self._faults_named():
            self._storage = _open(storage, arguments)
            self.study = package.create_study(
                storage=self._storage, study_name=name, load_if_exists=True, sampler=_sampler(search, 0),
                direction="maximize" if search.maximize else "minimize")

    @staticmethod
    @contextlib.contextmanager
    def _faults_named():
        try:
            yield
        except optuna().exceptions.StorageInternalError as error:
            raise OutsideFault(f"--storage: {_line(error.__cause__ or error)}; the same command goes on") from None

    def trials(self):
        """All trials: list of FrozenTrial by number."""
        with self._faults_named():
            return sorted(self.study.get_trials(deepcopy=False), key=lambda trial: trial.number)

    def plan(self, count):
        """Have at least `count` trials, new ones waiting; call it while the folder is `claiming`.

        Raises:
            UserError: more have begun.
        """
        package, found = optuna(), self.trials()
        begun = sum(trial.state != self._states.WAITING for trial in found)
        if begun > count:
            raise UserError(f"--trials: expected at least {begun}, for so many have begun, found {count}")
        with self._faults_named():
            self.study.add_trials([package.trial.create_trial(state=self._states.WAITING)] * (count - len(found)))

    @contextlib.contextmanager
    def claimed(self, count):
        """Hold the next trial of the first `count`: one that was left behind, or the next that waits.

        Gives a `Claimed`; None where there is none now.
        """
        with contextlib.ExitStack() as stack:
            with self._folder.claiming(), self._faults_named():
                trial, is_new = self._next(count, stack)
                values = trial and self._values(trial)
            yield trial and Claimed(trial.number, values, is_new)

    def _next(self, count, stack):
        trials = self.trials()[:count]
        left_behind = [trial for trial in trials if trial.state == self._states.RUNNING]
        waiting = [trial for trial in trials if trial.state == self._states.WAITING]
        for trial in left_behind + waiting:
            folder = self._folder.trial(trial.number)
            folder.mkdir(exist_ok=True)
            if not stack.enter_context(held(folder / ".sweep", wait=False)):
                continue
            if trial.state == self._states.WAITING:
                if not self._storage.set_trial_state_values(trial._trial_id, self._states.RUNNING):
                    continue
            return trial, trial.state == self._states.WAITING
        return None, False

    def _values(self, trial):
        """The values of a trial, drawn where they are not yet."""
        if _PARAMETERS not in trial.user_attrs:
            values = draw(self.trials()[:trial.number], trial.number, self._search)
            self._storage.set_trial_user_attr(trial._trial_id, _PARAMETERS, values)
        else:
            values = trial.user_attrs[_PARAMETERS]
        for each in self._search.space:
            if each.name in trial.params:
                continue
            kind = _distribution(each)
            self._storage.set_trial_param(trial._trial_id, each.name, kind.to_internal_repr(values[each.name]), kind)
        return values

    def report(self, number, count, value):
        """Keep evaluation `count` (from 1) of a trial, and say whether the pruner stops the trial there."""
        trials = self.trials()
        trial, others = trials[number], trials[:number] + trials[number + 1:]
        known = trial.intermediate_values
        with self._faults_named():
            if count not in known:
                self._storage.set_trial_intermediate_value(trial._trial_id, count, value)
            values = [known.get(place, value) for place in range(1, count + 1)]
            stopped, marks = judge(others, values, self._search)
            for name, mark in marks.items():
                self._storage.set_trial_system_attr(trial._trial_id, name, mark)
        return stopped

    def complete(self, number, value):
        """A trial ended with `value`, its best."""
        self._end(number, self._states.COMPLETE, value)

    def prune(self, number):
        """A trial was stopped by the pruner."""
        self._end(number, self._states.PRUNED)

    def fail(self, number, reason):
        """A trial failed, for a reason that is one line."""
        with self._faults_named():
            self._storage.set_trial_user_attr(self.trials()[number]._trial_id, "reason", reason[:1000])
        self._end(number, self._states.FAIL)

    def _end(self, number, state, value=None):
        trial = self.trials()[number]
        if state == self._states.PRUNED:  # Optuna's convention: the last one
            last = trial.intermediate_values[max(trial.intermediate_values)]
            value = None if math.isnan(last) else last
        with self._faults_named():
            self._storage.set_trial_state_values(trial._trial_id, state, None if value is None else [value])


def _open(url, arguments):
    from sqlalchemy import exc
    try:
        return optuna().storages.RDBStorage(url, engine_kwargs=arguments)
    except exc.OperationalError as error:  # a folder that is not there, a server that does not answer
        kind = UserError if url.startswith("sqlite") else OutsideFault
        raise kind(f"--storage: expected a database that can be opened, found {without_password(url)} can't "
                   f"({_line(error.orig)})") from None
    except (ImportError, RuntimeError, ValueError, exc.ArgumentError) as error:  # no such driver, other tables
        raise UserError(f"--storage: expected a database that Optuna can use, found {without_password(url)}: "
                        f"{_line(error)}") from None


def _line(error):
    return " ".join(str(error).split())[:300]


def best_of(values, maximize):
    """(place from 1, value) of the best of some evaluations, the first of equals; (0, NaN) without a finite one."""
    known = [(value if maximize else -value, -place) for place, value in enumerate(values, 1) if not math.isnan(value)]
    if not known:
        return 0, math.nan
    value, place = max(known)
    return -place, value if maximize else -value
