"""Runs in low precision: float32 around the network, and a loss scale that follows what float16 can hold."""


import numpy as np
import pytest
import tensorflow as tf

from cct_tf.assembly import selection
from cct_tf.engine import losses
from cct_tf.engine.gradients import Gradients
from cct_tf.engine.loss_scale import GOOD_UPDATES, HIGHEST, START, LossScale
from cct_tf.engine.state import TrainState
from cct_tf.errors import Interrupted, UserError
from cct_tf.layers import products
from cct_tf.machine import processor, runtime
from cct_tf.machine.console import Console
from cct_tf.models import create_model
from cct_tf.runs import run_record
from cct_tf.runs.workdir import Workdir
from cct_tf.training import coordination, loop, resume
from cct_tf.training.preparation import prepare
from cct_tf.training.resume import find_start
from cct_tf.workers.peers import Alone
from tests.training import tiny

RUN = {"train_steps": 6, "ema_decay": 0.9, "weight_decay": 0.1, "test_at_end": False}
HALF = RUN | {"precision": "float16", "num_replicas": 2, "accumulate_steps": 2}


def _losses(folder):
    return np.array([record["train/loss"] for record in tiny.records(folder, "train/")])


def _variables(folder):
    """What the last checkpoint holds, name -> type."""
    path = run_record.list_checkpoints(folder / "checkpoints")[-1]
    return tf.train.load_checkpoint(str(path / "weights")).get_variable_to_dtype_map()


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Folder of a run in float32."""
    folder = tmp_path_factory.mktemp("wide")
    tiny.train(folder, **RUN)
    return folder


@pytest.fixture(scope="module")
def on_two(tmp_path_factory):
    """Of runs in float16 on two replicas."""
    return tiny.Trainer(tmp_path_factory.mktemp("on_two"), **HALF)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_run_is_that_of_float32_up_to_rounding(wide, on_two, precision, tmp_path):
    """With XLA, and on two replicas with micro-batches."""
    training = on_two.train(tmp_path) if precision == "float16" else tiny.train(
        tmp_path, precision=precision, jit="on", **RUN)
    assert 0 < np.abs(_losses(tmp_path) / _losses(wide) - 1).max() < 1e-2
    assert training.network.model.compute_dtype == training.network.averaged.compute_dtype == precision
    kinds = _variables(tmp_path)
    assert {kind for name, kind in kinds.items() if name.startswith(("weights", "optimizer", "ema"))} <= {
        tf.float32, tf.int32, tf.int64}
    more = kinds.keys() - _variables(wide).keys()
    scale = {f"state/loss_scale/{name}/.ATTRIBUTES/VARIABLE_VALUE" for name in ("scale", "good_updates")}
    assert more == (scale if precision == "float16" else set())
    scales = [record.get("train/loss_scale") for record in tiny.records(tmp_path, "train/")]
    assert scales == [START if precision == "float16" else None] * 6


@pytest.mark.parametrize(("precision", "jit"), [("bfloat16", "off"), ("bfloat16", "all"), ("float16", "off"),
                                                ("float16", "encoder")])
def test_the_loss_is_float32(precision, jit):
    """A loss above what float16 holds, with more digits than bfloat16 has."""
    model = create_model("cct_2_3x1_8", num_classes=2, dtype=f"mixed_{precision}", attention_dropout_rate=0.0,
                         drop_path_rate=0.0)
    model.head.kernel.assign(tf.zeros_like(model.head.kernel))
    model.head.bias.assign([0.0, 70001.0])
    gradients = Gradients(model, losses.cross_entropy, 2, jit)
    weights = [tf.convert_to_tensor(variable.value) for variable in gradients.variables]
    found, loss, _ = gradients.for_size(2)(weights, tf.zeros([2, 8, 8, 3]), tf.one_hot([0, 0], 2),
                                           tf.constant([0, 1], tf.uint32), tf.ones([]))
    assert float(loss) == 70001.0
    assert {gradient.dtype for gradient in found} == {tf.float32}


def test_the_scale_keeps_gradients_that_float16_would_lose():
    """Labels of 1e-6 make gradients 1e-6 times as large: what arrives at the tokenizer is zero in float16."""
    batch = (tf.random.stateless_normal([4, 8, 8, 3], [0, 0]), 1e-6 * tf.one_hot([0, 1, 2, 0], 3),
             tf.constant([0, 1, 2, 3], tf.uint32))
    found = {}
    for precision, scale in (("float32", 1.0), ("mixed_float16", 1.0), ("mixed_float16", START)):
        model = create_model("cct_2_3x1_8", num_classes=3, dtype=precision)
        gradients = Gradients(model, losses.cross_entropy, 4)
        weights = [tf.convert_to_tensor(variable.value) for variable in gradients.variables]
        parts, _, _ = gradients.for_size(4)(weights, *batch, tf.constant(scale))
        assert "tokenizer" in gradients.variables[0].path
        found[precision, scale] = parts[0].numpy() / scale
    expected = found["float32", 1.0]
    error = {key: np.linalg.norm(value - expected) / np.linalg.norm(expected) for key, value in found.items()}
    assert error["mixed_float16", START] < 0.05 < 0.99 < error["mixed_float16", 1.0]


def test_the_scale_halves_at_once_and_doubles_after_many_good_updates():
    scale = LossScale()

    def follow(_, done):
        scale.follow(done)
        return tf.identity(scale.scale)

    outcomes = tf.constant([True] * (GOOD_UPDATES - 1) + [False] + [True] * (GOOD_UPDATES + 1))
    found = tf.function(lambda: tf.scan(follow, outcomes, 0.0, parallel_iterations=1))().numpy().tolist()
    # The good updates before the skipped one don't count.
    assert found == [START] * (GOOD_UPDATES - 1) + [START / 2] * GOOD_UPDATES + [START] * 2
    assert int(scale.good_updates) == 1


@pytest.mark.parametrize("start, done, expected", [(1.0, False, 1.0), (2.0, False, 1.0), (HIGHEST, True, HIGHEST),
                                                   (HIGHEST / 2, True, HIGHEST)])
def test_the_scale_stays_within_its_bounds(start, done, expected):
    scale = LossScale()
    scale.scale.assign(start)
    scale.good_updates.assign(GOOD_UPDATES - 1)
    scale.follow(tf.constant(done))
    assert (float(scale.scale), int(scale.good_updates)) == (expected, 0 if done else -1)


def test_skips_count_in_a_row_only_when_the_scale_can_not_fall():
    state = TrainState(LossScale())
    state.loss_scale.scale.assign(4.0)
    rows = []
    for done in [False, False, False, False, True, False]:
        state.add(1.0, 1.0, 1.0, tf.constant(done))
        rows.append(int(state.skipped_in_row))
    assert rows == [0, 0, 1, 2, 0, 1]
    assert int(state.skipped) == 5


def _copies(training):
    """Every replica's copy of all weights, averages and optimizer variables."""
    variables = (*training.network.model.trainable_variables, *training.network.averaged.trainable_variables)
    return [[copy.numpy() for copy in training.devices.strategy.experimental_local_results(variable.value)]
            for variable in variables]


