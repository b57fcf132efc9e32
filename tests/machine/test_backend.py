"""Keras on another backend: one clear error from whatever is imported first; a keras.json changes nothing."""

import importlib.util
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from cct_tf import create_model
from cct_tf.errors import UserError
from cct_tf.machine import backend

REPO = Path(__file__).resolve().parents[2]
ENTRIES = ("import cct_tf; cct_tf.create_model('cct_2_3x1_8')",
           "from cct_tf.models import create_model as c; c('cct_2_3x1_8')",
           "import cct_tf.models.cct", "import cct_tf.models.vit", "import cct_tf.layers.encoder",
           "import cct_tf.models.create", "import cct_tf.models.classifier", "import cct_tf.layers.tokenizer")
JSON = '{"backend": "jax", "image_data_format": "channels_first", "floatx": "float32", "epsilon": 0.5}'


def _python(code, **environment):
    kept = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600,
                          env=kept | {"PYTHONPATH": str(REPO)} | environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["jax", "torch"])
def test_every_way_in_says_the_same_line_and_the_package_alone_says_nothing(name):
    code = "import cct_tf; from cct_tf.errors import UserError; cct_tf.list_models()\n"
    for entry in ENTRIES:
        code += f"try:\n    {entry}\nexcept UserError as error:\n    print(error)\n"
    assert _python(code, KERAS_BACKEND=name).splitlines() == len(ENTRIES) * [
        f"KERAS_BACKEND: expected tensorflow or nothing, found {name!r}"]


def test_a_keras_json_changes_nothing(tmp_path):
    (tmp_path / "keras.json").write_text(JSON)
    code = ("import cct_tf, keras, numpy as np\n"
            "model = cct_tf.create_model('cct_2_3x1_8')\n"
            "assert keras.config.image_data_format() == 'channels_first' and keras.config.epsilon() == 0.5\n"
            f"np.save({str(tmp_path / 'x.npy')!r}, model(np.ones([1, 8, 8, 3], 'float32')))\n")
    _python(code, KERAS_HOME=str(tmp_path))
    expected = create_model("cct_2_3x1_8")(np.ones([1, 8, 8, 3], "float32"))
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), expected, atol=1e-5)


@pytest.mark.skipif(importlib.util.find_spec("jax") is not None, reason="jax is installed")
def test_tensorflow_imported_before_with_a_keras_json_is_too_late_and_says_so(tmp_path):
    (tmp_path / "keras.json").write_text(JSON)
    out = _python("import tensorflow\ntry:\n    import cct_tf; cct_tf.create_model('cct_2_3x1_8')\n"
                  "except cct_tf.errors.UserError as error:\n    print(error)\n", KERAS_HOME=str(tmp_path))
    assert out == ("Keras: expected one that runs on TensorFlow, found an import that fails (No module named 'jax'); "
                   "set KERAS_BACKEND=tensorflow, or import cct_tf before TensorFlow and Keras\n")


def test_keras_imported_before_with_another_backend_is_named(monkeypatch):
    other = types.ModuleType("keras")
    other.config = types.SimpleNamespace(backend=lambda: "jax")
    monkeypatch.setitem(sys.modules, "keras", other)
    with pytest.raises(UserError, match="found it imported with the backend 'jax'; set KERAS_BACKEND=tensorflow"):
        from cct_tf.machine.backend import keras  # noqa: F401


@pytest.mark.parametrize(("before", "after"), [(None, "tensorflow"), ("", "tensorflow"), ("jax", "jax")])
def test_the_backend_is_named_where_nobody_has_named_one(before, after, monkeypatch):
    monkeypatch.delitem(sys.modules, "keras")
    monkeypatch.delenv("KERAS_BACKEND")
    if before is not None:
        monkeypatch.setenv("KERAS_BACKEND", before)
    backend.prefer_tensorflow()
    assert os.environ["KERAS_BACKEND"] == after
