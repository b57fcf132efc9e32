"""The code of the Python guide (docs/python*.md) does what stands beside it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cct_tf import create_model
from cct_tf.convert import safetensors, weights
from cct_tf.runs import checkpoint, run_record
from cct_tf.runs.resolved import Resolved
from cct_tf.runs.run_status import RunStatus

REPO = Path(__file__).resolve().parents[1]
PAGES = [(REPO / f"docs/{name}.md").read_text(encoding="utf-8") for name in ("python", "python_data", "python_layers")]
PAGES[0] = PAGES[0][PAGES[0].index("\n## Keras models\n"):]  # with what follows it
BLOCKS = re.findall(r"^```python\n(.*?)^```", "".join(PAGES), re.M | re.S)
IN_A_NEW_PROCESS = 1

pytestmark = pytest.mark.slow


def _run(*command, **options):
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=900,
                          env=os.environ | {"PYTHONPATH": str(REPO), "TF_CPP_MIN_LOG_LEVEL": "3"}, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sources():
    """Networks whose weights the guide reads from files."""
    return {"run": create_model("cct_2_3x1_16", seed=3), "authors": create_model("cct_2_3x2_32", seed=4)}


@pytest.fixture(scope="module")
def guide(sources, tmp_path_factory):
    """(folder in which the guide was followed, the facts of tests/run_guide.py)."""
    folder = tmp_path_factory.mktemp("guide")
    record = run_record.Record({}, Resolved(16, (), {}), 899, RunStatus(899), True, {})
    checkpoint.save(folder / "runs/quickstart/best", checkpoint.make_trackable(sources["run"]), record)
    safetensors.write(folder / "cct_2_3x2_32.pth", weights.to_torch(sources["authors"]))
    blocks = [block for place, block in enumerate(BLOCKS) if place != IN_A_NEW_PROCESS]
    out = _run(REPO / "tests/run_guide.py", input=json.dumps(blocks), cwd=folder)
    return folder, json.loads(out.splitlines()[-1])


def test_fit_learns_and_the_file_gives_the_same_logits_in_a_new_process(guide):
    folder, facts = guide
    assert facts["accuracy"] > 0.85
    _run("-c", BLOCKS[IN_A_NEW_PROCESS] + "import numpy as np; data = np.load('digits.npz')\n"
         "assert np.abs(model(data['images']) - data['logits']).max() < 1e-5\n", cwd=folder)


def test_a_mirrored_fit_updates_and_its_replicas_draw_the_same_seeds(guide):
    facts = guide[1]
    assert (facts["replicas"], facts["mirrored updates"], facts["same seeds"]) == (2, 4, True)


def test_shapes_and_sums_are_those_of_the_comments(guide):
    facts = guide[1]
    assert facts["vectors"] == [2, 128]
    shape, sums = facts["shares"]
    assert shape == [2, 16] and sums == pytest.approx([1, 1], abs=1e-5)
    assert {name: shape for name, (shape, _) in facts["maps"].items()} == {"pooling": [2, 4, 4], "rollout": [2, 4, 4]}
    for _, sums in facts["maps"].values():
        assert sums == pytest.approx([1, 1], abs=1e-5)


@pytest.mark.parametrize(("name", "size"), [("run", 16), ("authors", 32)])
def test_weights_that_are_read_are_those_of_the_file(name, size, guide, sources):
    np.testing.assert_allclose(guide[1][name], sources[name](np.ones([1, size, size, 3], "float32"))[0], atol=1e-4)
    assert (guide[0] / "quickstart.keras").exists()


def test_augmentation_follows_step_and_place(guide):
    facts = guide[1]
    shape, dtype, same, changed = facts["augmented"]
    assert (shape, dtype, same, facts["trained"]) == ([64, 8, 8, 3], "float32", True, 44) and changed > 0.1


def test_an_operation_of_ones_own_acts_on_its_share(guide):
    share, as_asked = guide[1]["inverted"]
    assert as_asked and abs(share - 0.25) < 0.05  # 4 deviations of 1438 draws


def test_own_networks_compute_what_they_say_and_are_loaded_again(guide):
    facts = guide[1]
    assert max(facts["mean"]) < 1e-5 and facts["updates"] == 4
    assert facts["masks"] == [True, False, False]
    assert "seeds: expected example seeds" in facts["no seeds"]
