"""TFDS sets prepared as ArrayRecord: the images of the same set as TFRecord, found by index."""

import pathlib
import shutil
import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from cct_tf import readers
from cct_tf.augment.transform import Transform
from cct_tf.data import pipeline, statistics
from cct_tf.datasets import registry
from cct_tf.errors import UserError
from cct_tf.images import decode
from cct_tf.settings.config import DataConfig
from tests.datasets import test_tfds
from tests.datasets.test_tfds import NUM_CLASSES, NUM_TRAIN, TinyArchive

pytest.importorskip("array_record", reason="TFDS brings it along on Linux")
from cct_tf.readers import array_records  # noqa: E402

STATISTICS = ((0.5,) * 3, (0.25,) * 3)
BATCH = 8
# The records end with the label, and that of class 0 is a zero byte.
FEATURES = {"image": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
            "label": tfds.features.ClassLabel(names=["ant", "bee", "cow", "dog"])}


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """{format: a TFDS folder with the sets `grey` (one size) and `mixed`}, of the same records."""
    found = {}
    train, test = [test_tfds._example(i) for i in range(NUM_TRAIN)], [test_tfds._example(200 + i) for i in range(11)]
    widened = [(np.pad(image, [(0, i % 2), (0, 0), (0, 0)]), label) for i, (image, label) in enumerate(train)]
    for name in ("tfrecord", "array_record"):
        root = tmp_path_factory.mktemp(name)
        test_tfds._write(root, "grey", (6, 5, 1), {"train": train, "test": test}, file_format=name)
        test_tfds._write(root, "mixed", (None, None, 1), {"train": widened, "test": test},
                         tfds.features.FeaturesDict(FEATURES), name)
        found[name] = str(root)
    return found


def _open(root, name, **fields):
    return registry.open_source(DataConfig(dataset=name, data_dir=root, **fields))


def _on_disk(root, name="mixed", **fields):
    return _open(root, name, in_memory_gib=0.0, **fields)


def _batches(opened, start, number, share=(0, 1)):
    stages = Transform(4, *STATISTICS, flip="random").training_stages(NUM_CLASSES)
    return list(pipeline.train_batches(opened.splits["train"], stages, pipeline.Sampling(3, BATCH), start, number,
                                       share).as_numpy_iterator())


def _evaluated(opened, split):
    stages = Transform(4, *STATISTICS).evaluation_stages(NUM_CLASSES)
    return list(pipeline.evaluation_batches(opened.splits[split], stages, batch_size=BATCH).as_numpy_iterator())


