"""The resolved values of a record: of every version, and back."""

import dataclasses
import json

import pytest

from cct_tf.data.source import Rules, rules_of
from cct_tf.runs.resolved import Resolved

# As version 0 wrote them, of a run and of converted weights.
RUN = {"mean": [0.3, 0.4, 0.5], "std": [0.1, 0.2, 0.3], "statistics_computed": True, "image_size": 16,
       "classes": ["a", "b"], "num_examples": {"train": 8, "test": 2}, "fingerprint": "f0", "order": "indexed",
       "total_steps": 30, "threads": 2, "device": "CPU", "num_replicas": 2, "num_workers": 2, "jit": "encoder",
       "accumulate_steps": 4, "fused_update": True, "fast_forms": True, "recompute": False}
CONVERTED = {"image_size": 32, "num_classes": 10, "num_examples": {}, "classes": []}


def test_every_value_of_a_run_of_version_0_is_read():
    found = Resolved.from_json(RUN)
    assert {name: getattr(found, name) for name in RUN} == RUN | {
        "mean": (0.3, 0.4, 0.5), "std": (0.1, 0.2, 0.3), "classes": ("a", "b")}
    assert (found.num_classes, found.fingerprints_before, found.initial_weights) == (2, (), None)
    assert found.evaluated_fingerprint is None and found.has_data


def test_what_the_first_runs_did_not_record_is_what_they_did():
    later = ("num_workers", "accumulate_steps", "fused_update", "fast_forms", "recompute")
    first = {name: value for name, value in RUN.items() if name not in later}
    found = Resolved.from_json(first | {"jit": True})
    assert (found.num_workers, found.accumulate_steps, found.jit) == (1, 1, "all")
    assert Resolved.from_json(first | {"jit": False}).jit == "off"
    assert [getattr(found, name) for name in later[2:]] == [None] * 3  # not known


def test_converted_weights_without_a_data_set_tell_their_network_alone():
    found = Resolved.from_json(CONVERTED)
    assert (found.image_size, found.num_classes, found.classes, found.has_data) == (32, 10, (), False)
    assert found.device is found.mean is found.num_workers is None


def test_rules_that_were_not_recorded_are_those_of_version_0_and_a_new_run_has_new_ones():
    assert rules_of(Resolved.from_json(RUN)) == Rules(split=1, bit_depth=16, npz_validation=False, table_weights=False,
                                                      own_weights=False, resize_block=256, resampler="matrix",
                                                      width_first=True)
    recorded = Rules(bit_depth=8, resampler="pillow")
    assert rules_of(Resolved.from_json(RUN | {"data_rules": dataclasses.asdict(recorded)})) == recorded
    assert rules_of(None) == Rules()


@pytest.mark.parametrize(("shape", "expected"), [((64, 64), "matrix"), ((64, 65), "pillow"), (None, "pillow")])
def test_the_kind_of_set_chooses_the_resampler_and_what_was_recorded_stays(shape, expected):
    assert Rules().settled(shape).resampler == expected
    for recorded in ("matrix", "pillow"):
        assert Rules(resampler=recorded).settled(shape).resampler == recorded
    before = rules_of(Resolved.from_json(RUN | {"data_rules": {"split": 2, "bit_depth": 16}}))
    assert before.settled(shape).resampler == "matrix"  # recorded before there was another
    assert not before.table_weights and Rules().table_weights  # before they counted
    assert not before.own_weights and Rules().own_weights
    assert before.width_first and not Rules().width_first  # before fast resizing had Pillow's order


@pytest.mark.parametrize("found", [
    RUN, CONVERTED, RUN | {"fingerprints_before": ["e"], "evaluated_fingerprint": "g", "data_rules": {"split": 2},
                           "class_weights": [2.0, 1.0],
                           "initial_weights": {"from": "x.keras", "checksum": "0", "changes": ["head"]}}])
def test_what_is_written_is_read_again_and_holds_what_was_read(found):
    resolved = Resolved.from_json(found)
    written = json.loads(json.dumps(resolved.as_json()))
    assert Resolved.from_json(written) == resolved
    assert written | found == written


def test_a_value_that_every_version_wrote_must_be_there_and_those_of_a_later_one_are_ignored():
    for name in ("image_size", "classes", "num_examples"):
        with pytest.raises(KeyError, match=name):
            Resolved.from_json({key: value for key, value in RUN.items() if key != name})
    assert Resolved.from_json(RUN | {"of_tomorrow": 1}) == Resolved.from_json(RUN)
