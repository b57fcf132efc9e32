"""A .keras file is read with safe mode on: what would run code of its own is refused in one line."""

import json
import zipfile

import keras
import pytest

import cct_tf
from cct_tf.assembly import keras_file
from cct_tf.errors import UserError

POPEN = {"module": "subprocess", "class_name": "Popen", "config": {"args": ["touch", "ran"]}, "registered_name": None}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "good.keras"
    keras_file.save(cct_tf.create_model("cct_2_3x1_8"), path)
    return path


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def _with_config(good, path, change):
    """The file with another config.json."""
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            target.writestr(name, json.dumps(change(json.loads(data))) if name == "config.json" else data)
    return path


def _refusal(path):
    with pytest.raises(UserError) as caught:
        keras_file.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: expected a .keras file that can be read, found") and "\n" not in message
    return message


def test_a_lambda_layer_is_refused_and_without_safe_mode_would_run(tmp_path):
    keras.Sequential([keras.Input((8,)), keras.layers.Lambda(lambda x: open("ran", "w") and x)]).save("x.keras")
    (tmp_path / "ran").unlink()
    assert "Lambda" in _refusal(tmp_path / "x.keras")
    assert not (tmp_path / "ran").exists()
    keras.models.load_model("x.keras", safe_mode=False)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(("config", "word"), [
    ({"module": "os", "class_name": "system", "config": "touch ran", "registered_name": None}, "system"),
    ({"module": "os", "class_name": "system", "config": {"command": "touch ran"}, "registered_name": "system"},
     "system"),
    ({"module": "builtins", "class_name": "function", "config": "eval", "registered_name": "function"}, "eval"),
    ({"module": "keras.utils", "class_name": "get_file", "config": {"origin": "file:///x"}, "registered_name": None},
     "get_file"),
    ({"module": "keras.layers", "class_name": "TFSMLayer", "config": {"filepath": "x"}, "registered_name": None},
     "TFSMLayer"),
    ({"class_name": "__lambda__", "config": {"value": "4wEAAAA="}}, "lambda"), (POPEN, "Popen"), (None, "NoneType"),
])
def test_a_class_that_is_none_of_ours_is_not_called(config, word, good, tmp_path):
    path = _with_config(good, tmp_path / "x.keras", lambda _: config)
    assert word in _refusal(path)
    assert [path.name for path in tmp_path.iterdir()] == ["x.keras"]


@pytest.mark.parametrize("field", ["dtype", "seed", "name", "num_classes"])
def test_a_call_inside_the_config_of_a_network_is_not_made(field, good, tmp_path):
    def change(config):
        config["config"][field] = POPEN
        return config

    _refusal(_with_config(good, tmp_path / "x.keras", change))
    assert not (tmp_path / "ran").exists()


def test_another_network_is_refused(tmp_path):
    keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)]).save("x.keras")
    with pytest.raises(UserError, match="expected a network of cct_tf, found a Sequential"):
        keras_file.load(tmp_path / "x.keras")