def test_an_overflow_on_one_replica_is_skipped_on_all_and_the_scale_halves(on_two, tmp_path):
    """A label of 2^20 on the last example, which the second replica has, makes its scaled gradients alone overflow."""
    training = on_two.assemble(tmp_path)
    label = 1.0 + tf.one_hot(15, 16)[:, None] * 2.0**20
    planted = training.batches(0, 2).enumerate().map(
        lambda step, batch: batch | {"label": batch["label"] * tf.where(step == 0, label, 1.0)})
    iterator = runtime.distribute(training.devices, planted, 16)
    before = _copies(training)
    network = training.network
    variables = [*network.model.variables, *network.averaged.variables, *network.optimizer.variables,
                 *network.state.variables]
    initial = [variable.numpy() for variable in variables]

    training.network.train_step.run(iterator, [0.01])
    state = training.network.state
    for old, new in zip(before, _copies(training), strict=True):
        for first, second in zip(old, new, strict=True):
            np.testing.assert_array_equal(first, second)
    assert float(state.loss_scale.scale) == START / 2
    assert (int(state.step), int(state.skipped), int(state.skipped_in_row)) == (1, 1, 0)

    training.network.train_step.run(iterator, [0.01])
    assert (int(state.step), int(state.skipped)) == (2, 1)
    after = _copies(training)
    for old, (first, second) in zip(before, after, strict=True):
        np.testing.assert_array_equal(first, second)
        assert not np.array_equal(old[0], first)

    # The same batch as the first update, with the smaller scale.
    for variable, value in zip(variables, initial, strict=True):
        variable.assign(value)
    assert (int(state.step), float(state.loss_scale.scale)) == (0, START)
    state.loss_scale.scale.assign(START / 2)
    training.network.train_step.run(runtime.distribute(training.devices, training.batches(1, 1), 16), [0.01])
    for (first, _), (second, _) in zip(after, _copies(training), strict=True):
        np.testing.assert_array_equal(first, second)


