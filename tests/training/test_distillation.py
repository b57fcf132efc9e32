"""A run that learns from trained networks: stopped, on replicas, and what is refused of a teacher."""

import json
import pathlib
import re
import shlex
import shutil
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from cct_tf.assembly import networks, selection, teachers, tuning
from cct_tf.convert import safetensors, weights
from cct_tf.errors import Interrupted, UserError
from cct_tf.export import formats
from cct_tf.models import create_model
from cct_tf.runs import run_record
from cct_tf.runs.workdir import Workdir
from cct_tf.training import loop
from tests import stock_network
from tests.commands import run
from tests.training import tiny

PAGE = (pathlib.Path(__file__).resolve().parents[2] / "docs/distillation.md").read_text(encoding="utf-8")

HOW = {"distill_weight": 0.5, "distill_temperature": 2.0, "distill_standardize": True, "mixup_alpha": 0.8,
       "teacher_mean": (0.6,), "teacher_std": (0.3,), "train_steps": 8, "test_at_end": False} | tiny.NO_MASKS
MEAN = {name: HOW[name] for name in ("teacher_mean", "teacher_std")}
DIGITS = [str(number) for number in range(10)]


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A folder with two teachers, a run with another size and mean and a file."""
    folder = tmp_path_factory.mktemp("teachers")
    tiny.train(folder / "a", model="cct_2_3x1_16", image_size=12, mean=(0.3,), std=(0.4,), learning_rate=3e-3,
               norm_order="pre", qk_norm=True, train_steps=8, test_at_end=False)
    stock_network.write(folder / "b.keras")
    return folder


@pytest.fixture(scope="module")
def trainer(taught):
    """Of students of both; `taught / "student"` is an undisturbed one."""
    found = tiny.Trainer(taught / "trainer", teacher=_both(taught), **HOW)
    found.train(taught / "student")
    return found


def _both(folder):
    return f"{folder}/a,{folder}/b.keras"


def _losses(workdir):
    return [record["train/loss"] for record in tiny.records(workdir, "train/")]


def test_a_stopped_run_goes_on_to_the_same_bits_by_the_same_teachers_alone(taught, trainer, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_CHUNK_SECONDS", 0.0)
    training = trainer.assemble(tmp_path)
    with pytest.raises(Interrupted):
        training.run(tiny.StopAt(training, 3))
    for other in (f"{taught}/b.keras", f"{taught}/b.keras,{taught}/a"):
        with pytest.raises(UserError, match="--teacher: expected the weights that this run learns from"):
            tiny.assemble(tmp_path, teacher=other, **HOW)
    with pytest.raises(UserError, match="--teacher_std"):
        tiny.assemble(tmp_path, teacher=_both(taught), **HOW | {"teacher_std": (0.4,)})
    tiny.train(tmp_path, teacher=_both(taught), **HOW)
    assert tiny.records(tmp_path) == tiny.records(taught / "student")


def test_replicas_and_micro_batches_change_nothing(taught, trainer, tmp_path):
    tiny.train(tmp_path, teacher=_both(taught), num_replicas=2, accumulate_steps=2, **HOW)
    np.testing.assert_allclose(_losses(tmp_path), _losses(taught / "student"), rtol=1e-5)


def test_the_record_and_the_plan_know_the_teachers(taught, trainer):
    path = run_record.list_checkpoints(Workdir(taught / "student").checkpoints)[-1]
    found = run_record.read_record(path).resolved.teachers
    assert len(found) == 2 and len(set(found)) == 2 and all(len(each) == 8 for each in found)
    training = trainer.assemble(taught / "student")
    assert any("learns from" in line and "soft, weight 0.5, temperature 2, logits standardised" in line
               for line in training.plan_lines())
    assert any("note" in line and "b.keras has no names of classes" in line for line in training.plan_lines())


def _loaded(path, names=DIGITS, jit="off", **changes):
    """The one teacher at a path, for a student whose images are normalised by 0.5 and 0.2."""
    source = types.SimpleNamespace(class_names=names)
    images = types.SimpleNamespace(source=source, mean=(0.5, 0.5, 0.5), std=(0.2,))
    found, = teachers.load(teachers.find(tiny.settings("x", teacher=str(path), **changes)), images, "CPU", jit)
    return found


def _of_run(workdir):
    chosen = selection.select(str(workdir))
    return networks.load_model(chosen.settings, 10, chosen.find).model


LEVELS = tf.random.stateless_uniform([4, 12, 12, 3], [0, 1])


@pytest.mark.parametrize("jit", tuning.JIT)
def test_a_teacher_sees_the_images_as_it_was_trained_on_them(taught, jit):
    """Smaller ones become larger; its logits come in the order of the run's classes."""
    teacher, images = _loaded(taught / "a", DIGITS[::-1], jit), tf.image.resize(LEVELS, [8, 8])
    expected = _of_run(taught / "a")((tf.image.resize(images, [12, 12]) - 0.3) / 0.4)
    found = teacher.run((images - 0.5) / 0.2)
    np.testing.assert_allclose(found, expected.numpy()[:, ::-1], rtol=1e-4, atol=1e-4)
    assert not teacher.by_number
    if jit == "off":
        there, expected = _loaded(taught / "a"), _of_run(taught / "a")((LEVELS - 0.3) / 0.4)
        np.testing.assert_allclose(there.run((LEVELS - 0.5) / 0.2), expected, rtol=1e-4, atol=1e-4)
        assert there.checksum == teacher.checksum and not there.by_number


