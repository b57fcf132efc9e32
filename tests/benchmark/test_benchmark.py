"""The benchmark: what it measures is what trains, its figures follow from each other, and its JSON is one line."""

import itertools
import json
import math
import pathlib
import subprocess
import sys

import pytest

from cct_tf.benchmark import __main__ as benchmark
from cct_tf.benchmark import loop as loop_benchmark
from cct_tf.benchmark import machine, measuring, startup, step, tables
from cct_tf.errors import Interrupted, UserError
from cct_tf.machine import processor, runtime
from cct_tf.machine.interrupts import Interrupts
from cct_tf.models import variants
from cct_tf.settings import config, flags
from tests import undrawn
from tests.training import tiny

REPO = pathlib.Path(__file__).parents[2]
TINY = ["--model=cct_2_3x1_8", "--batch_size=16", "--jit=off", "--json"]
MACHINE = {"cpu", "instruction_set", "processors", "versions"}
SUBJECT = MACHINE | {"model", "image_size", "batch_size", "num_classes", "parameters", "device", "threads",
                     "num_replicas", "precision", "jit", "accumulate_steps"}
RATES = {"what", "images_per_second", "lowest", "highest"}


def _found(capsys, *argv):
    """What a benchmark prints, which must be one object on one line."""
    benchmark.main(flags.parse([*TINY, *argv], benchmark.FIELDS))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    return json.loads(lines[0])


def test_the_step_and_stock_keras_in_turn(capsys):
    found = _found(capsys, "--what=step", "--compare=keras", "--parts", "--repeats=3", "--seconds=0.05", "--classes=7")
    assert set(found) == RATES | SUBJECT | {"model_gflops", "peak_gflops", "peaks", "percent_of_peak",
                                            "peak_memory_gib", "keras", "parts"}
    assert found["lowest"] <= found["images_per_second"] <= found["highest"]
    variant = variants.resolve("cct_2_3x1_8")
    assert found["model_gflops"] == step.model_gflops(variant, 7, found["images_per_second"])
    assert found["percent_of_peak"] == pytest.approx(100 * found["model_gflops"] / found["peak_gflops"])
    native = {"bfloat16"} if processor.bfloat16_sets() else set()
    assert set(found["peaks"]) == {"float32"} | native and found["peaks"]["float32"] == found["peak_gflops"]
    keras = found["keras"]
    assert len(keras["ratios"]) == 3 and keras["ratio"] == sorted(keras["ratios"])[1]
    assert keras["parameters"] == found["parameters"] + 3 * 128 * 2  # the biases of `MultiHeadAttention`, 2 blocks
    assert keras["lowest"] <= keras["images_per_second"] <= keras["highest"]
    assert keras["precision"] == found["precision"] == "float32"
    by_part = found["parts"]
    assert set(by_part) == {"step_ms", "sum_ms", "sum_percent", "copy_gbytes_per_second", "rows"}
    assert list(by_part["rows"]) == ["tokenizer", "attention", "mlp", "norms", "masks", "update", "rest"]
    assert math.fsum(row["ms"] for row in by_part["rows"].values()) == pytest.approx(by_part["step_ms"])
    assert set(by_part["rows"]["mlp"]) == {"ms", "lowest", "highest", "percent", "gflops", "floor_ms"}
    assert set(by_part["rows"]["update"]) == {"ms", "lowest", "highest", "percent", "gbytes", "floor_ms"}
    table = tables.lines(found)
    assert any(line.startswith("  attention ") and "GFLOP/s" in line for line in table)
    assert any("add up to" in line and "not measured" in line for line in table)


def test_flops_are_six_times_the_multiplications_by_hand():
    """CCT-2/3x1 on 8 x 8: 16 tokens of width 128, MLP ratio 1, two blocks, 10 classes."""
    tokenizer = 8 * 8 * 9 * 3 * 128
    block = 16 * (3 + 1 + 2) * 128 * 128 + 2 * 16 * 16 * 128
    macs = tokenizer + 2 * block + 128 * 10
    assert step.model_gflops(variants.resolve("cct_2_3x1_8"), 10, 1000.0) == pytest.approx(6 * macs * 1000 / 1e9)


def test_matrix_products_count_two_operations_for_each_multiplication():
    peak = machine.MatrixPeak(runtime.Devices(None, "CPU", 1), "float32")
    assert [row() for row in peak._rows] == pytest.approx([2e-9 * side**3 * 4 for side in (1024, 2048)])


@pytest.mark.parametrize("changes", [{}, {"num_replicas": 2, "ema_decay": 0.9, "class_weights": "balanced"}],
                         ids=["plain", "replicas, average, balanced"])
def test_the_bare_step_counts_the_images_it_trains(changes):
    settings = config.from_dict({"model": "cct_2_3x1_8", "batch_size": 16, "jit": "off"} | changes)
    bare = step.BareStep(settings, 4)
    before = [variable.numpy() for variable in bare.model.trainable_variables]
    assert [bare.steps(), bare.steps()] == [16, 16]
    assert any((variable.numpy() != old).any()
               for variable, old in zip(bare.model.trainable_variables, before, strict=True))


def test_the_bare_step_gets_uint8_and_normalises_as_a_run():
    steps = step.BareStep(config.from_dict({"model": "cct_2_3x1_8", "batch_size": 16, "jit": "off"}), 4).steps
    batch = next(steps._iterator)
    levels = batch["image"].numpy()
    assert levels.dtype == "uint8" and levels.shape == (16, 8, 8, 3) and levels.min() < 3 and levels.max() > 252
    assert steps._train_step._prepare(batch).numpy() == pytest.approx((levels / 255.0 - 0.5) / 0.25, abs=1e-5)


