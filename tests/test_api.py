"""Runs from Python: what the commands do, as one call; the process is the caller's and stays as it was."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import types
import weakref

import numpy as np
import pytest
from absl import flags as absl_flags
from PIL import Image

import cct_tf
from cct_tf import api
from cct_tf.assembly import parts
from cct_tf.errors import Interrupted, OutsideFault, UserError
from cct_tf.evaluation.evaluator import Evaluator
from cct_tf.runs.workdir import Workdir
from cct_tf.training import loop, preparation
from cct_tf.training.loop import Training
from tests import commands
from tests.training import tiny

REPO = pathlib.Path(__file__).resolve().parents[1]
FIELDS = {"dataset": "digits", "image_size": 8, "model": "cct_2_3x1_8", "batch_size": 16, "epochs": 30,
          "train_steps": 12, "eval_every_steps": 6, "log_every_steps": 2, "checkpoint_every_steps": 100,
          "eval_batch_size": 400, "validation_fraction": 0.2, "random_resized_crop": None, "mean": (0.3,), "std": [0.4],
          "dropout_rate": 0.0, "attention_dropout_rate": 0, "drop_path_rate": 0.0, "jit": "off", "compile_cache": "off"}
pytestmark = pytest.mark.usefixtures("one_network")
HANDLERS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def process(monkeypatch):
    """A process that has computed nothing yet, as far as `cct_tf.run` knows."""
    monkeypatch.setattr(api, "_process", api._Process())
    return api._process


def train(workdir, **changes):
    return cct_tf.run(workdir=workdir, quiet=True, **FIELDS | changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished `TrainedRun`."""
    return train(tmp_path_factory.mktemp("api") / "run")


def _argv(fields):
    def text(value):
        return ",".join(map(str, value)) if isinstance(value, (tuple, list)) else "" if value is None else str(value)
    return [f"--{name}={text(value)}" for name, value in fields.items()]


def test_a_call_trains_as_the_command_does(trained, tmp_path):
    assert commands.run("train", f"--workdir={tmp_path / 'command'}", *_argv(FIELDS)) == 0
    expected = tiny.records(tmp_path / "command")
    assert tiny.records(trained.workdir) == expected and len(expected) == 6 + 2 + 1
    command = cct_tf.load(tmp_path / "command")
    assert (trained.state, trained.step, trained.total_steps) == ("finished", 12, 12)
    assert (trained.best, trained.last, trained.test) == (command.best, command.last, command.test)
    assert trained.best_checkpoint == trained.workdir / "best" / f"step_{trained.best['step']:08d}"
    assert trained.best_checkpoint.is_dir() and trained.class_names == tuple("0123456789")
    assert trained.config | {"workdir": None} == command.config | {"workdir": None}
    assert "finished, step 12 of 12, best top-1" in repr(trained)


def test_history_is_arrays_of_what_was_written_down(trained):
    history, records = trained.history, tiny.records(trained.workdir, without_timing=False)
    assert {"train/loss", "eval/top1", "test/top1", "timing/step_ms"} < set(history)
    losses = history["train/loss"]
    assert losses.step.tolist() == [2, 4, 6, 8, 10, 12] and losses.step.dtype == np.int64
    assert losses.value.tolist() == [record["train/loss"] for record in records if "train/loss" in record]
    np.testing.assert_allclose(losses.epoch, losses.step * 16 / (1438 - 287), atol=1e-6)
    assert history["eval/top1"].step.tolist() == [6, 12] and len(history["test/top1"].value) == 1
    assert sum(record is not None for record in history) == len(history)
    with pytest.raises(KeyError):
        history["nothing"]
    assert np.isnan(api.History([{"step": 1, "train/loss": None}])["train/loss"].value).all()


def test_history_as_a_table_needs_pandas(trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="^to_pandas: expected pandas to be installed"):
        trained.history.to_pandas()
    made = []

    class DataFrame:
        def __init__(self, rows, columns):
            made.append((rows, columns))

        def set_index(self, name):
            return name

    monkeypatch.setitem(sys.modules, "pandas", types.SimpleNamespace(DataFrame=DataFrame))
    assert trained.history.to_pandas() == "step"
    rows, columns = made[0]
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10, 12] and columns == ["step", "epoch", *trained.history]
    assert {"train/loss", "eval/top1", "test/top1"} < set(rows[-1])