def _assert_equal(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert set(one) == set(other)
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize("name", ["grey", "mixed"])
def test_a_set_that_is_held_is_the_same_in_both_formats(roots, name):
    ours, theirs = (_open(roots[kind], name, validation_fraction=0.2) for kind in ("array_record", "tfrecord"))
    assert ours.fingerprint == theirs.fingerprint
    for split in ("train", "validation", "test"):
        assert ours.splits[split].labels.tolist() == theirs.splits[split].labels.tolist()
        places = range(ours.splits[split].num_examples)
        for one, other in zip(*(opened.splits[split].images(places) for opened in (ours, theirs)), strict=True):
            assert np.array_equal(one[0], other[0]) and one[1] == other[1]


def test_read_by_index_it_trains_and_evaluates_on_the_batches_of_the_held_set(roots):
    ours, held = _on_disk(roots["array_record"]), _open(roots["tfrecord"], "mixed")
    assert ours.order == "indexed" and "ArrayRecord" in ours.splits["train"].reader.describe()
    whole = _batches(ours, 0, 30)  # more than two epochs
    _assert_equal(whole, _batches(held, 0, 30))
    _assert_equal(_evaluated(ours, "test"), _evaluated(held, "test"))
    for start in (5, 13):  # within an epoch, and in the next
        _assert_equal(_batches(ours, start, 30 - start), whole[start:])
    halves = [_batches(ours, 4, 3, (worker, 2)) for worker in range(2)]
    _assert_equal([{name: np.concatenate([one[name], other[name]]) for name in one}
                   for one, other in zip(*halves, strict=True)], whole[4:7])


def test_a_worker_reads_its_own_records_and_a_resume_none_of_those_before(roots, monkeypatch):
    opened, read = _on_disk(roots["array_record"]), []
    reader, read_before = opened.splits["train"].reader, array_records.ArrayRecords._record
    assert reader.most_pixels  # of a few images, which it reads once
    monkeypatch.setattr(array_records.ArrayRecords, "_record",
                        lambda self, place: read.append(place) or read_before(self, place))
    _batches(opened, 20, 2, (1, 2))
    index = [batch["index"][BATCH // 2:] for batch in reader.order(3, BATCH, 20, 2).as_numpy_iterator()]
    assert sorted(read) == sorted(np.concatenate(index))


def test_its_mean_is_that_of_the_held_set(roots):
    ours, held = _on_disk(roots["array_record"]), _open(roots["tfrecord"], "mixed")
    np.testing.assert_allclose(*(statistics.channel_statistics(opened.splits["train"]) for opened in (ours, held)),
                               rtol=1e-6)


def test_the_validation_split_is_the_tail_and_a_slice_knows_its_records(roots):
    opened = _on_disk(roots["array_record"], train_split="train[30:]", test_split="train[:30]", validation_fraction=0.2)
    assert "unstratified" in opened.notes[0]
    seen = [(split, int(image[0, 0, 0]), label) for split in ("test", "train", "validation")
            for image, label in opened.splits[split].images(range(opened.splits[split].num_examples))]
    assert [first for _, first, _ in seen] == list(range(NUM_TRAIN))
    assert [label for _, _, label in seen] == [test_tfds._example(i)[1] for i in range(NUM_TRAIN)]
    assert [split for split, _, _ in seen] == ["test"] * 30 + ["train"] * 58 + ["validation"] * 15
    origins = [opened.splits["train"].reader.origin(place) for place in (0, 57)]  # shards of 21, 21, 21, 20, 20
    assert [pathlib.Path(origin).name for origin in origins] == [
        "mixed-train.array_record-00001-of-00005 (record 9)", "mixed-train.array_record-00004-of-00005 (record 4)"]
    assert opened.fingerprint != _on_disk(roots["array_record"], train_split="train[30:]",
                                          test_split="train[:30]").fingerprint


def test_many_shards_are_not_all_kept_open(roots, monkeypatch):
    monkeypatch.setattr(array_records, "_MOST_OPEN", 2)
    reader = _on_disk(roots["array_record"]).splits["train"].reader
    for place in range(0, NUM_TRAIN, 10):
        assert reader.load({"index": tf.constant(place)})[0][0, 0, 0] == place
    assert reader._open.cache_info().currsize == 2


def _damaged(roots, folder, change):
    """A copy of the set `mixed` with one shard of training images changed: (root, shard)."""
    shutil.copytree(pathlib.Path(roots["array_record"]) / "mixed", folder / "mixed")
    shard = next(folder.glob("mixed/1.0.0/mixed-train*-00002-of*"))
    shard.write_bytes(change(shard.read_bytes()))
    return str(folder), shard


@pytest.mark.parametrize("in_memory_gib", [0.0, 8.0])
def test_a_shard_that_is_cut_off_or_missing_is_named_at_the_start(roots, tmp_path, in_memory_gib):
    root, shard = _damaged(roots, tmp_path, lambda contents: contents[:-70_000])
    with pytest.raises(UserError, match=f"^--dataset=mixed: expected a sound shard at {shard}, found: [^\n]*$"):
        _open(root, "mixed", in_memory_gib=in_memory_gib)
    shard.unlink()
    with pytest.raises(UserError, match=f"expected the shard {shard}, found nothing"):
        _open(root, "mixed", in_memory_gib=in_memory_gib)


def test_a_shard_with_too_few_records_is_named_at_the_start(roots, tmp_path):
    with test_tfds._array_record_writer(str(tmp_path / "short")) as writer:
        writer.write(b"alone")
    root, shard = _damaged(roots, tmp_path, lambda contents: (tmp_path / "short").read_bytes())
    with pytest.raises(UserError, match=f"expected a sound shard at {shard}, found: 1 records, where 21 should be"):
        _on_disk(root)


def _broken_records(folder):
    """A shard of a sound record, one with a broken PNG, and one that is no record of TFDS: a reader of the three."""
    features = tfds.features.FeaturesDict({**FEATURES, "image": tf.string})
    sound = tf.io.encode_png(np.zeros([3, 3, 1], np.uint8)).numpy()
    with test_tfds._array_record_writer(str(folder / "shard")) as writer:
        for contents in (sound, sound[:-20]):
            writer.write(features.serialize_example({"image": contents, "label": 1}))
        writer.write(b"\xff" * 9)
    example = tfds.features.FeaturesDict(FEATURES)

    class Record:
        def encoded(self, record):
            found = example.deserialize_example(record, decoders={"image": tfds.decode.SkipDecoding()})
            return found["image"], found["label"]

        def __call__(self, record):
            contents, label = self.encoded(record)
            return decode.decode(contents), label

    return array_records.ArrayRecords([str(folder / "shard")], [3], [0], Record())


@pytest.mark.parametrize("place, wrong", [(1, "the file is cut off"), (2, "it can't be decoded")])
def test_a_broken_record_is_named_with_its_shard(tmp_path, place, wrong):
    reader = _broken_records(tmp_path)
    expected = f"^broken image: {tmp_path / 'shard'} \\(record {place}\\): {wrong}"
    with pytest.raises(decode.BrokenImage, match=expected):
        list(reader.images([0, place]))
    with pytest.raises(decode.BrokenImage, match=expected), decode.broken_images_named():
        examples = reader.fetch(tf.data.Dataset.from_tensors({"index": np.array([0, place])})).unbatch()
        list(examples.map(reader.load))
    assert reader.sizes().tolist()[:1] == [[3, 3]]


@pytest.mark.parametrize("find", [lambda opened: list(opened.splits["train"].images(range(NUM_TRAIN))),
                                  lambda opened: _evaluated(opened, "train")], ids=["eagerly", "in a graph"])
def test_damaged_bytes_are_named_with_their_record(roots, tmp_path, find):
    def change(contents):
        middle = contents.index(b"IHDR", contents.index(b"IHDR") + 1)  # of the second record
        return contents[:middle] + bytes(20) + contents[middle + 20:]

    root, shard = _damaged(roots, tmp_path, change)
    opened = _on_disk(root)
    with pytest.raises(decode.BrokenImage, match=rf"^broken image: {shard} \(record 1\): "), \
            decode.broken_images_named():
        find(opened)
    with pytest.raises(UserError, match=f"^--dataset=mixed: expected a sound shard at {shard}, found: [^\n]*Corrupted"):
        _open(root, "mixed")


def test_without_the_package_one_line_says_so(roots, monkeypatch):
    monkeypatch.delattr(readers, "array_records")
    monkeypatch.setitem(sys.modules, "cct_tf.readers.array_records", None)
    with pytest.raises(UserError, match="^--dataset=grey: expected the package array_record, [^\n]*$"):
        _on_disk(roots["array_record"], "grey")


def test_what_tfds_prepares_in_this_format_is_opened(tmp_path):
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    (manual / "tiny.txt").write_bytes(TinyArchive.ORIGINAL)
    builder = TinyArchive(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual))
    split = _on_disk(str(tmp_path), "tiny_archive").splits["test"]
    theirs = [(int(example["image"][0, 0, 0]), int(example["label"])) for example in builder.as_data_source("test")]
    assert [(int(image[0, 0, 0]), label) for image, label in split.images(range(4))] == theirs
    assert sorted(theirs) == [(8, 0), (9, 1), (10, 0), (11, 1)]
