"""The notebook, and what the page on runs from Python begins with, do what they say."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from tests import undrawn

REPO = pathlib.Path(__file__).resolve().parents[1]
NOTEBOOK = REPO / "docs" / "first_run.ipynb"
PAGE = REPO / "docs" / "python_run.md"
CHECKS = """
assert found["top1"] > 0.85 and top1.step[-1] == 122 and len(top1.value) == 6
assert sum(label == str(truth) for label, truth in zip(predictions.labels, digits.target)) >= 6
assert longer.step == longer.total_steps == 142 and model.count_params() == 205579
"""
PAGE_CHECKS = """
assert run.state == "finished" and run.step == 102 and found["examples"] == 359
"""


def _cells():
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def test_the_notebook_is_small_and_holds_no_output():
    assert NOTEBOOK.stat().st_size < 10_000
    for cell in _cells():
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None


@pytest.mark.slow
def test_the_notebook_and_the_page_run_in_one_process(tmp_path):
    cells = ["".join(cell["source"]) for cell in _cells() if cell["cell_type"] == "code"]
    first, wrong, *_ = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    (tmp_path / "script.py").write_text("\n".join([*cells, CHECKS, first, PAGE_CHECKS, wrong]), encoding="utf-8")
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": undrawn.PYTHONPATH, "MPLBACKEND": "Agg"})
    assert done.returncode == 0, done.stderr
    assert "expected the config of this run, found other values of --epochs (checkpoint 6.0, now 7.0)" in done.stdout
    assert wrong.partition("# ")[2].strip() == done.stdout.splitlines()[-1]