def test_the_process_stays_as_it_was_and_a_second_run_is_as_the_first(trained, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(preparation, "assemble", parts.assemble)  # with a network of its own, which must go
    monkeypatch.setattr(loop, "Evaluator", Evaluator)
    shell = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    own = absl_flags.FlagValues()
    absl_flags.DEFINE_integer("batch_size", 7, "a flag of the program", flag_values=own)
    own(["program", "--batch_size=8"])
    monkeypatch.setattr(absl_flags, "FLAGS", own)
    monkeypatch.setattr(sys, "argv", ["program", "--dataset=nothing"])
    held, plain = [], Training.plan_lines
    monkeypatch.setattr(Training, "plan_lines", lambda self: held.extend(map(weakref.ref, (
        self, self.network.model, self.images.source.splits["train"].reader.tensor))) or plain(self))
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing)
    try:
        seen = [signal.getsignal(number) for number in HANDLERS], sys.stdout, sys.stderr
        run = cct_tf.run(workdir=tmp_path / "run", **FIELDS)  # as in a notebook, so with a bar
        with pytest.raises(UserError):
            cct_tf.run(workdir=tmp_path / "other", **FIELDS | {"dataset": "folder", "data_dir": tmp_path / "missing"})
        assert seen == ([signal.getsignal(number) for number in HANDLERS], sys.stdout, sys.stderr)
        for thread in threading.enumerate():
            if "_watch" in thread.name:
                thread.join(60)
                assert not thread.is_alive()
        assert signal.set_wakeup_fd(before) == writing
    finally:
        signal.set_wakeup_fd(before)
        os.close(reading)
        os.close(writing)
    assert [reference() for reference in held] == [None] * 3  # else runs would fill the memory
    assert own.batch_size == 8 and sys.argv == ["program", "--dataset=nothing"]
    assert not Workdir(run.workdir).is_in_use() and not Workdir(tmp_path / "other").is_in_use()
    out, err = capfd.readouterr()
    assert "12/12 [" in out and "step/s" in out and "evaluation at step 6" in out and "left\n" not in out
    assert "\ndone in" in out and err == ""
    assert tiny.records(run.workdir) == tiny.records(trained.workdir)


def test_a_finished_run_is_not_trained_again_and_flagfiles_are_read(trained, tmp_path, capfd):
    (tmp_path / "base.cfg").write_text("--train_steps=3\n--batch_size=999\n")
    (tmp_path / "more.cfg").write_text("--batch_size=16\n")
    fields = {name: value for name, value in FIELDS.items() if name not in ("batch_size", "train_steps")}
    again = cct_tf.run(flagfile=[tmp_path / "base.cfg", str(tmp_path / "more.cfg")], workdir=trained.workdir,
                       train_steps=12, **fields)
    assert "this run is finished (step 12)" in capfd.readouterr().out
    assert again.history["train/loss"].value.tolist() == trained.history["train/loss"].value.tolist()
    assert cct_tf.run(workdir=tmp_path / "dry", dry_run=True, quiet=True, **FIELDS) is None
    assert not (tmp_path / "dry").exists() and capfd.readouterr().out == ""


@pytest.mark.parametrize("change", [{"num_replicas": 2}, {"deterministic": True}])
def test_other_devices_ask_for_a_new_process(process, trained, tmp_path, change):
    process.devices = {"num_replicas": 1, "deterministic": False, "threads": api.runtime.num_threads()}
    with pytest.raises(UserError, match="as in the first run of this process, found .*: start a new process") as raised:
        train(tmp_path / "run", **change)
    assert str(raised.value).startswith(f"--{next(iter(change))}: expected ") and "\n" not in str(raised.value)
    assert not Workdir(tmp_path / "run").is_in_use() and not list((tmp_path / "run").glob("[!.]*"))
    assert train(trained.workdir).state == "finished"


def test_devices_that_could_not_be_made_bind_nobody(process, tmp_path):
    with pytest.raises(UserError, match="--num_replicas: expected at most 4, the logical CPUs this process started"):
        train(tmp_path / "run", num_replicas=8)
    assert process.devices is None


