"""Two processes on a table whose images and classes have weights compute what one does.

One time with a teacher and a network of one's own, one time with several labels an image.
"""

import numpy as np
import pytest
from PIL import Image

from cct_tf.settings import config
from tests import chaos, exact_resume, stock_network
from tests.training import tiny
from tests.workers.test_end_to_end import _the_tests_own_python, losses  # noqa: F401

pytestmark = pytest.mark.slow
STEPS = 8
RUN = tiny.EVERYTHING_RANDOM | {
    "dataset": "table", "validation_fraction": 0.25, "class_weights": "a=3", "mixup_alpha": 0.8, "train_steps": STEPS,
    "eval_batch_size": 8, "startup_timeout": 180}


def _table(folder, several):
    """A table of 32 images of mixed sizes with weights, of two classes, or of any number of three."""
    draws, rows = np.random.default_rng(0), ["path,label,weight"]
    for index in range(32):
        Image.fromarray(draws.integers(0, 256, [9 + index % 3, 10, 3], np.uint8)).save(folder / f"{index}.png")
        labels = "abc"[:index % 4] if several else "ab"[index % 4 == 0]
        rows.append(f"{index}.png,{';'.join(labels)},{index / 16}")
    (folder / "table.csv").write_text("\n".join(rows))


TEACHER = {"teacher": "net.keras", "teacher_mean": (0.4,), "teacher_std": (0.3,), "distill_temperature": 2.0}


OWN = {"model": f"{exact_resume.REPO}/examples/convnet.py:build"} | dict.fromkeys(
    ("dropout_rate", "attention_dropout_rate", "drop_path_rate"))


@pytest.mark.parametrize("more", [{"sampler": "balanced"} | TEACHER | OWN, {"task": "multilabel"}],
                         ids=["sampler, teacher and own network", "multilabel"])
def test_two_workers_compute_what_one_process_does(more, tmp_path, monkeypatch):
    _table(tmp_path, "task" in more)
    given = RUN | more | {"data_dir": str(tmp_path / "table.csv")}
    if "teacher" in more:
        given["teacher"] = str(tmp_path / "net.keras")
        stock_network.write(given["teacher"], units=2)
    texts = {name: "" if value is None else value[0] if isinstance(value, tuple) else value
             for name, value in given.items()}
    monkeypatch.setattr(chaos, "FLAGS", [f"--{name}={text}" for name, text in texts.items()])
    run = chaos.Launched(tmp_path / "two")
    tiny.start(config.from_dict(given | {"workdir": str(tmp_path / "one")})).run(tiny.NoInterrupts())
    assert run.finish()[0] == 0, run.tail()
    expected = losses(tmp_path / "one", STEPS)
    assert len(set(expected)) == STEPS
    np.testing.assert_allclose(losses(tmp_path / "two", STEPS), expected, rtol=1e-5)