def test_a_teacher_of_other_classes_is_one_line(taught):
    with pytest.raises(UserError, match=r"the 9 classes of this run, found 10 in .* \(9 only in one"):
        _loaded(taught / "a", DIGITS[:9])


def _exported(taught, kind):
    """The path of the run's network in a format, written once."""
    path = taught / f"exported{formats.FORMATS[kind].suffix}"
    if not path.exists():
        assert run("export", f"--workdir={taught}/a", f"--format={kind}", f"--output={path}", "--check_images=4") == 0
    return path


@pytest.mark.parametrize("kind", ["keras", "saved_model"])
def test_an_exported_teacher_is_that_of_the_run(taught, kind):
    """Classes, mean and size are in the export, its norms (--norm_order, --qk_norm) are not."""
    found, expected = _loaded(_exported(taught, kind), DIGITS[::-1]), _loaded(taught / "a", DIGITS[::-1])
    images = (LEVELS - 0.5) / 0.2
    np.testing.assert_allclose(found.run(images), expected.run(images), rtol=1e-5, atol=1e-5)
    assert not found.by_number and found.checksum == expected.checksum


def test_a_served_teacher_that_is_not_what_its_description_says_is_one_line(taught, tmp_path):
    shutil.copytree(_exported(taught, "saved_model"), tmp_path / "served")
    file = tmp_path / "served/assets.extra/cct_tf.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"mean": [0.5]}))
    with pytest.raises(UserError, match="--teacher: expected the network cct_2_3x1_16 of 10 classes, found another"):
        _loaded(tmp_path / "served")
    (tmp_path / "served/variables/variables.index").unlink()
    with pytest.raises(UserError, match="--teacher: expected a SavedModel that can be read"):
        _loaded(tmp_path / "served")


def test_a_stock_teacher_runs_in_inference_mode(taught):
    model, teacher = keras.models.load_model(taught / "b.keras"), _loaded(taught / "b.keras", **MEAN)
    before = [weight.numpy() for weight in model.weights]
    run_twice = tf.function(teacher.run)
    levels = LEVELS[:, :8, :8]
    found = [run_twice((levels - 0.5) / 0.2).numpy() for _ in range(2)]
    np.testing.assert_array_equal(*found)
    np.testing.assert_allclose(found[0], model((levels - 0.6) / 0.3, training=False), rtol=1e-4, atol=1e-4)
    assert teacher.by_number and teacher.checksum == _loaded(taught / "b.keras", **MEAN).checksum
    assert all((weight.numpy() == value).all() for weight, value in zip(model.weights, before, strict=True))


def test_weights_of_the_authors_code_teach(tmp_path):
    model = create_model("cct_2_3x2_32", num_classes=10)
    model.head.kernel.assign(np.random.default_rng(0).normal(size=model.head.kernel.shape))
    safetensors.write(tmp_path / "net.safetensors", weights.to_torch(model))
    levels = tf.random.stateless_uniform([2, 32, 32, 3], [0, 2])
    found = _loaded(tmp_path / "net.safetensors", **MEAN)
    np.testing.assert_allclose(found.run((levels - 0.5) / 0.2), model((levels - 0.6) / 0.3), rtol=1e-4, atol=1e-4)
    assert found.by_number
    with pytest.raises(UserError, match="--teacher: expected logits of the 9 classes of this run, found 10"):
        _loaded(tmp_path / "net.safetensors", DIGITS[:9], **MEAN)


@pytest.mark.parametrize(("stock", "words"), [
    ({"units": 9}, r"the 10 classes of this run, found an output of shape \[2, 9\] for 2 images"),
    ({"activation": "softmax"}, "expected logits, found probabilities"),
])
def test_a_stock_network_that_is_no_teacher_is_one_line(tmp_path, stock, words):
    stock_network.write(tmp_path / "net.keras", **stock)
    with pytest.raises(UserError, match=f"--teacher: .*{words}"):
        _loaded(tmp_path / "net.keras", **MEAN)


def test_a_network_that_is_not_of_images_is_one_line(tmp_path):
    keras.Sequential([keras.Input([5]), keras.layers.Dense(10)]).save(tmp_path / "net.keras")
    with pytest.raises(UserError, match=r"network of images \[B, H, W, C\], found one of \[None, 5\]"):
        _loaded(tmp_path / "net.keras", **MEAN)


def test_what_is_no_teacher_is_one_line(taught, tmp_path):
    for changes, words in (({"teacher": f"{taught}/a,{tmp_path}"}, "found neither at"),
                           ({"teacher": f"{taught}/a", "channels": 1}, "trained with --channels=1")):
        with pytest.raises(UserError, match=words):
            teachers.find(tiny.settings("x", **changes))


def test_a_reader_of_the_page_trains_a_student(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    block, = re.findall(r"^```sh\n(.*?)^```", PAGE, re.M | re.S)
    for line in block.replace("\\\n", " ").splitlines():
        name, *flags = shlex.split(line)[2:]
        assert name == "cct_tf.train" and run("train", *flags, "--train_steps=2", "--batch_size=16", "--jit=off",
                                              "--test_at_end=false") == 0
    assert "learns from   runs/teacher: soft, weight 1, temperature 2" in capfd.readouterr().out