# Fields of a call, and the arguments of the command with the same fault.
SAME_LINES = [
    ({"learning_rat": 0.1}, "--learning_rat=0.1"),
    ({"flip": "vertical"}, "--flip=vertical"),
    ({"crop_padding": 2, "random_resized_crop": (0.5, 1)}, "--crop_padding=2 --random_resized_crop=0.5,1"),
    ({"mean": 0.5, "std": None}, "--mean=0.5 --std="),
    ({"model": "cct_two"}, "--model=cct_two"),
    ({"dataset": "cifar1000"}, "--dataset=cifar1000"),
    ({"dataset": "folder"}, "--dataset=folder"),
    ({"dataset": "folder", "data_dir": "{tmp}/photographs"}, "--dataset=folder --data_dir={tmp}/photographs"),
    ({"dataset": "folder", "data_dir": "nope://images"}, "--dataset=folder --data_dir=nope://images"),
    ({"compile_cache": "gs://bucket/x"}, "--compile_cache=gs://bucket/x"),
    ({"init_from": "{tmp}/weights.pth"}, "--init_from={tmp}/weights.pth"),
    ({"compile_cache": "on"}, "--compile_cache=on"),
    ({"flagfile": "{tmp}/no.cfg"}, "--flagfile={tmp}/no.cfg"),
    ({"workdir": None}, "--workdir="),
    ({"workdir": "{tmp}/file"}, "--workdir={tmp}/file"),
    ({"workdir": "{tmp}/busy"}, "--workdir={tmp}/busy"),
    ({"workdir": "{trained}", "learning_rate": 0.5}, "--workdir={trained} --learning_rate=0.5"),
]


@pytest.mark.parametrize(("changes", "argv"), SAME_LINES, ids=[argv for _, argv in SAME_LINES])
def test_an_error_is_an_exception_with_the_line_of_the_command(trained, tmp_path, capfd, changes, argv):
    (tmp_path / "file").touch()
    places = {"tmp": tmp_path, "trained": trained.workdir}
    changes = {name: value.format(**places) if isinstance(value, str) else value for name, value in changes.items()}
    (tmp_path / "busy").mkdir()
    with Workdir(tmp_path / "busy").locked(print):
        fields = {"workdir": tmp_path / "new", "quiet": True} | FIELDS | changes
        with pytest.raises(UserError) as raised:
            cct_tf.run(**fields)
        status, _, err = commands.call(capfd, "train", f"--workdir={tmp_path / 'new'}", *_argv(FIELDS),
                                       *argv.format(**places).split())
    assert status == 2 and commands.only_line(err) == f"error: {raised.value}\n"


@pytest.mark.parametrize(("name", "value", "named"), [
    ("batch_size", "16", "an integer of at least 1 and of at most 1e+06, found '16'"),
    ("batch_size", 16.0, "an integer"), ("batch_size", True, "an integer"), ("batch_size", 0, "found 0"),
    ("batch_size", None, "found None"), ("learning_rate", "0.1", "a number of at least 0, found '0.1'"),
    ("learning_rate", float("nan"), "found nan"), ("learning_rate", 10**400, "a number"),
    ("deterministic", 1, "true or false, found 1"), ("deterministic", "yes", "true or false"),
    ("color_jitter", (0.1, 0.2), "1 or 3 or 4 numbers"), ("mean", ("0.1",), "numbers"), ("flip", True, "one of random"),
    ("flip", "randm", "did you mean 'random'"), ("dataset", 3, "a text"), ("workdir", 3, "a path"),
    ("batchsize", 16, "did you mean 'batch_size'"), ("optimiser", "sgd", "did you mean 'optimizer'")])
def test_values_are_python_values_of_the_right_type_and_range(tmp_path, name, value, named):
    with pytest.raises(UserError, match=f"^--{name}: expected ") as raised:
        cct_tf.run(**{"workdir": tmp_path / "run", name: value})
    assert named in str(raised.value) and not (tmp_path / "run").exists()


def test_several_workers_and_faults_of_the_storage_are_named(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device", "some/file")

    with monkeypatch.context() as patch:
        patch.setattr(Workdir, "create", full)
        with pytest.raises(OutsideFault, match="^some/file: No space left on device; the same command goes on"):
            train(tmp_path / "run")
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": {"worker": ["a:1", "b:1"]},
                                                "task": {"type": "worker", "index": 0}}))
    with pytest.raises(UserError, match="^TF_CONFIG: .*python -m cct_tf.train"):
        train(tmp_path / "run")


@pytest.fixture
def at_step(monkeypatch):
    """Call with (step, action): what happens after that step of the next runs, and is told of no more than once."""
    plain, actions = Training._log, {}

    def log(self, step, *args):
        plain(self, step, *args)
        actions.pop(step, lambda: None)()

    monkeypatch.setattr(Training, "_log", log)
    return actions.__setitem__


