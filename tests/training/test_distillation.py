"""A run that learns from trained networks: stopped, on replicas, and what is refused of a teacher."""

import pathlib
import re
import shlex
import types

import numpy as np
import pytest
import tensorflow as tf

from cct_tf.assembly import networks, selection, teachers
from cct_tf.errors import Interrupted, UserError
from cct_tf.runs import run_record
from cct_tf.runs.workdir import Workdir
from cct_tf.training import loop
from tests.commands import run
from tests.training import tiny

PAGE = (pathlib.Path(__file__).resolve().parents[2] / "docs/distillation.md").read_text(encoding="utf-8")

HOW = {"distill_weight": 0.5, "distill_temperature": 2.0, "distill_standardize": True, "mixup_alpha": 0.8}


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A folder with two trained teachers, of another size and mean, and a run that learnt from them."""
    folder = tmp_path_factory.mktemp("teachers")
    tiny.train(folder / "a", model="cct_2_3x1_16", image_size=12, mean=(0.3,), std=(0.4,), learning_rate=3e-3)
    tiny.train(folder / "b", seed=3, learning_rate=3e-3)
    tiny.train(folder / "student", teacher=_both(folder), **HOW)
    return folder


def _both(folder):
    return f"{folder}/a,{folder}/b"


def _losses(workdir):
    return [record["train/loss"] for record in tiny.records(workdir, "train/")]


def test_a_stopped_run_goes_on_to_the_same_bits_by_the_same_teachers_alone(taught, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_CHUNK_SECONDS", 0.0)
    training = tiny.assemble(tmp_path, teacher=_both(taught), **HOW)
    with pytest.raises(Interrupted):
        training.run(tiny.StopAt(training, 3))
    for other in (f"{taught}/b", f"{taught}/b,{taught}/a"):
        with pytest.raises(UserError, match="--teacher: expected the weights that this run learns from"):
            tiny.assemble(tmp_path, teacher=other, **HOW)
    tiny.train(tmp_path, teacher=_both(taught), **HOW)
    assert tiny.records(tmp_path) == tiny.records(taught / "student")


def test_replicas_and_micro_batches_change_nothing(taught, tmp_path):
    tiny.train(tmp_path, teacher=_both(taught), num_replicas=2, accumulate_steps=2, **HOW)
    np.testing.assert_allclose(_losses(tmp_path), _losses(taught / "student"), rtol=1e-5)


def test_the_record_and_the_plan_know_the_teachers(taught):
    path = run_record.list_checkpoints(Workdir(taught / "student").checkpoints)[-1]
    found = run_record.read_record(path).resolved.teachers
    assert len(found) == 2 and len(set(found)) == 2 and all(len(each) == 8 for each in found)
    training = tiny.assemble(taught / "student", teacher=_both(taught), **HOW)
    assert any("learns from" in line and "soft, weight 0.5, temperature 2, logits standardised" in line
               for line in training.plan_lines())


def _source(names):
    return types.SimpleNamespace(source=types.SimpleNamespace(class_names=names), mean=(0.5, 0.5, 0.5), std=(0.2,))


def test_a_teacher_sees_the_images_as_it_was_trained_on_them(taught):
    names = [str(number) for number in range(10)]
    (see, checksum), = teachers.load(teachers.find(tiny.settings("x", teacher=f"{taught}/a")), _source(names))
    (other, same), = teachers.load(teachers.find(tiny.settings("x", teacher=f"{taught}/a")), _source(names[::-1]))
    levels = tf.random.stateless_uniform([4, 12, 12, 3], [0, 1])
    found = see((levels - 0.5) / 0.2)
    chosen = selection.select(f"{taught}/a")
    model = networks.load_model(chosen.settings, 10, chosen.find).model
    np.testing.assert_allclose(found, model((levels - 0.3) / 0.4), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(other((levels - 0.5) / 0.2), found.numpy()[:, ::-1], rtol=1e-4, atol=1e-4)
    assert checksum == same and see(tf.zeros([4, 8, 8, 3])).shape == (4, 10)
    with pytest.raises(UserError, match=r"the 9 classes of this run, found 10 in .* \(9 only in one"):
        teachers.load(teachers.find(tiny.settings("x", teacher=f"{taught}/a")), _source(names[:9]))


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
        assert name == "cct_tf.train" and run("train", *flags, "--train_steps=2", "--jit=off") == 0
    assert "learns from   runs/teacher: soft, weight 1, temperature 2" in capfd.readouterr().out
