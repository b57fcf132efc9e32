"""The examples, each on a set made for it."""

import io
import pathlib
import sys
import tarfile

import keras
import numpy as np
import pytest
from PIL import Image

from cct_tf.datasets import registry
from cct_tf.errors import UserError
from cct_tf.settings import flags
from cct_tf.settings.config import DataConfig
from cct_tf.training import loop
from examples import keras_teacher
from tests.commands import call
from tests.training import tiny

EXAMPLES = pathlib.Path(__file__).resolve().parents[1] / "examples"
SPLITS = {"train": 8, "test": 4}


def _encoded(number):
    file = io.BytesIO()
    Image.new("RGB", (20 + number, 16), (20 * number, 0, 0)).save(file, "png")
    return file.getvalue()


ROWS = [{"image": _encoded(number), "label": ("cat", "dog")[number % 2], "split": split}
        for split, count in SPLITS.items() for number in range(count)]


def _huggingface(path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    datasets.DatasetDict({
        split: datasets.Dataset.from_dict(
            {"image": [{"bytes": row["image"], "path": None} for row in ROWS if row["split"] == split],
             "label": [row["label"] for row in ROWS if row["split"] == split]}, features=features)
        for split in SPLITS}).save_to_disk(path)
    return path


def _shards(path):
    pytest.importorskip("webdataset")
    path.mkdir()
    for split in SPLITS:
        with tarfile.open(path / f"{split}-000.tar", "w") as tar:
            for number, row in enumerate(row for row in ROWS if row["split"] == split):
                for kind, contents in (("png", row["image"]), ("cls", row["label"].encode())):
                    info = tarfile.TarInfo(f"{number:04d}.{kind}")
                    info.size = len(contents)
                    tar.addfile(info, io.BytesIO(contents))
    return path


def _parquet(path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    return path


MADE = {"huggingface": _huggingface, "webdataset_shards": _shards, "parquet_images": _parquet}


def test_every_example_is_tested():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*MADE, "convnet", "conv_teacher", "keras_teacher"}


@pytest.mark.parametrize("name", MADE)
def test_an_example_gives_the_images_labels_and_splits(name, tmp_path):
    place = MADE[name](tmp_path / "set")
    opened = registry.open_source(DataConfig(dataset=f"{EXAMPLES}/{name}.py:load", data_dir=str(place)))
    assert opened.class_names == ("cat", "dog") and opened.fingerprint
    for split, count in SPLITS.items():
        found = list(opened.splits[split].images(range(count)))
        assert [image.shape for image, _ in found] == [(16, 20 + number, 3) for number in range(count)]
        assert [int(image[0, 0, 0]) for image, _ in found] == [20 * number for number in range(count)]
        assert [label for _, label in found] == [number % 2 for number in range(count)]


def test_an_example_trains(tmp_path, capfd):
    place = _parquet(tmp_path / "set.parquet")
    status, out, err = call(capfd, "train", f"--dataset={EXAMPLES}/parquet_images.py:load", f"--data_dir={place}",
                            "--model=cct_2_3x1_16", "--mean=0.5", "--std=0.25", "--batch_size=4", "--train_steps=2",
                            "--jit=off",
                            f"--workdir={tmp_path}/run")
    assert status == 0, err
    assert "8 train, 4 test" in out


def test_the_example_of_a_network_trains_and_is_written(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(EXAMPLES.parent)
    network = ["--dataset=digits", "--image_size=8", f"--model={EXAMPLES}/convnet.py:build"]
    status, out, err = call(capfd, "train", *network, "--train_steps=2", "--jit=off", "--batch_size=8",
                            f"--workdir={tmp_path}/run")
    assert status == 0, err
    assert "convnet.py:build, 299,082 parameters" in out
    status, out, err = call(capfd, "export", f"--workdir={tmp_path}/run", "--format=keras", "--check_images=4",
                            f"--output={tmp_path}/net.keras")
    assert status == 0 and "same prediction on 100.00%" in out, err


def test_the_convolutional_teacher_trains_by_its_config_and_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.chdir(EXAMPLES.parent)
    monkeypatch.setattr(loop, "_CHUNK_SECONDS", 0.0)
    chosen = flags.load_config(["--flagfile=examples/cifar10_conv_teacher.cfg"]).as_dict() | {
        "dataset": "digits", "image_size": 16, "batch_size": 8, "train_steps": 2, "eval_batch_size": 400, "jit": "off"}
    del chosen["workdir"]
    training, _ = tiny.Trainer(tmp_path, **chosen).require_equal_after_stop(tmp_path, 1)
    assert sum(weight.shape.num_elements() for weight in training.network.model.weights) == 1_160_984
    optimizer = training.network.optimizer
    by_adam = {optimizer._trainable_variables[index].path.partition("/")[2]
               for index, velocity in enumerate(optimizer.adam_velocities) if velocity is not None}
    assert len(optimizer._trainable_variables) - len(by_adam) == 6  # kernels of the six convolutions are Muon's
    assert {path for path in by_adam if path.endswith("/kernel")} == {"conv_teacher/head/kernel"}


def test_the_teacher_trained_by_keras_learns_and_is_written(tmp_path, monkeypatch, capfd):
    draws = np.random.default_rng(0)
    labels = draws.integers(0, 2, 220)
    images = draws.integers(0, 200, (220, 32, 32, 3)) + 55 * labels[:, None, None, None]  # the second class is brighter
    images = images.astype(np.uint8)
    np.savez(tmp_path / "set.npz", x_train=images[:180], y_train=labels[:180], x_test=images[180:], y_test=labels[180:])
    monkeypatch.setattr(keras_teacher, "BATCH", 32)
    monkeypatch.setattr(keras_teacher, "PARTS", 2)
    monkeypatch.setattr(sys, "argv", ["keras_teacher", "--dataset=npz", f"--data_dir={tmp_path}/set.npz", "--epochs=4",
                                      "--widths", "8", "12", "16", f"--output={tmp_path}/new/teacher.keras"])
    keras_teacher.main()
    out = capfd.readouterr().out
    assert "epoch 4/4: 100.00% of the validation images" in out and "100.00% of the test images" in out
    model = keras.models.load_model(tmp_path / "new/teacher.keras", compile=False)
    inputs = (images[180:] / np.float32(255) - keras_teacher.MEAN) / keras_teacher.DEVIATION
    assert np.array_equal(model.predict_on_batch(inputs).argmax(axis=1), labels[180:])


@pytest.mark.parametrize(("row", "expected"), [
    ({"image": "text", "label": "cat"}, "row 3: expected the bytes of an image, found str"),
    ({"image": b"x", "label": 1.5}, "row 3: expected a label, text or a whole number, found float"),
    ({"image": b"x", "label": "cat", "split": "dev"}, "row 3: expected the split train, validation or test"),
    ({"image": b"no image", "label": "cat"}, "broken image: row 3 of "),
])
def test_a_wrong_row_is_named(tmp_path, row, expected):
    (tmp_path / "mine.py").write_text(f"def load(d):\n    rows = {[*ROWS[:2], row]!r}\n    return iter(rows)\n")
    with pytest.raises(UserError) as caught:
        registry.open_source(DataConfig(dataset=f"{tmp_path}/mine.py:load", validation_fraction=0.5))
    assert expected in str(caught.value)
