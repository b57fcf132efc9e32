"""The command export, and predict on what it wrote: the same probabilities as the network's, or no file.

Tests of ONNX and LiteRT are skipped, and say so, where launch/requirements-export.txt is not installed.
"""

import dataclasses
import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import types
import zipfile

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from cct_tf.assembly import checks
from cct_tf.datasets import registry
from cct_tf.errors import OutsideFault, UserError
from cct_tf.export import __main__ as command
from cct_tf.export import formats, isolated, network, running, samples, writing
from cct_tf.images import decode
from cct_tf.machine import files
from cct_tf.machine.console import Console
from cct_tf.runs import run_record
from tests import commands
from tests.training import tiny

OUTPUTS = {"saved_model": "saved/1", "keras": "x.keras", "litert": "x.tflite", "onnx": "x.onnx"}


def _needs(name):
    missing = [each for each in formats.FORMATS[name].writes_with if formats.importlib.util.find_spec(each) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def _marked(*names):
    return [pytest.param(name, marks=_needs(name)) for name in names]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(work folder, Training) of a tiny run on digits that has learned something."""
    workdir = tmp_path_factory.mktemp("run")
    return workdir, tiny.train(workdir, train_steps=200, batch_size=32, eval_every_steps=200, learning_rate=2e-3,
                               flip="none", crop_padding=0, log_every_steps=50)


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """Function of a format that gives (path, what --json said); each is made once."""
    folder, made = tmp_path_factory.mktemp("exported"), {}

    def export(name):
        if name not in made:
            path, log = folder / OUTPUTS[name], folder / f"{name}.json"
            with pytest.MonkeyPatch.context() as patch, open(log, "w") as stdout:
                patch.setattr(sys, "stdout", stdout)
                assert commands.run("export", f"--workdir={trained[0]}", f"--format={name}", f"--output={path}",
                                    "--json", "--check_images=400") == 0
            made[name] = path, json.loads(log.read_text())
            assert not [each for each in path.parent.iterdir() if each.name.startswith(".")]
        return made[name]

    return export


@pytest.fixture(scope="module")
def images(trained):
    """(uint8 [n, 8, 8, 3] test images, probabilities of the trained network by formula, labels)."""
    training = trained[1]
    split = training.images.source.splits["test"]
    pixels = split.reader.tensor.numpy()[split.reader.indices]
    normalised = (pixels / 255.0 - training.images.mean) / training.images.std
    return pixels, _softmax(training.network.model(normalised)), split.labels


def _softmax(logits):
    values = np.exp(logits.numpy().astype(np.float64))
    return values / values.sum(axis=1, keepdims=True)


def _photos(folder, images):
    """Image files of three sizes, one of them wide."""
    for index, size in enumerate([(8, 8), (30, 20), (11, 24)]):
        Image.fromarray(images[0][index]).resize(size, Image.BICUBIC).save(folder / f"{index}.png")
    return folder


def _predicted(capfd, *argv):
    status, out, err = commands.call(capfd, "predict", *argv, "--json", "--top=10")
    assert (status, err) == (0, "")
    rows = json.loads(out)["images"]
    return np.array([[share for _, share in sorted((each["class"], each["probability"]) for each in
                                                   row["predictions"])] for row in rows])


@pytest.mark.parametrize("name", _marked(*OUTPUTS))
def test_an_export_gives_the_networks_probabilities(name, exported, images):
    path, found = exported(name)
    pixels, expected, labels = images
    assert found["compared_on"] == "359 test images" and found["largest_difference"] <= formats.FORMATS[name].tolerance
    assert found["accuracy_of_export"] == found["accuracy_of_network"] == (expected.argmax(1) == labels).mean()
    files = [path, *path.rglob("*")]
    assert found["bytes"] == sum(each.stat().st_size for each in files if each.is_file())
    if name == "keras":
        return  # test_predict_runs_exports has it
    run = running.RUNNERS[name](str(path))
    for batch in (1, 2, 359, 5):
        np.testing.assert_allclose(run(list(pixels[:batch]))["probabilities"], expected[:batch],
                                   atol=formats.FORMATS[name].tolerance)


@pytest.mark.parametrize("name", _marked(*OUTPUTS))
def test_predict_runs_exports(name, exported, trained, images, tmp_path, capfd):
    photos = _photos(tmp_path, images)
    expected = _predicted(capfd, f"--workdir={trained[0]}", photos)
    found = _predicted(capfd, f"--exported={exported(name)[0]}", photos, "--batch_size=2")
    np.testing.assert_allclose(found, expected, atol=formats.FORMATS[name].tolerance)


def test_exports_go_elsewhere_and_predict_from_there(exported, trained, images, tmp_path, capfd):
    photos = _photos(tmp_path, images)
    files.send(str(photos), "ram://photos")
    expected = _predicted(capfd, f"--workdir={trained[0]}", photos)
    status, out, err = commands.call(capfd, "export", f"--workdir={trained[0]}", "--format=keras",
                                     "--output=memory://exports/x.keras", "--check_images=20")
    assert (status, err) == (0, "") and "wrote memory://exports/x.keras: " in out
    assert files.names("memory://exports") == ["x.keras"]
    with command._output("ram://exports/saved", Console(quiet=True)) as path:
        shutil.copytree(exported("saved_model")[0], path)
    for place, named in (("memory://exports/x.keras", "ram://photos"), ("ram://exports/saved", "ram://photos/*.png")):
        np.testing.assert_allclose(_predicted(capfd, f"--exported={place}", named), expected, atol=1e-5)
    with pytest.raises(UserError, match="--output: expected a new or empty folder, found something at 'ram://exports"):
        checks.check_new_folder("--output", "ram://exports/saved")


def test_a_copy_elsewhere_that_fails_is_a_line(monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "the bucket is gone")

    monkeypatch.setattr(files, "_put", fail)
    with pytest.raises(OutsideFault, match="--output: copying to ram://gone.onnx failed .*the bucket is gone"):
        with command._output("ram://gone.onnx", Console(quiet=True)) as path:
            open(path, "w").close()
    assert not files.exists("ram://gone.onnx") and not os.path.exists(path)


def test_a_saved_model_prepares_images_of_any_size(exported, trained, images, tmp_path, capfd):
    loaded = tf.saved_model.load(str(exported("saved_model")[0]))
    serve = loaded.signatures["serving_default"]
    photos = _photos(tmp_path, images)
    expected = _predicted(capfd, f"--workdir={trained[0]}", photos)
    for row, path in zip(expected, sorted(photos.glob("*.png")), strict=True):
        found = serve(images=tf.constant(np.stack([np.asarray(Image.open(path))] * 3)))
        np.testing.assert_allclose(found["probabilities"], [row] * 3, atol=1e-5)
        assert found["classes"].numpy().tolist() == [[b"%d" % digit for digit in range(10)]] * 3
        assert found["label"].numpy().tolist() == [b"%d" % row.argmax()] * 3


_ALONE = """
import pickle, runpy, sys
sys.modules["cct_tf"] = None  # importing it is an error
runners = runpy.run_path(sys.argv[1])["RUNNERS"]
pixels, paths = pickle.load(sys.stdin.buffer)
found = {name: runners[name](path)(pixels)["probabilities"] for name, path in paths.items()}
with open(sys.argv[2], "wb") as file:
    pickle.dump(found, file)
"""


@_needs("litert")
@_needs("onnx")
def test_exports_need_no_cct_tf(exported, images, tmp_path):
    paths = {name: str(exported(name)[0]) for name in ("saved_model", "litert", "onnx")}
    run = subprocess.run([sys.executable, "-I", "-c", _ALONE, running.__file__, tmp_path / "found"], cwd=tmp_path,
                         input=pickle.dumps((list(images[0][:7]), paths)), capture_output=True)
    assert run.returncode == 0, run.stderr.decode()
    found = pickle.loads((tmp_path / "found").read_bytes())
    for name in paths:
        np.testing.assert_allclose(found[name], images[1][:7], atol=formats.FORMATS[name].tolerance, err_msg=name)


@_needs("litert")
def test_labels_lie_in_the_tflite_file(exported):
    with zipfile.ZipFile(exported("litert")[0]) as archive:
        assert archive.read("labels.txt").decode().split() == [str(digit) for digit in range(10)]


@_needs("onnx")
def test_classes_lie_in_the_onnx_file(exported):
    import onnx
    model = onnx.load(exported("onnx")[0])
    properties = {each.key: each.value for each in model.metadata_props}
    assert json.loads(properties["classes"]) == [str(digit) for digit in range(10)]
    assert [each.type.tensor_type.shape.dim[0].dim_param for each in (*model.graph.input, *model.graph.output)] == [
        "batch", "batch"]


@_needs("litert")
def test_int8_costs_at_most_a_point(trained, exported, images, tmp_path, capfd):
    output = tmp_path / "x.tflite"
    status, out, _ = commands.call(capfd, "export", f"--workdir={trained[0]}", "--format=litert", "--quantize=int8",
                                   f"--output={output}", "--json", "--calibration_images=100")
    assert status == 0
    pixels, expected, labels = images
    probabilities = running.LiteRt(str(output))(list(pixels))["probabilities"]
    found, ours = (probabilities.argmax(1) == labels).mean(), (expected.argmax(1) == labels).mean()
    assert ours > 0.7 and found >= ours - 0.01
    assert json.loads(out)["accuracy_of_export"] == found
    assert output.stat().st_size < 0.5 * exported("litert")[0].stat().st_size
    assert np.abs(probabilities - expected).max() > 1e-4  # or nothing was rounded to 8 bits


@_needs("onnx")
def test_a_bfloat16_run_is_exported_in_float32(trained, images, tmp_path, capfd):
    shutil.copytree(trained[0] / "best", tmp_path / "run/best")
    checkpoint, = (tmp_path / "run/best").iterdir()
    record = run_record.read_record(checkpoint)
    run_record.write_record(checkpoint, dataclasses.replace(record, config=record.config | {"precision": "bfloat16"}))
    status, out, _ = commands.call(capfd, "export", f"--workdir={tmp_path}/run", "--format=onnx",
                                   f"--output={tmp_path}/x.onnx", "--json", "--check_images=20")
    assert status == 0 and json.loads(out)["largest_difference"] < 1e-5
    found = running.Onnx(str(tmp_path / "x.onnx"))(list(images[0][:9]))["probabilities"]
    np.testing.assert_allclose(found, images[1][:9], atol=1e-5)


_OF_PREPARED = network.of_prepared_images


def _spoilt(spoil):
    """`network.of_prepared_images` with a function of the images and the probabilities behind it."""
    def of_prepared_images(model, metadata):
        right = _OF_PREPARED(model, metadata)

        def spoilt(images):
            shares = spoil(images, right(images)["probabilities"])
            return {"probabilities": tf.identity(shares, name="probabilities")}

        return network._traced(spoilt, metadata.image_size, metadata.pixel_type)

    return of_prepared_images


@pytest.mark.parametrize(("name", "flags", "spoil", "words"), [
    pytest.param("litert", [], lambda images, shares: shares * np.nan, ["within 0.0001", "found nan"], id="NaN"),
    pytest.param("litert", [], lambda images, shares: shares * 0.0, ["within 0.0001", "20 test images"], id="zeros"),
    pytest.param("litert", ["--quantize=int8"], lambda images, shares: shares[:, ::-1], ["--quantize=int8", "1 point"],
                 id="int8 of another class"),
    pytest.param("onnx", [], lambda images, shares: shares + tf.math.igamma(shares, shares), ["can't", "Igamma"],
                 id="an operation that ONNX has not"),
    pytest.param("onnx", [], lambda images, shares: shares[:1], ["can't", "[1, 10]"], id="one row alone"),
])
def test_a_broken_conversion_leaves_nothing(name, flags, spoil, words, trained, tmp_path, capfd, monkeypatch):
    for package in formats.FORMATS[name].writes_with:
        pytest.importorskip(package)
    monkeypatch.setattr(network, "of_prepared_images", _spoilt(spoil))
    output = tmp_path / OUTPUTS[name]
    before = [tmp_path]
    if output.suffix:
        output.write_text("what was there")
        before.append(output)
    status, _, err = commands.call(capfd, "export", f"--workdir={trained[0]}", f"--format={name}",
                                   f"--output={output}", "--check_images=20", *flags)
    assert status == 2 and err.startswith("error: --") and err.count("\n") == 1, err
    assert "nothing was written" in err and all(word in err for word in words), err
    assert [each for each in tmp_path.rglob("*") if not each.is_dir()] == before[1:]
    assert not output.suffix or output.read_text() == "what was there"


def test_a_process_that_ends_is_a_line(tmp_path, monkeypatch):
    script = tmp_path / "running.py"
    script.write_text("import os, sys\nprint('what is wrong', file=sys.stderr, flush=True)\nos.abort()\n")
    monkeypatch.setattr(running, "__file__", str(script))
    with isolated.IsolatedRunner(formats.FORMATS["litert"], tmp_path / "x.tflite") as run:
        with pytest.raises(isolated.Broken, match="ended by SIGABRT: what is wrong"):
            run([np.zeros([8, 8, 3], np.uint8)])


def test_packages_of_pythonpath_are_found_and_cct_tf_is_not(tmp_path, monkeypatch):
    (tmp_path / "onnxruntime.py").write_text("try:\n    import cct_tf\nexcept ImportError:\n"
                                             "    raise SystemExit('the one of PYTHONPATH')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    with isolated.IsolatedRunner(formats.FORMATS["onnx"], tmp_path / "x.onnx") as run:
        with pytest.raises(isolated.Broken, match="the one of PYTHONPATH"):
            run([np.zeros([8, 8, 3], np.uint8)])


def _signal(output):
    os.kill(os.getpid(), signal.SIGTERM)


def _hang_up(output):
    os.kill(os.getpid(), signal.SIGHUP)


def _fill(output):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _vanish(output):
    shutil.rmtree(output.parent)
    output.open()


@pytest.mark.parametrize(("befall", "status", "word"), [(_signal, 143, "SIGTERM"), (_hang_up, 129, "SIGHUP"),
                                                        (_fill, 75, "No space"), (_vanish, 75, "is gone")])
def test_what_befalls_an_export_is_a_line_and_leaves_nothing(befall, status, word, tmp_path):
    handler, output = signal.getsignal(signal.SIGTERM), tmp_path / "new/x.onnx"
    with pytest.raises(BaseException, match=f"{word}.*nothing was written") as raised, writing._hidden(output) as path:
        path.write_text("half of it")
        befall(output)
    assert raised.value.exit_status == status and signal.getsignal(signal.SIGTERM) == handler
    assert not [each for each in tmp_path.rglob("*") if not each.is_dir()]


def test_an_empty_folder_stays_and_is_filled(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")  # stands for another file system too, whose root can't be removed either
    with writing._hidden(tmp_path / "link") as path:
        (path / "variables").mkdir(parents=True)
        for name in ("saved_model.pb", "variables/index"):
            (path / name).write_text(name)
        assert path.parent == tmp_path / "link"
        writing._rename(path, tmp_path / "link")
    found = [str(each.relative_to(tmp_path / "folder")) for each in (tmp_path / "folder").rglob("*")]
    assert sorted(found) == ["saved_model.pb", "variables", "variables/index"] and (tmp_path / "link").is_symlink()
    with pytest.raises(UserError, match="--output: .* since"), writing._hidden(tmp_path / "folder") as path:
        writing._rename(path, tmp_path / "folder")  # another export was quicker


@pytest.mark.parametrize(("changes", "words"), [({"classes": ["0"]}, ["[1, 10] for 1 classes"]),
                                                ({"image_size": 9}, ["can be run"]), ({"mean": ["0"]}, ["description"]),
                                                ({"mean": [0.5, 0.5], "std": [0.5, 0.5]}, ["description"])])
@_needs("onnx")
def test_an_export_that_does_not_fit_its_description_is_a_line(changes, words, exported, images, tmp_path, capfd):
    import onnx
    model = onnx.load(exported("onnx")[0])
    said, = (each for each in model.metadata_props if each.key == "cct_tf")
    said.value = json.dumps(json.loads(said.value) | changes)
    onnx.save(model, tmp_path / "x.onnx")
    status, _, err = commands.call(capfd, "predict", f"--exported={tmp_path}/x.onnx", _photos(tmp_path, images))
    assert status == 2 and all(word in commands.only_line(err) for word in ["--exported: ", *words])


def test_photographs_go_through_a_saved_model_one_by_one():
    shapes = []

    def serve(images):
        shapes.append(images.shape)
        return {"probabilities": tf.zeros([images.shape[0], 2])}

    run = object.__new__(running.SavedModel)
    run._tf, run._loaded = tf, types.SimpleNamespace(signatures={"serving_default": serve})
    for side, batches in ((8, [(3, 8, 8, 3)]), (2000, [(1, 2000, 2000, 3)] * 3)):
        assert run([np.zeros([side, side, 3], np.uint8)] * 3)["probabilities"].shape == (3, 2)
        assert shapes == batches
        shapes.clear()


def test_a_broken_image_is_not_blamed_on_the_export(trained, images, tmp_path, capfd, monkeypatch):
    def broken(self):
        raise decode.BrokenImage("broken image: x.png: expected an image")
        yield

    monkeypatch.setattr(samples._Read, "__iter__", broken)
    status, _, err = commands.call(capfd, "export", f"--workdir={trained[0]}", "--format=keras",
                                   f"--output={tmp_path}/x.keras")
    assert status == 2 and commands.only_line(err) == "error: broken image: x.png: expected an image\n"
    assert os.listdir(tmp_path) == []


def test_images_stand_in_for_the_data_set(trained, images, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(registry, "open_source", None)
    (_photos(tmp_path, images) / "broken.png").write_text("none")
    status, out, err = commands.call(capfd, "export", f"--workdir={trained[0]}", "--format=keras",
                                     f"--output={tmp_path}/x.keras", tmp_path)
    assert status == 0 and "3 images compared: largest difference" in out and "accuracy" not in out
    assert err.startswith("warning: broken image: ") and err.count("\n") == 1


def test_without_data_set_and_images_the_line_says_what_helps(trained, tmp_path, capfd, monkeypatch):
    def missing(*_):
        raise UserError("--data_dir: expected a folder, found none")

    monkeypatch.setattr(registry, "open_source", missing)
    status, _, err = commands.call(capfd, "export", f"--workdir={trained[0]}", "--format=keras",
                                   f"--output={tmp_path}/x.keras")
    assert status == 2 and "--data_dir: expected" in err and "IMAGE|FOLDER|PATTERN" in err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["onnx", "litert"])
def test_a_missing_package_is_a_line_before_tensorflow_starts(name, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None)
    status, _, err = commands.call(capfd, "export", "--workdir=none", f"--format={name}",
                                   f"--output={tmp_path}/{OUTPUTS[name]}")
    assert status == 2 and formats.FORMATS[name].writes_with[0] in commands.only_line(err) and "cct-tf[export]" in err