def test_evaluation_beside_the_step(capsys):
    found = _found(capsys, "--what=eval", "--eval_batch_size=32", "--repeats=1", "--seconds=0.05")
    assert set(found) == RATES | SUBJECT | {"step_images_per_second", "ratio", "ratios", "eval_batch_size",
                                            "peak_memory_gib"}
    assert found["ratio"] == pytest.approx(found["images_per_second"] / found["step_images_per_second"])
    assert found["eval_batch_size"] == 32


def test_the_loop_beside_its_bare_step(capsys):
    found = _found(capsys, "--what=loop", "--dataset=digits", "--log_every_steps=2", "--checkpoint_every_steps=20",
                   "--repeats=3", "--seconds=0.3", "--workdir=/nowhere")
    assert set(found) == RATES | SUBJECT | {
        "step_images_per_second", "percent_of_step", "ratios", "steps", "records", "checkpoints", "timing",
        "model_gflops", "peak_memory_gib"}
    assert found["percent_of_step"] == pytest.approx(100 * sorted(found["ratios"])[1])
    for name, cadence in (("records", 2), ("checkpoints", 20)):  # of three turns
        assert abs(found[name] - found["steps"] / cadence) <= 3
    assert 0 <= found["timing"]["input_wait_fraction"] <= 1
    assert not pathlib.Path("/nowhere").exists()


def test_turns_of_the_bare_step_are_none_of_the_loops_steps(tmp_path):
    training = tiny.assemble(tmp_path, train_steps=10**9, eval_every_steps=10**9, log_every_steps=1)
    interrupts = Interrupts()
    turns = loop_benchmark.Turns(training, interrupts, 2, 0.05)
    with pytest.raises(Interrupted):
        training.run(interrupts, between_chunks=turns)
    assert len(turns.loop) == len(turns.step) == 2
    steps = [record["step"] for record in tiny.records(tmp_path, "train/")]
    assert steps == list(range(1, max(turns.measured) + 1)) and int(training.network.state.step) == steps[-1]
    assert turns.measured < set(steps)
    assert training.network.train_step._run.experimental_get_tracing_count() == 1  # both run the same compiled step


def test_a_rate_is_work_over_time_and_sides_take_turns(monkeypatch):
    clock = itertools.count(0.0, 0.5)
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: next(clock))
    assert measuring.rate(lambda: 3, 2.0) == 6.0  # four calls in two seconds
    calls = []
    sides = {name: lambda seconds, name=name: calls.append((name, seconds)) or len(calls) for name in "ab"}
    assert measuring.in_turn(sides, 2, 0.1) == {"a": [1, 3], "b": [2, 4]}
    assert calls == [("a", 0.1), ("b", 0.1)] * 2
    assert measuring.spread([3.0, 1.0, 8.0]) == {"images_per_second": 3.0, "lowest": 1.0, "highest": 8.0}
    assert measuring.pairs([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]) == {"ratio": 2.0, "ratios": [2.0, 3.0, 1.0]}


@pytest.mark.parametrize(("text", "cpu", "instruction_set"), [
    ("model name\t: A\nflags\t\t: sse avx2 avx512f amx_tile\n\nmodel name\t: B\n", "A", "AVX-512"),
    ("model name\t: A\nflags\t\t: avx2 avx512f avx512_bf16 amx_bf16\n", "A", "AVX-512, AMX, AVX512_BF16"),
    ("model name\t: A\nflags\t\t: sse avx avx2\n", "A", "AVX2"), ("", "unknown", "unknown")])
def test_the_processor_as_linux_tells_it(tmp_path, monkeypatch, text, cpu, instruction_set):
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(processor, "_CPUINFO", tmp_path / "cpuinfo")
    found = machine.describe()
    assert (found["cpu"], found["instruction_set"]) == (cpu, instruction_set)


def test_peak_memory_is_the_processs_own_and_not_what_it_began_with():
    code = ("from cct_tf.machine import runtime; from cct_tf.benchmark import machine\n"
            "peak = lambda: machine.peak_memory_gib(runtime.Devices(None, 'CPU', 1))\n"
            "before = peak(); bytearray(b'x') * 2**28; print(before, peak())")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPO)
    before, after = map(float, done.stdout.split())
    assert before < 0.2  # this process, its parent, holds TensorFlow
    assert after == pytest.approx(before + 0.25, abs=0.02)


def test_phases_are_read_as_the_console_writes_them(capsys):
    from cct_tf.machine.console import Console
    console = Console()
    with console.phase("a phase ... of two words"):
        pass
    console.say("no phase, 3 s")
    lines = capsys.readouterr().out.splitlines()
    assert [startup.parse_phase(line) for line in lines] == [("a phase ... of two words", 0.0), None]


def test_what_training_refuses_the_benchmark_of_its_start_refuses():
    with pytest.raises(UserError, match="^--workdir: expected a folder, found the file"):
        startup.time_one([f"--workdir={__file__}"])


def test_its_start_is_measured_alone_whatever_tf_config_says(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "no JSON")
    with pytest.raises(UserError, match="^--workdir: expected a folder, found the file"):
        startup.time_one([f"--workdir={__file__}"])


@pytest.mark.slow
def test_the_start_seen_from_outside(capsys, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", undrawn.PYTHONPATH)
    found = _found(capsys, "--what=startup", "--dataset=digits", "--repeats=1")
    assert set(found) == MACHINE | {"what", "seconds", "lowest", "highest", "phases", "cold"}
    for start in (found, found["cold"]):
        assert list(start["phases"])[-1] == "compiling the training step"
        assert 0 < math.fsum(start["phases"].values()) < start["seconds"]
