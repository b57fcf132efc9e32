"""What is imported before the first step, and what is not."""

import os
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]


def test_what_keras_imports_for_others_waits_until_it_is_asked_for():
    code = ("import sys\nfrom cct_tf.machine import runtime\nruntime.start_tensorflow()\nimport cct_tf.training.loop\n"
            "print([name for name in ('sklearn', 'matplotlib.pyplot', 'tensorflow_datasets') if name in sys.modules])\n"
            "import sklearn.datasets, matplotlib.pyplot\n"
            "print(len(sklearn.datasets.load_digits().target))\n")
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, text=True, capture_output=True, check=True,
                          env=os.environ | {"PYTHONPATH": str(REPO)})
    assert done.stdout.splitlines() == ["[]", "1797"]