def test_a_resume_goes_on_with_the_scale(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_CHUNK_SECONDS", 0.0)  # one step, so that it stops where it is told to
    run = RUN | {"precision": "float16", "train_steps": 12}
    trainer = tiny.Trainer(tmp_path / "trainer", **run)

    def new(folder):
        """Begins with a loss scale so high that the first updates are skipped."""
        training = trainer.assemble(folder)
        training.network.state.loss_scale.scale.assign(HIGHEST)
        return training

    whole = new(tmp_path / "whole")
    whole.run(tiny.NoInterrupts())
    expected, good_updates = _copies(whole), int(whole.network.state.loss_scale.good_updates)
    stopped = new(tmp_path / "resumed")
    with pytest.raises(Interrupted):
        stopped.run(tiny.StopAt(stopped, 4))
    resumed = trainer.train(tmp_path / "resumed")

    records = tiny.records(tmp_path / "whole", "train/")
    assert records == tiny.records(tmp_path / "resumed", "train/")
    scales = [record["train/loss_scale"] for record in records]
    skips = [record["train/skipped_updates"] for record in records]
    assert scales[3] < HIGHEST and scales == [HIGHEST / 2**count for count in skips]
    assert 1 <= skips[3] and skips[-1] < 12
    for first, second in zip(expected, _copies(resumed), strict=True):
        np.testing.assert_array_equal(first, second)
    assert int(resumed.network.state.loss_scale.good_updates) == good_updates


def test_another_precision_is_another_run(wide):
    with pytest.raises(UserError, match=r"--precision \(checkpoint float32, now bfloat16\)"):
        tiny.assemble(wide, precision="bfloat16", **RUN)


def _machine_with(monkeypatch, *names):
    """Pretend that the processor has these instruction sets for bfloat16.

    oneDNN's products stay out of it: without the instructions they would end the process.
    """
    monkeypatch.setattr(processor, "bfloat16_sets", lambda: names)
    monkeypatch.setattr(products, "multiplies_bfloat16", lambda: False)


def _made_ready(workdir, capsys, **changes):
    """(`loop.Training`, row of the plan of how it computes, what was said) of a tiny run that is made ready."""
    chosen = tiny.settings(workdir, **changes)
    folder = Workdir(workdir)
    folder.create()
    console = Console()
    training = loop.Training(prepare(chosen, folder, find_start(chosen, folder, console), console))
    row, = (line for line in training.plan_lines() if line.startswith("  computes in"))
    return training, row, capsys.readouterr().out


def test_auto_goes_on_in_the_precision_that_the_run_began_with(tmp_path, monkeypatch, capsys):
    run = RUN | {"precision": "auto"}
    _machine_with(monkeypatch, "AMX", "AVX512_BF16")  # a network of width 128: bfloat16
    stopped, row, said = _made_ready(tmp_path, capsys, **run)
    assert "bfloat16" in row and "auto: with AMX" in row and "--precision" not in said
    with pytest.raises(Interrupted):
        monkeypatch.setattr(loop, "_CHUNK_SECONDS", 0.0)
        stopped.run(tiny.StopAt(stopped, 2))
    record = run_record.read_record(run_record.list_checkpoints(tmp_path / "checkpoints")[-1])
    assert (record.config["precision"], record.resolved.precision) == ("auto", "bfloat16")
    assert selection.select(str(tmp_path), "last").settings.model.precision == "bfloat16"  # for evaluate, predict ...

    _machine_with(monkeypatch)  # another machine
    capsys.readouterr()
    resumed, row, said = _made_ready(tmp_path, capsys, **run)
    assert "bfloat16" in row and "as this run began" in row
    assert "goes on in bfloat16, as this run began; a new run on this machine would take float32" in said
    assert resumed.network.model.compute_dtype == "bfloat16" and resumed.resolved.precision == "bfloat16"
    start = find_start(tiny.settings(tmp_path, **RUN | {"precision": "bfloat16"}), Workdir(tmp_path), Console(True))
    assert start.step == 2  # what auto became is no other precision
    with pytest.raises(UserError, match=r"--precision \(checkpoint bfloat16, now float32\)"):
        find_start(tiny.settings(tmp_path, **RUN), Workdir(tmp_path), Console(quiet=True))


def test_auto_given_later_keeps_what_the_run_was_given(wide, monkeypatch):
    _machine_with(monkeypatch, "AMX")
    chosen = tiny.settings(wide, precision="auto", **RUN)
    start = find_start(chosen, Workdir(wide), Console(quiet=True))
    assert start.record.settled_config["precision"] == "float32"
    choice = coordination.choose_precision(chosen, runtime.Devices(None, "CPU", 1), start, Alone(), Console(quiet=True))
    assert choice.value == "float32"


def test_the_precision_of_all_workers_is_that_of_the_first(monkeypatch, tmp_path):
    class Second(Alone):
        def exchange(self, value=None):
            return [["float32", "of worker 0"], value]

    _machine_with(monkeypatch, "AMX")
    chosen = tiny.settings(tmp_path, precision="auto")
    choice = coordination.choose_precision(chosen, runtime.Devices(None, "CPU", 2), resume.Start(None, None), Second(),
                                           Console(quiet=True))
    assert (choice.value, choice.reason) == ("float32", "of worker 0")


@pytest.mark.parametrize("precision, words", [("float32", ()), ("bfloat16", ("on CPUs bfloat16",)),
                                              ("float16", ("the loss scaled", "on CPUs float16"))])
def test_the_plan_says_the_precision(precision, words, tmp_path):
    lines = tiny.assemble(tmp_path, precision=precision).plan_lines()
    row, = (line for line in lines if line.startswith("  computes in"))
    assert row.split()[2].rstrip(",") == precision
    assert all(word in "\n".join(lines) for word in words)
    assert ("on CPUs" in "\n".join(lines)) == (precision != "float32")
