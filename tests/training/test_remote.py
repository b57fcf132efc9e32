"""Data elsewhere: the same losses as of a copy on this machine, whatever holds the images, and whatever reads them."""

import collections
import contextlib
import dataclasses
import errno

import numpy as np
import pytest
import tensorflow as tf
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from cct_tf import tabulate
from cct_tf.assembly import inputs
from cct_tf.datasets import registry
from cct_tf.errors import UserError, exit_status
from cct_tf.images import decode
from cct_tf.machine import files
from cct_tf.machine.console import Console
from cct_tf.training import preparation
from tests.training import tiny

ON_DISK = 1e-9  # GiB: nothing is held
RUN = {"batch_size": 4, "train_steps": 6, "eval_every_steps": 3, "crop_padding": 1, "image_size": 12, "mean": (0.5,),
       "std": (0.3,), "validation_fraction": 0.25, "in_memory_gib": ON_DISK, "eval_batch_size": 8}


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A folder with images/, its table.csv, and an archive of others, x.npz."""
    root, drawn = tmp_path_factory.mktemp("local"), np.random.default_rng(0)
    for index in range(24):
        path = root / "images" / ("train", "test")[index >= 16] / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.integers(0, 256, [12, 12, 3], np.uint8)).save(path)
    with open(root / "table.csv", "w") as file, contextlib.redirect_stdout(file):
        tabulate.main({"folder": [str(root / "images")]})
    pixels = drawn.integers(0, 256, [24, 12, 12, 3], np.uint8)
    labels = np.arange(24) % 2
    np.savez(root / "x.npz", x_train=pixels[:16], y_train=labels[:16], x_test=pixels[16:], y_test=labels[16:])
    return str(root)


@pytest.fixture(scope="module")
def places(local):
    """The same elsewhere: dict of roots by scheme."""
    found = {scheme: f"{scheme}://data" for scheme in ("ram", "memory")}
    for root in found.values():
        files.send(local, root)
    return found


@pytest.fixture(scope="module")
def trained(local, tmp_path_factory):
    """Function of config fields that trains on them with a step that is compiled once: records of the run."""
    trainer = tiny.Trainer(tmp_path_factory.mktemp("trainer"), dataset="folder", data_dir=f"{local}/images", **RUN)
    made = {}

    def train(**data):
        key = tuple(data.items())
        if key not in made:
            workdir = tmp_path_factory.mktemp("run")
            config = tiny.settings(workdir, **RUN | data)
            images = inputs.open_images(config, Console(quiet=True))
            found = preparation._make_data(config, images, Console(quiet=True))
            trainer._prepared = dataclasses.replace(trainer._prepared, data=found)
            trainer.train(workdir, **data)
            made[key] = tiny.records(workdir)
        return made[key]

    return train


def _folder(root):
    return {"dataset": "folder", "data_dir": f"{root}/images"}


def _table(root):
    return {"dataset": "table", "data_dir": f"{root}/table.csv", "image_root": f"{root}/images"}


def _npz(root):
    return {"dataset": "npz", "data_dir": f"{root}/x.npz", "in_memory_gib": 1.0}


@pytest.mark.parametrize(("scheme", "elsewhere", "here"), [("ram", _folder, _folder), ("memory", _table, _folder),
                                                           ("ram", _npz, _npz)])
def test_a_run_on_data_elsewhere_has_the_losses_of_a_local_one(trained, local, places, scheme, elsewhere, here):
    found, expected = trained(**elsewhere(places[scheme])), trained(**here(local))
    assert found == expected and len([each for each in found if "train/loss" in each]) == 6
    assert {"eval/loss", "test/loss"} <= {name for each in found for name in each}


def _pixels(source):
    return {name: [(image.tobytes(), int(label)) for image, label in split.images(range(split.num_examples))]
            for name, split in source.splits.items()}


@pytest.mark.parametrize("scheme", ["ram", "memory"])
@pytest.mark.parametrize("gib", [ON_DISK, 8.0])
def test_images_and_fingerprint_are_those_of_the_local_copy(local, places, scheme, gib, tmp_path):
    config = tiny.settings(tmp_path, **RUN | {"in_memory_gib": gib} | _folder(local)).data
    expected = registry.open_source(config)
    for data in (_folder(places[scheme]), _table(places[scheme]),
                 _table(local) | {"image_root": f"{places[scheme]}/images"}):
        found = registry.open_source(dataclasses.replace(config, **data))
        assert _pixels(found) == _pixels(expected) and found.fingerprint == expected.fingerprint
        if gib == ON_DISK:
            assert found.splits["train"].reader.describe().endswith(f"from {scheme}://")


def test_a_file_that_is_held_is_fetched_once(local, tmp_path, monkeypatch):
    files.send(f"{local}/images", "memory://once")
    for number in range(2):  # the others are not of one size
        Image.new("RGB", (9 + number, 8)).save(tmp_path / "odd.png")
        files.send(str(tmp_path / "odd.png"), f"memory://once/test/a/odd{number}.png")
    fetched, read = collections.Counter(), MemoryFileSystem.cat_file

    def counted(self, path, *part):
        fetched[path.rpartition("/")[2]] += 1
        return read(self, path, *part)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", counted)
    config = tiny.settings(tmp_path, **RUN | {"in_memory_gib": 8.0}, dataset="folder", data_dir="memory://once").data
    reader = registry.open_source(config).splits["train"].reader
    assert len(fetched) == 26 and set(fetched.values()) == {1}
    assert len(list(reader.images(range(len(reader))))) == len(reader) and set(fetched.values()) == {1}


def test_a_table_may_name_addresses(places, local, tmp_path):
    header, *rows = open(f"{local}/table.csv").read().splitlines()
    MemoryFileSystem().pipe("/addresses.csv", "\n".join(
        [header] + [f"{places['ram']}/images/{row}" for row in rows]).encode())
    config = tiny.settings(tmp_path, **RUN | {"dataset": "table", "data_dir": "memory://addresses.csv"}).data
    found, expected = (_pixels(registry.open_source(each))
                       for each in (config, dataclasses.replace(config, **_table(local))))
    assert sorted(sum(found.values(), [])) == sorted(sum(expected.values(), []))  # others are held out: by their paths


@pytest.mark.parametrize(("data_dir", "start"), [
    ("{memory}/images", "train/"), ("{memory}/images", "{data_dir}/train/"), ("other://set", "{memory}/images/train/"),
    ("other://set", "{local}/images/train/")])
def test_own_code_may_return_addresses(places, local, tmp_path, data_dir, start):
    where = {"memory": places["memory"], "local": local}
    data_dir = data_dir.format(**where)
    (tmp_path / "mine.py").write_text(f'''
def load(data_dir):
    assert data_dir == {data_dir!r}
    names = [f"{start.format(data_dir=data_dir, **where)}{{'ab'[number % 2]}}/{{number}}.png" for number in range(16)]
    return {{"path": names, "label": ["ab"[number % 2] for number in range(16)]}}
''')
    config = tiny.settings(tmp_path, **RUN, dataset=f"{tmp_path}/mine.py:load", data_dir=data_dir).data
    registry.check_name(config)
    found = _pixels(registry.open_source(config))
    expected = _pixels(registry.open_source(tiny.settings(tmp_path, **RUN | _folder(local)).data))
    assert sorted(found["train"] + found["validation"]) == sorted(expected["train"] + expected["validation"])


def test_a_broken_image_elsewhere_is_named(local, tmp_path):
    files.send(f"{local}/images", "memory://broken")
    files.send(__file__, "memory://broken/train/a/0.png")
    config = tiny.settings(tmp_path, **RUN, dataset="folder", data_dir="memory://broken").data
    with pytest.raises(decode.BrokenImage, match="image: memory://broken/train/a/0.png: expected an image, found text"):
        registry.open_source(config)


def test_images_of_one_table_lie_in_one_kind_of_place(places, local, tmp_path):
    MemoryFileSystem().pipe("/mixed.csv", f"path,label\nram://data/a.png,a\n{local}/images/b.png,b\n".encode())
    fields = RUN | {"dataset": "table", "data_dir": "memory://mixed.csv"}
    with pytest.raises(UserError, match=f"row 3: expected an image of ram://, as others of the table, found {local}"):
        registry.check_name(tiny.settings(tmp_path, **fields).data)


def test_what_was_found_good_is_noted_where_files_have_times(local, tmp_path):
    for place in ("memory", "ram"):
        files.send(f"{local}/images", f"{place}://noted")
        config = tiny.settings(tmp_path, **RUN, dataset="folder", data_dir=f"{place}://noted").data
        registry.open_source(config, cache=tmp_path / place)
    assert list((tmp_path / "memory").iterdir()) and not (tmp_path / "ram").exists()


def test_prepared_sets_of_tfds_have_to_be_here(tmp_path):
    with pytest.raises(UserError, match="--data_dir: expected a folder of this machine for sets of TFDS, .* mount"):
        registry.check_name(tiny.settings(tmp_path, dataset="mnist", data_dir="gs://bucket/tfds").data)


@pytest.mark.parametrize("on_bad_image", ["stop", "skip"])
def test_a_store_that_goes_away_in_mid_run_is_no_word_on_the_images(local, tmp_path, monkeypatch, on_bad_image):
    files.send(f"{local}/images", "memory://going")
    fields = RUN | {"dataset": "folder", "data_dir": "memory://going", "on_bad_image": on_bad_image}
    config = tiny.settings(tmp_path, **fields)
    images = inputs.open_images(config, Console(quiet=True))
    reader = images.source.splits["train"].reader
    data = tf.data.Dataset.range(2).map(lambda place: reader.load({"index": place})[0])

    def gone(*_, **__):
        raise ConnectionResetError(errno.ECONNRESET, "reset")

    assert len(list(data)) == 2
    monkeypatch.setattr(MemoryFileSystem, "cat_file", gone)
    with pytest.raises(tf.errors.OpError) as raised:
        list(data)
    status, line = exit_status(raised.value)
    assert (status, decode.broken_image(raised.value)) == (75, None)
    assert line.startswith("memory://going/train/a/") and "Input/output error" in line
    with pytest.raises(OSError, match="reset"):
        registry.open_source(config.data)
