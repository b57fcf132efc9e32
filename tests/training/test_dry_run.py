"""`--dry_run` does what the first step of a run does."""

import re

import pytest
import tensorflow as tf

from cct_tf.engine import step
from cct_tf.machine import memory, runtime
from tests.commands import call, only_line

FLAGS = ["--dataset=digits", "--model=cct_2_3x1_8", "--image_size=8", "--batch_size=16", "--train_steps=3", "--jit=off",
         "--dry_run", "--num_replicas=2", "--accumulate_steps=2"]


def test_one_step_on_all_replicas_in_all_micro_batches(tmp_path, monkeypatch, capfd):
    done, run = [], step.TrainStep.run

    def watched(self, iterator, rates):
        run(self, iterator, rates)
        done.append((self._devices.num_replicas, self._micro_size, int(self._state.interval_updates.numpy())))

    monkeypatch.setattr(step.TrainStep, "run", watched)
    status, out, err = call(capfd, "train", *FLAGS, f"--workdir={tmp_path}/run")
    assert (status, err) == (0, "")
    assert done == [(2, 4, 1)]
    found = re.search(r"loss (\d\.\d{4}); peak memory: this process (\d+\.\d\d) GiB; nothing was written", out)
    assert 1.5 < float(found[1]) < 4 and float(found[2]) > 0.1
    assert not (tmp_path / "run").exists()


def test_a_batch_that_does_not_fit_is_found(tmp_path, monkeypatch, capfd):
    def out_of_memory(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[16,4,64,64]")

    monkeypatch.setattr(step.TrainStep, "run", out_of_memory)
    status, _, err = call(capfd, "train", *FLAGS, f"--workdir={tmp_path}/run")
    assert status == 2 and "--batch_size: expected a batch that fits in memory" in only_line(err)


@pytest.mark.parametrize(("num_workers", "names"), [(1, ["GPU:0", "GPU:1", "GPU:2", "GPU:3"]), (2, ["GPU:0", "GPU:1"])])
def test_the_memory_of_each_gpu_of_this_worker(monkeypatch, num_workers, names):
    monkeypatch.setattr(tf.config.experimental, "get_memory_info", lambda name: {"peak": (int(name[-1]) + 1) * 2**29})
    found = memory.peaks_gib(runtime.Devices(None, "GPU", 4, num_workers=num_workers))
    assert found == {name: (index + 1) / 2 for index, name in enumerate(names)}
