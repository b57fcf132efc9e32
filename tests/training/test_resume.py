"""A run that was stopped anywhere and went on is the run that was not, to the last bit."""


import numpy as np
import pytest

from cct_tf.errors import Interrupted, UserError
from cct_tf.runs import checkpoint, run_record
from cct_tf.runs.resolved import Resolved
from cct_tf.runs.run_status import RunStatus
from cct_tf.training import loop, resume
from tests.training import tiny

RUN = {"train_steps": 17, "log_every_steps": 5, "eval_every_steps": 7, "checkpoint_every_steps": 4,
       "validation_fraction": 0.2, "keep_checkpoints": 2, "ema_decay": 0.9}


@pytest.fixture(autouse=True)
def _steps_one_by_one(monkeypatch):
    """Chunks of one step, so that a run can be stopped at any of them (`undisturbed` ran in longer ones)."""
    monkeypatch.setattr(loop, "_CHUNK_SECONDS", 0.0)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    """Of the runs that end too early. What was killed goes on in the same network, set back to its initial values and
    read from the files; what a signal left, in a network of its own.
    """
    return tiny.Trainer(tmp_path_factory.mktemp("trainer"), **RUN)


@pytest.fixture(scope="module")
def undisturbed(trainer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    trainer.train(folder)
    return folder


def _same(first, second):
    assert tiny.records(first) == tiny.records(second)
    a, b = tiny.tensors(first), tiny.tensors(second)
    assert a.keys() == b.keys() and len(a) > 4 * 29  # weights, two moments and an average each, counters
    for name in a:
        assert np.array_equal(a[name], b[name]), name
    records = [run_record.read_record(run_record.list_checkpoints(folder / "checkpoints")[-1])
               for folder in (first, second)]
    assert [record.status for record in records] == [records[0].status] * 2
    assert all(record.finished for record in records)


def test_stopped_by_a_signal_at_a_step_that_no_gate_knows(undisturbed, trainer, tmp_path):
    training = trainer.assemble(tmp_path)
    with pytest.raises(Interrupted, match="saved step 6 of 17") as stop:
        training.run(tiny.StopAt(training, 6))
    assert stop.value.exit_status == 143
    tiny.train(tmp_path, **RUN, pipeline_gib=1e-6,  # one call of each stage at a time: no bit depends on it
               device="cpu")
    _same(undisturbed, tmp_path)


def test_going_on_without_the_test_at_the_end_is_the_same_run_less_the_test(undisturbed, trainer, tmp_path):
    training = trainer.assemble(tmp_path)
    with pytest.raises(Interrupted):
        training.run(tiny.StopAt(training, 15))
    trainer.train(tmp_path, test_at_end=False)
    records = tiny.records(undisturbed)
    assert "test/top1" in records[-1] and tiny.records(tmp_path) == records[:-1]
    a, b = tiny.tensors(undisturbed), tiny.tensors(tmp_path)
    assert all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("step", [3, 15])
def test_killed_between_checkpoints(undisturbed, trainer, tmp_path, step):
    """A kill loses what was not saved: stop the loop dead, with records after the last checkpoint in the file."""
    training = trainer.assemble(tmp_path)
    log = training._log

    def log_then_die(at, *rest):
        log(at, *rest)
        if at >= step:
            raise KeyboardInterrupt

    training._log = log_then_die
    with pytest.raises(KeyboardInterrupt):
        training.run(tiny.NoInterrupts())
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 9999, "train/l')  # a torn last line
    trainer.train(tmp_path)
    _same(undisturbed, tmp_path)


@pytest.mark.parametrize("moment", ["before the record", "after the record", "after the best was kept"])
def test_killed_around_an_evaluation(undisturbed, trainer, tmp_path, monkeypatch, moment):
    """The evaluation is owed until the checkpoint says it was done."""
    training = trainer.assemble(tmp_path)
    with monkeypatch.context() as patch:
        def die(*args, **kwargs):
            raise KeyboardInterrupt

        if moment == "before the record":
            patch.setattr("cct_tf.training.summaries.Summaries.write_evaluation", die)
        elif moment == "after the record":
            patch.setattr(checkpoint, "keep_best", die)
        else:
            patch.setattr(checkpoint, "write_record", _die_at_second(run_record.write_record))
        with pytest.raises(KeyboardInterrupt):
            training.run(tiny.NoInterrupts())
    trainer.train(tmp_path)
    _same(undisturbed, tmp_path)


def _die_at_second(write_record):
    """The first evaluation's update of run.json comes after the records of the checkpoints at steps 4 and 7."""
    calls = []

    def replacement(path, record):
        calls.append(path)
        if len(calls) == 3:
            raise KeyboardInterrupt
        write_record(path, record)

    return replacement


def test_a_checkpoint_of_two_replicas_goes_on_with_one(undisturbed, trainer, tmp_path):
    training = tiny.assemble(tmp_path, num_replicas=2, **RUN)
    with pytest.raises(Interrupted):
        training.run(tiny.StopAt(training, 6))
    trainer.train(tmp_path)
    for name in ("train/loss", "eval/loss", "eval_ema/loss"):
        expected, found = ([record[name] for record in tiny.records(folder, name)]
                           for folder in (undisturbed, tmp_path))
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_finished_run_can_be_made_longer(one_network, tmp_path):
    run = {"schedule": "constant", "test_at_end": False}
    tiny.train(tmp_path, train_steps=4, **run)
    training = tiny.train(tmp_path, train_steps=6, accept_config_change=True, **run)
    assert int(training.network.state.step.numpy()) == 6
    assert [record["step"] for record in tiny.records(tmp_path, "train/")] == [1, 2, 3, 4, 5, 6]


def test_only_the_last_checkpoints_and_the_best_are_kept(undisturbed):
    kept = [path.name for path in run_record.list_checkpoints(undisturbed / "checkpoints")]
    assert kept == ["step_00000016", "step_00000017"]
    evaluations = tiny.records(undisturbed, "eval/")
    best = max(evaluations, key=lambda record: (record["eval_ema/top1"], -record["step"]))["step"]
    assert [path.name for path in run_record.list_checkpoints(undisturbed / "best")] == [f"step_{best:08d}"]


def test_the_best_weights_are_tested_once_at_the_end(undisturbed):
    tested = tiny.records(undisturbed, "test/")
    assert [record["step"] for record in tested] == [17]


def _written(folder, settings, without=()):
    """A checkpoint of step 4 by its record alone, of a version that did not know the fields `without`."""
    path = folder / "checkpoints/step_00000004"
    path.mkdir(parents=True)
    given = {name: value for name, value in settings.as_dict().items() if name not in without}
    run_record.write_record(path, run_record.Record(given, Resolved(8, (), {}), 4, RunStatus(4), False, {}))


_OF_OPTIMISATION = {"schedule": "linear", "decay_share": 0.1, "decay_shape": "1-sqrt", "cautious_weight_decay": True,
                    "corrected_weight_decay": True, "muon_convolutions": True, "muon_split_qkv": True}
_OF_THE_NETWORK = {"qk_norm": True, "zero_init_outputs": True}
_OF_THE_IMAGES = {"auto_augment_off_epoch": 3}


@pytest.mark.parametrize("name", [*_OF_OPTIMISATION, *_OF_THE_NETWORK, *_OF_THE_IMAGES])
def test_other_optimisation_networks_or_images_are_another_run(name, tmp_path):
    """It goes on with --accept_config_change, and with a record of before there was the flag."""
    run = {"schedule": "wsd"} if name.startswith("decay") else {"optimizer": "muon"} if "muon" in name else {}
    _written(tmp_path / "new", tiny.settings(tmp_path / "new", **run))
    _written(tmp_path / "old", tiny.settings(tmp_path / "old", **run),
             [*list(_OF_OPTIMISATION)[1:], "average_last", *_OF_THE_NETWORK, *_OF_THE_IMAGES])
    changed = run | {name: (_OF_OPTIMISATION | _OF_THE_NETWORK | _OF_THE_IMAGES)[name]}
    for folder in (tmp_path / "new", tmp_path / "old"):
        assert _found(folder, **run).step == 4
        with pytest.raises(UserError, match=f"found other values of .*--{name} "):
            _found(folder, **changed)
        assert _found(folder, **changed, accept_config_change=True).step == 4


def _found(folder, **changes):
    return resume.find_start(tiny.settings(folder, **changes), tiny.Workdir(folder), tiny.Console(quiet=True))
