"""What a run makes of a GPU, or a library of it, that fails. Faked: the errors are those that TensorFlow raises."""

import pytest
import tensorflow as tf

from cct_tf import errors
from cct_tf.runs import fault_file
from cct_tf.workers import joining
from tests.commands import call, only_line

NCCL = tf.errors.InternalError(None, None, "Graph execution error:\n\nNCCL: unhandled system error. Set "
                               "NCCL_DEBUG=WARN for detail.\n\t [[{{node CollectiveReduceV2}}]]")
ECC = tf.errors.InternalError(None, None, "Failed to query event: CUDA_ERROR_ECC_UNCORRECTABLE: uncorrectable ECC "
                              "error encountered")
FLAGS = ["--dataset=digits", "--model=cct_2_3x1_8", "--image_size=8", "--batch_size=16", "--train_steps=3", "--jit=off",
         "--eval_every_steps=1000"]


@pytest.mark.parametrize(("error", "name", "hint"), [
    (NCCL, "NCCL", "--shm-size=1g"), (NCCL, "NCCL", "NCCL_P2P_DISABLE=1"), (NCCL, "NCCL", "IOMMU"),
    (ECC, "ECC", "nvidia-smi -q -d ECC"),
    (tf.errors.InternalError(None, None, "Xid 79, GPU has fallen off the bus"), "Xid", "dmesg"),
    (tf.errors.InternalError(None, None, "cuDNN launch failure : input shape ([64,64,8,8])"), "cuDNN", "nvidia-smi"),
    (tf.errors.UnknownError(None, None, "CUDNN_STATUS_EXECUTION_FAILED in tensorflow/stream_executor"), "cuDNN", "pip"),
    (tf.errors.InternalError(None, None, "Blas xGEMM launch failed : a.shape=[1,9,3]"), "cuBLAS", "cublas"),
    (tf.errors.AbortedError(None, None, "CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access"), "CUDA", "dmesg"),
    (tf.errors.UnavailableError(None, None, "failed to synchronize: unspecified launch failure"), "CUDA", "dmesg")])
def test_what_the_hardware_does_is_worth_a_restart_and_says_what_to_look_for(error, name, hint):
    status, line = errors.exit_status(error)
    assert status == 75 and line.startswith(f"{name} failed ({type(error).__name__}: ") and hint in line
    assert "\n" not in line


@pytest.mark.parametrize("error", [
    tf.errors.InternalError(None, None, "Expected a tensor of 3 dimensions"),
    tf.errors.InvalidArgumentError(None, None, "NCCL"), ValueError("cuDNN"),
    tf.errors.UnknownError(None, None, "KeyError: 'label'\nTraceback (most recent call last):")])
def test_other_errors_stay_bugs(error):
    assert errors.exit_status(error) == (1, None)


def _fault(path, error, first, last):
    with pytest.raises(errors.HardwareFault) as raised, fault_file.named(path, lambda: (first, last)):
        raise error
    assert raised.value.__cause__ is error
    return errors.exit_status(raised.value)


def test_the_same_fault_at_the_same_step_is_tried_again_once(tmp_path):
    """Chunks end where a second does, so the same step is in chunks that begin and end elsewhere."""
    path = fault_file.path_in(tmp_path, 0)
    assert _fault(path, NCCL, 501, 512)[0] == 75
    status, line = _fault(path, NCCL, 510, 530)
    assert status == 1 and "one of 510 to 530" in line


@pytest.mark.parametrize("then", [(ECC, 501, 512), (NCCL, 513, 520), (NCCL, 490, 500)])
def test_another_fault_or_another_step_begins_anew(tmp_path, then):
    path = fault_file.path_in(tmp_path, 0)
    _fault(path, NCCL, 501, 512)
    assert _fault(path, *then)[0] == 75


def test_half_a_file_and_none_tell_of_no_fault(tmp_path):
    path = fault_file.path_in(tmp_path, 0)
    path.write_text('{"name": "NCCL", "st')
    assert _fault(path, NCCL, 1, 1)[0] == 75
    assert [_fault(None, NCCL, 1, 1)[0] for _ in range(2)] == [75, 75]


def test_a_lost_worker_explains_the_fault_that_it_causes():
    class Peers:
        """Knows of a worker that is gone."""

        def explain(self, error):
            return joining.PeerEnded("worker 1 is gone") if error is NCCL else None

    fault = errors.HardwareFault("NCCL failed", is_repeated=True)
    fault.__cause__ = NCCL
    assert str(joining._named(Peers(), fault)) == "worker 1 is gone"
    fault.__cause__ = ECC
    assert joining._named(Peers(), fault) is fault


def test_a_run_ends_with_75_then_with_1(tmp_path, monkeypatch, capfd):
    def fail(*_):
        raise ECC

    monkeypatch.setattr("cct_tf.engine.step.TrainStep.run", fail)
    found = [call(capfd, "train", *FLAGS, f"--workdir={tmp_path}/run") for _ in range(2)]
    assert [status for status, _, _ in found] == [75, 1]
    for _, _, err in found:
        assert only_line(err).startswith("stopped: ECC failed (InternalError: ")
    assert "the same command goes on" in found[0][2] and "one of 1 to 1" in found[1][2]
