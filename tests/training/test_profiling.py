"""`--profile_steps` and running out of memory: what the loop does about them."""

import pytest
import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from cct_tf.data import holding
from cct_tf.datasets import registry
from cct_tf.engine.step import TrainStep
from cct_tf.errors import UserError
from cct_tf.evaluation.evaluator import Evaluator
from cct_tf.machine import memory
from cct_tf.settings.config import DataConfig
from cct_tf.training import profiling
from tests.training import tiny

pytestmark = pytest.mark.usefixtures("one_network")


def _files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("weights.*"))}


def _traces(folder):
    return list((folder / "train/plugins/profile").rglob("*.xplane.pb"))


@pytest.mark.parametrize("text, steps", [("1:1", (1, 1)), ("11:20", (11, 20)), ("1:100", (1, 100)), (None, None)])
def test_both_ends_are_included_and_the_first_step_is_1(text, steps):
    assert profiling.parse_steps(text) == steps


@pytest.mark.parametrize("text", ["", "5", "5:", "0:3", "3:2", "-1:2", "1:2:3", "1.5:2", "a:b", "1:101", "\u0661:2"])
def test_anything_else_is_refused(text):
    with pytest.raises(UserError, match="^--profile_steps: expected .*found"):
        profiling.parse_steps(text)


def test_chunks_end_before_the_first_step_and_hold_one_step_up_to_the_last(tmp_path):
    profiler = profiling.Profiler((4, 6), tmp_path, print)
    assert [profiler.most_steps(step) for step in range(8)] == [3, 2, 1, 1, 1, 1, float("inf"), float("inf")]
    assert profiling.Profiler(None, tmp_path, print).most_steps(0) == float("inf")


def _traced_steps(path):
    """Numbers of the steps marked in a trace."""
    space = xplane_pb2.XSpace.FromString(path.read_bytes())
    return sorted(stat.int64_value for plane in space.planes for line in plane.lines for event in line.events
                  if plane.event_metadata[event.metadata_id].name == "train"
                  for stat in event.stats if plane.stat_metadata[stat.metadata_id].name == "step_num")


def test_a_traced_run_is_the_same_run_with_each_step_in_its_trace(tmp_path):
    run = {"train_steps": 7, "log_every_steps": 5, "checkpoint_every_steps": 4}
    tiny.train(tmp_path / "plain", **run)
    assert not _traces(tmp_path / "plain")
    tiny.train(tmp_path / "traced", **run, profile_steps="3:6")
    assert _files(tmp_path / "plain") == _files(tmp_path / "traced")
    assert tiny.records(tmp_path / "plain") == tiny.records(tmp_path / "traced")
    (trace,) = _traces(tmp_path / "traced")
    assert _traced_steps(trace) == [3, 4, 5, 6]
    # Behind the last traced step nothing is traced.
    tiny.train(tmp_path / "traced", **run | {"train_steps": 8}, profile_steps="3:6", accept_config_change=True)
    assert _traces(tmp_path / "traced") == [trace]


def test_steps_behind_the_end_are_refused(tmp_path):
    with pytest.raises(UserError, match="^--profile_steps: expected steps of this run, 1 to 4, found 10:20$"):
        tiny.assemble(tmp_path, train_steps=4, profile_steps="10:20")


def _raising(error):
    def fail(*_, **__):
        raise error
    return fail


@pytest.mark.parametrize("error", [
    tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[16,2,64,64] and type float"),
    MemoryError()])
def test_out_of_memory_names_the_flags_of_training_and_of_evaluation(error, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "__call__", _raising(error))
        with pytest.raises(UserError, match="^--eval_batch_size: expected .* found 400.*smaller --eval_batch_size$"):
            tiny.train(tmp_path / "evaluation", train_steps=1)
    monkeypatch.setattr(TrainStep, "run", _raising(error))
    with (pytest.raises(UserError, match="^--batch_size: expected .* found 16.* --accumulate_steps, .*--batch_size$"),
          memory.named_when_out(memory.TRAINING, 16)):
        tiny.train(tmp_path / "training", train_steps=1)


@pytest.mark.parametrize("place", ["registry.open_source", "holding.hold_at_size"])
def test_out_of_memory_while_data_is_opened_or_prepared_is_not_the_batch(place, tmp_path, monkeypatch):
    module, function = place.split(".")
    error = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[9,3] and type int64")
    monkeypatch.setattr({"registry": registry, "holding": holding}[module], function, _raising(error))
    line = r"^--in_memory_gib: expected images that fit in memory, .* of shape \[9,3\]; try a lower --in_memory_gib"
    with pytest.raises(UserError, match=line), memory.named_when_out(memory.TRAINING, 16):
        tiny.train(tmp_path, train_steps=1, image_size=16, model="cct_2_3x1_16")


def test_of_an_archive_no_lower_limit_is_advised():
    line = "^--dataset: expected images that fit in memory, found npz; try the same images as a folder"
    with pytest.raises(UserError, match=line), memory.data_named_when_out(DataConfig(dataset="npz")):
        raise MemoryError


def test_a_full_disk_is_not_a_lack_of_memory():
    error = tf.errors.ResourceExhaustedError(None, None, "/work/run/weights; No space left on device")
    with pytest.raises(tf.errors.ResourceExhaustedError), memory.named_when_out(memory.TRAINING, 16):
        raise error
