"""run.json as every version wrote it, and what is written now, which older versions read."""

import json

import pytest

from cct_tf.runs import run_record
from cct_tf.runs.resolved import Resolved
from cct_tf.runs.run_status import RunStatus

BEST = {"step": 8, "top1": 0.75, "loss": 0.5}
VERSION_0 = {
    "format": 1, "files": {}, "config": {"seed": 3},
    "resolved": {"image_size": 8, "classes": ["a"], "num_examples": {}},
    "step": 12, "last_evaluated_step": 12, "best": BEST, "finished": True, "versions": {"keras": "3.15.1"},
    "evaluation_due": True, "evaluations_without_best": 1, "rollback_count": 2, "learning_rate_factor": 0.25}
# Keys that came after the first run.json was written.
LATER = ("evaluation_due", "evaluations_without_best", "rollback_count", "learning_rate_factor")


def _read(folder, data):
    (folder / "run.json").write_text(json.dumps(data))
    return run_record.read_record(folder)


def test_a_record_of_version_0_is_read(tmp_path):
    assert _read(tmp_path, VERSION_0) == run_record.Record(
        {"seed": 3}, Resolved(8, ("a",), {}), 12, RunStatus(12, BEST, 1, 2, 0.25), True, {"keras": "3.15.1"}, True)


def test_keys_that_the_first_records_had_not_yet_mean_that_nothing_of_the_kind_had_happened(tmp_path):
    record = _read(tmp_path, {name: value for name, value in VERSION_0.items() if name not in LATER})
    assert record.status == RunStatus(12, BEST, 0, 0, 1.0) and not record.evaluation_due


@pytest.mark.parametrize("name", sorted(set(VERSION_0) - {"format", "files", *LATER}))
def test_without_a_key_that_all_versions_wrote_a_record_is_damaged(name, tmp_path):
    with pytest.raises(run_record.Unreadable):
        _read(tmp_path, {key: value for key, value in VERSION_0.items() if key != name})


def test_the_status_is_written_beside_the_other_keys_as_older_versions_read_it(tmp_path):
    record = _read(tmp_path, VERSION_0)
    run_record.write_record(tmp_path, record)
    written = json.loads((tmp_path / "run.json").read_text())
    assert written.pop("checksum") and written.pop("resolved").items() >= VERSION_0["resolved"].items()
    assert written == {name: value for name, value in VERSION_0.items() if name != "resolved"}
    assert run_record.read_record(tmp_path) == record


@pytest.mark.parametrize(("config", "resolved", "precision"), [
    ({"seed": 3}, {}, "float32"), ({"precision": "float16"}, {}, "float16"),  # of before there was auto
    ({"precision": "auto"}, {"precision": "bfloat16"}, "bfloat16"),
    ({"precision": "auto"}, {}, "float32")])  # converted weights, for which no run chose
def test_the_settled_config_has_what_auto_became(config, resolved, precision, tmp_path):
    record = _read(tmp_path, VERSION_0 | {"config": config, "resolved": VERSION_0["resolved"] | resolved})
    assert record.settled_config == config | {"precision": precision}
    run_record.write_record(tmp_path, record)
    assert json.loads((tmp_path / "run.json").read_text())["config"] == config  # as given