def _interrupt(times=1):
    for _ in range(times):
        os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def ctrl_c_raises():
    """Python's own handler of SIGINT: a shell's background process ignores the signal, and so would the tests there."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
def test_ctrl_c_saves_and_the_same_call_goes_on(trained, tmp_path, at_step, ctrl_c_raises, monkeypatch, capfd):
    before = [signal.getsignal(number) for number in HANDLERS]
    at_step(4, _interrupt)
    with pytest.raises(Interrupted, match="^SIGINT: saved step 4 of 12; the same command goes on from it$") as raised:
        train(tmp_path / "run")
    assert raised.value.exit_status == 130 and [signal.getsignal(number) for number in HANDLERS] == before
    assert "Ctrl-C again stops without saving" in capfd.readouterr().err
    stopped = cct_tf.load(tmp_path / "run")
    assert (stopped.state, stopped.step, stopped.best, stopped.best_checkpoint) == ("unfinished", 4, None, None)
    with pytest.raises(UserError, match="^--workdir: expected a run with a best checkpoint, found none"):
        stopped.predict(np.zeros([8, 8, 3], np.uint8))
    assert stopped.predict(np.zeros([8, 8, 3], np.uint8), checkpoint="last").probabilities.shape == (1, 10)
    # A second Ctrl-C stops without saving, and the process lives.
    at_step(10, lambda: _interrupt(2))
    with pytest.raises(Interrupted, match="^SIGINT again: stopped at once; .* goes on from the last checkpoint$"):
        train(tmp_path / "run")
    assert not Workdir(tmp_path / "run").is_in_use()
    assert [path.name for path in sorted((tmp_path / "run" / "checkpoints").iterdir())][-1] == "step_00000006"
    # One that comes when all is done is the program's.
    monkeypatch.setattr(Training, "result_lines", lambda *args: _interrupt() or [])
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run")
    assert cct_tf.load(tmp_path / "run").state == "finished"
    assert tiny.records(tmp_path / "run") == tiny.records(trained.workdir)


def test_in_another_thread_no_handler_is_set_and_stop_asks(tmp_path, at_step):
    raised, going_on, refused = [], threading.Event(), threading.Event()
    before = [signal.getsignal(number) for number in HANDLERS]
    cct_tf.stop()  # none goes on: nothing happens

    def work():
        try:
            train(tmp_path / "run")
        except BaseException as error:
            raised.append(error)

    at_step(4, lambda: (going_on.set(), refused.wait(600)))
    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert going_on.wait(600) and [signal.getsignal(number) for number in HANDLERS] == before
        with pytest.raises(UserError, match="^cct_tf: expected one call at a time in a process"):
            train(tmp_path / "other")
        assert cct_tf.load(tmp_path / "run").state == "running"
        cct_tf.stop()
    finally:
        refused.set()
        thread.join(600)
    assert isinstance(raised[0], Interrupted)
    assert str(raised[0]) == "cct_tf.stop(): saved step 4 of 12; the same command goes on from it"
    assert not Workdir(tmp_path / "run").is_in_use() and cct_tf.load(tmp_path / "run").step == 4


def test_evaluate_gives_what_the_command_prints(trained, tmp_path, capfd):
    status, out, err = commands.call(capfd, "evaluate", f"--workdir={trained.workdir}", "--json")
    found = trained.evaluate()
    assert (status, err) == (0, "") and found == json.loads(out)
    assert {name: found[name] for name in ("top1", "loss", "step")} == trained.test | {"step": trained.best["step"]}
    asked = ("--split=validation", "--weights=raw", "--tta=shifts", "--checkpoint=last", "--mistakes=3")
    _, out, _ = commands.call(capfd, "evaluate", f"--workdir={trained.workdir}", "--json", *asked)
    found = trained.evaluate("validation", weights="raw", tta="shifts", checkpoint="last", mistakes=3,
                             output_dir=tmp_path / "pictures")
    assert found.pop("pictures") == [str(path) for path in sorted((tmp_path / "pictures").iterdir())]
    assert found | {"pictures": []} == json.loads(out) and len(found["worst_mistakes"]) == 3
    assert capfd.readouterr() == ("", "")
    for wrong, named in (({"split": "tset"}, "--split: expected one of train, validation, test, found 'tset'"),
                         ({"weights": "mean"}, "--weights: "), ({"tta_shift": 8, "tta": "shifts"}, "--tta_shift: "),
                         ({"mistakes": "all"}, "--mistakes: "), ({"checkpoint": tmp_path}, "--checkpoint: ")):
        with pytest.raises(UserError, match=f"^{named}"):
            trained.evaluate(**wrong)


def _photographs(folder):
    """Images of several sizes and their pixels as Pillow reads them, in order of their names."""
    folder.mkdir()
    rng, pixels = np.random.default_rng(1), {}
    for index, size in enumerate([(8, 8), (20, 31), (64, 9)]):
        pixels[str(folder / f"{index}.png")] = image = rng.integers(0, 256, [*size, 3], np.uint8)
        Image.fromarray(image).save(folder / f"{index}.png")
    return pixels


def test_predict_tells_the_same_of_files_of_arrays_and_as_the_command(trained, tmp_path, capfd):
    pixels = _photographs(tmp_path / "photographs")
    found = trained.predict(tmp_path / "photographs")
    assert found.images == tuple(pixels) and found.class_names == tuple("0123456789") and found.broken == {}
    assert found.probabilities.shape == (3, 10) and found.probabilities.dtype == np.float32
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1.0, rtol=1e-6)
    _, out, _ = commands.call(capfd, "predict", f"--workdir={trained.workdir}", "--json", "--top=10", *pixels)
    printed = json.loads(out)["images"]
    assert [[(row["class"], row["probability"]) for row in image["predictions"]] for image in printed] == found.top(10)
    assert found.labels == tuple(image["predictions"][0]["class"] for image in printed)
    of_arrays = trained.predict(list(pixels.values()))
    assert of_arrays.images == (0, 1, 2) and (of_arrays.probabilities == found.probabilities).all()
    first = next(iter(pixels.values()))
    for arrays, count in ((first, 1), (np.stack([first, first]), 2)):
        np.testing.assert_allclose(trained.predict(arrays).probabilities, [found.probabilities[0]] * count, atol=1e-6)
    one_by_one = trained.predict([pathlib.Path(path) for path in pixels], batch_size=1, weights="raw")
    np.testing.assert_allclose(one_by_one.probabilities, found.probabilities, atol=1e-6)
    before = trained.workdir / "checkpoints" / "step_00000006"
    last = trained.predict(str(tmp_path / "photographs" / "*.png"), checkpoint=before)
    assert abs(last.probabilities - found.probabilities).max() > 1e-6
    logits = trained.model()((first / 255.0 - 0.3)[None] / 0.4).numpy()[0]
    np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(), found.probabilities[0], atol=1e-6)
    assert "0.png: " in repr(found)


def test_predict_names_what_is_no_image(trained, tmp_path):
    pixels = _photographs(tmp_path / "photographs")
    broken = tmp_path / "photographs" / "1.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(UserError, match=f"^broken image: {broken}: .*; skip_broken=True leaves it out$"):
        trained.predict(tmp_path / "photographs")
    found = trained.predict(tmp_path / "photographs", skip_broken=True)
    assert found.images == (list(pixels)[0], list(pixels)[2]) and list(found.broken) == [str(broken)]
    with pytest.raises(UserError, match="^images: expected at least one image that can be read, found 1 broken"):
        trained.predict(broken, skip_broken=True)
    floats, grey = np.zeros([2, 8, 8, 3]), np.zeros([8, 8], np.uint8)
    for images, named in ((floats, r"found float64 \[8, 8, 3\]"), (grey, r"found uint8 \[8, 8\]"),
                          ([], "IMAGE: expected files"), (np.zeros([0, 8, 8, 3], np.uint8), "found none"),
                          (["missing.png"], "missing.png: "), ("nope://x.png", "IMAGE: expected a file system .*nope://x.png"),
                          ([tmp_path / "photographs" / "0.png", grey], "images: expected paths, or uint8")):
        with pytest.raises(UserError, match=named):
            trained.predict(images)
    with pytest.raises(UserError, match="^--batch_size: expected an integer"):
        trained.predict(grey, batch_size=0)


def test_load_of_what_is_no_run(tmp_path):
    for workdir, named in ((tmp_path / "missing", "no such folder"), (tmp_path, "none of these"),
                           ("gs://bucket/run", "a path of this machine"), (None, "--workdir: expected")):
        with pytest.raises(UserError, match=named):
            cct_tf.load(workdir)


def test_load_is_quick_and_needs_no_tensorflow(trained):
    code = ("import sys, cct_tf\n"
            f"run = cct_tf.load({str(trained.workdir)!r})\n"
            "assert run.step == 12 and len(run.history['train/loss'].value) == 6\n"
            "print(*[name for name in ('tensorflow', 'keras', 'sklearn') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")
