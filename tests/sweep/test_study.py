"""What is drawn and what is stopped, without a training."""

import math

import pytest

from cct_tf.errors import UserError
from cct_tf.sweep import results, study
from cct_tf.sweep.folder import Folder, held
from cct_tf.sweep.space import Range

SPACE = (Range("learning_rate", "log:1e-4:1", 1e-4, 1.0, log=True), Range("depth", "1:6", 1, 6, whole=True),
         Range("flip", "none|random", choices=("none", "random")))


def _open(tmp_path, search, count=6):
    folder = Folder(tmp_path)
    found = study.Study(folder, f"sqlite:///{folder.database}", "name", search)
    found.plan(count)
    return found


def _value(values, place):
    return 1 - abs(math.log10(values["learning_rate"]) + 2) / 4 - 0.3 / place


def _run(found, count, evaluations=9):
    """Run what is left, as a sweep does: [(number, values, evaluations it saw)]."""
    seen = []
    while True:
        with found.claimed(count) as trial:
            if trial is None:
                return seen
            for place in range(1, evaluations + 1):
                if found.report(trial.number, place, _value(trial.values, place)) and place < evaluations:
                    found.prune(trial.number)
                    break
            else:
                found.complete(trial.number, _value(trial.values, place))
            seen.append((trial.number, trial.values, place))


def test_values_lie_in_their_ranges_and_follow_seed_number_and_history(tmp_path):
    search = study.Search(SPACE, seed=3)
    drawn = [study.draw([], number, search) for number in range(20)]
    for values in drawn:
        assert 1e-4 <= values["learning_rate"] <= 1 and values["depth"] in range(1, 7)
        assert values["flip"] in ("none", "random")
    assert drawn == [study.draw([], number, search) for number in range(20)]
    assert len({values["learning_rate"] for values in drawn}) == 20
    assert study.draw([], 0, study.Search(SPACE, seed=4)) != drawn[0]
    found = _open(tmp_path, search, 12)
    _run(found, 12)
    history = found.trials()
    learnt = study.draw(history, 12, search)
    assert learnt == study.draw(history, 12, search) != study.draw([], 12, search)


def test_a_trial_left_behind_anywhere_goes_on_under_its_number_with_its_values(tmp_path):
    search = study.Search(SPACE, prune_after=1)
    (tmp_path / "whole").mkdir()
    expected = _run(_open(tmp_path / "whole", search), 6)
    assert any(places < 9 for _, _, places in expected) and any(places == 9 for _, _, places in expected)
    (tmp_path / "cut").mkdir()
    found, seen = _open(tmp_path / "cut", search), []
    for number, (_, _, last) in enumerate(expected):  # left behind before, at or after the decision that ends it
        known = min(number % 3 + max(last - 2, 0), last)
        with found.claimed(6) as trial:
            assert trial.is_new
            judged = [found.report(number, place, _value(trial.values, place)) for place in range(1, known + 1)]
        found = study.Study(Folder(tmp_path / "cut"), f"sqlite:///{tmp_path}/cut/study.db", "name", search)
        with found.claimed(6) as again:
            assert (again.number, again.values, again.is_new) == (trial.number, trial.values, False)
            for place in range(max(known, 1), 10):
                stopped = found.report(again.number, place, _value(again.values, place))
                assert place > known or stopped == judged[-1]
                if stopped and place < 9:
                    found.prune(again.number)
                    break
            else:
                found.complete(again.number, _value(again.values, 9))
            seen.append((again.number, again.values, place))
    assert seen == expected


@pytest.mark.parametrize("written", [None, 0, 2])
def test_values_not_yet_written_are_drawn_again(tmp_path, written):
    """Killed within a claim: before the values were kept; before Optuna's tables had any; had two of three."""
    search = study.Search(SPACE)
    found, expected = _open(tmp_path, search), study.draw([], 0, search)
    trial = found.trials()[0]
    assert found._storage.set_trial_state_values(trial._trial_id, study.optuna().trial.TrialState.RUNNING)
    if written is not None:
        found._storage.set_trial_user_attr(trial._trial_id, "values", expected)
    for each in SPACE[:written or 0]:
        kind = study._distribution(each)
        found._storage.set_trial_param(trial._trial_id, each.name, kind.to_internal_repr(expected[each.name]), kind)
    with found.claimed(6) as claimed:
        assert (claimed.number, claimed.is_new, claimed.values) == (0, False, expected)
    assert found.trials()[0].params == expected


def test_what_another_process_holds_is_left_alone(tmp_path):
    found = _open(tmp_path, study.Search(SPACE), 2)
    with found.claimed(2) as first, found.claimed(2) as second, found.claimed(2) as third:
        assert (first.number, second.number, third) == (0, 1, None)
    with held(Folder(tmp_path).trial(0) / ".sweep", wait=False) as is_mine, found.claimed(2) as next_one:
        assert is_mine and next_one.number == 1


@pytest.mark.parametrize(("pruner", "rungs"), [("halving", {2, 6}), ("none", set())])
def test_trials_are_stopped_at_rungs_alone(pruner, rungs, tmp_path):
    seen = _run(_open(tmp_path, study.Search(SPACE, pruner=pruner, prune_after=2, keep=3), 9), 9)
    stopped = {places for _, _, places in seen if places < 9}
    assert stopped <= rungs and bool(stopped) == bool(rungs)


def test_the_median_of_those_before_stops_from_the_first_rung_on(tmp_path):
    found = _open(tmp_path, study.Search(SPACE, pruner="median", prune_after=4), 7)
    for number in range(7):
        with found.claimed(7):
            level = [0.5, 0.6, 0.7, 0.8, 0.9, 0.65, 0.75][number]
            for place in range(1, 6):
                stopped = found.report(number, place, level)
                assert stopped == (number == 5 and place >= 4)  # 0.7 is the median of five
                if stopped:
                    found.prune(number)
                    break
            else:
                found.complete(number, level)


def test_a_loss_that_is_not_finite_is_stopped_at_its_rung(tmp_path):
    found = _open(tmp_path, study.Search(SPACE, prune_after=1, maximize=False))
    with found.claimed(6):
        assert found.report(0, 1, math.nan)
        found.prune(0)
    row = results.rows(found.trials(), maximize=False)[0]
    assert (row.number, row.state, row.place) == (0, "PRUNED", 0) and math.isnan(row.value)


def test_fewer_trials_than_have_begun_are_refused(tmp_path):
    found = _open(tmp_path, study.Search(SPACE), 3)
    _run(found, 3)
    with pytest.raises(UserError, match="--trials: expected at least 3"):
        found.plan(2)
    found.plan(5)
    assert [trial.state.name for trial in found.trials()[3:]] == ["WAITING", "WAITING"]


def test_the_password_of_a_storage_is_not_written_down():
    assert study.without_password("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"
