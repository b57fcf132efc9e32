"""Images that can't be decoded, of every reader that decodes on demand: what stands for them, in training and in
evaluation, and what is no word on an image."""

import dataclasses
import os
import shutil
import types

import numpy as np
import pytest
import tensorflow as tf

from cct_tf.augment.transform import Transform
from cct_tf.data import pipeline
from cct_tf.data.source import Split
from cct_tf.errors import exit_status
from cct_tf.images import decode
from cct_tf.readers.broken import Broken, Finding
from cct_tf.readers.encoded import Encoded
from cct_tf.readers.windowed import Windowed
from tests.readers import damaged

N, K, BATCH = 7, 7, 4  # the label of an image is its place
PIXELS = np.random.default_rng(0).integers(0, 256, [N, 6, 5, 3]).astype(np.uint8)


class _PngRecord:
    """Records of a byte, the label, and a PNG."""

    def encoded(self, record):
        return tf.strings.substr(record, 1, -1), tf.cast(tf.io.decode_raw(record, tf.uint8)[0], tf.int64)

    def __call__(self, record):
        contents, label = self.encoded(record)
        return decode.decode(contents), label


def _png(place, broken):
    contents = tf.io.encode_png(PIXELS[place]).numpy()
    return contents[:60] if place in broken else contents


def _on_disk(folder, broken):
    (folder / "a").mkdir(exist_ok=True, parents=True)
    paths = [str(folder / "a" / f"{place}.png") for place in range(N)]
    for place, path in enumerate(paths):
        with open(path, "wb") as file:
            file.write(_png(place, broken))
    return Encoded(tf.constant(paths), paths, np.arange(N), True)


def _records(folder, broken, writer_of):
    folder.mkdir(exist_ok=True, parents=True)
    shards = [str(folder / "first"), str(folder / "second")]
    for shard, places in zip(shards, ([*range(3)], [*range(3, N)]), strict=True):
        writer = writer_of(shard)
        for place in (0, *places):  # the first record is of another split
            writer.write(bytes([place]) + _png(place, broken))
        writer.close()
    return shards, [3, N - 3], [1, 1], _PngRecord()


def _streamed(folder, broken):
    return Windowed(*_records(folder, broken, tf.io.TFRecordWriter), window=3)


def _streamed_with_wrong_checksums(folder, broken):
    reader = _streamed(folder, ())
    for place in broken:
        damaged.flip(*reader._located(place))
    return reader


def _by_index(folder, broken):
    array_record_module = pytest.importorskip("array_record.python.array_record_module")  # not on all platforms
    from cct_tf.readers.array_records import ArrayRecords

    return ArrayRecords(*_records(folder, broken, lambda shard: array_record_module.ArrayRecordWriter(
        shard, "group_size:1")))


READERS = {"on disk": _on_disk, "streamed": _streamed, "wrong checksums": _streamed_with_wrong_checksums,
           "by index": _by_index}
CROPS = {"whole": {"crop_padding": 1}, "parts": {"resized_crop": (0.5, 1.0)}}


@pytest.fixture(params=READERS)
def make(request, tmp_path):
    """Function of the places that are broken -> a reader."""
    return lambda broken=(): READERS[request.param](tmp_path / "images", broken)


def _split(reader, name="train"):
    return Split(name, reader, N, None if reader.knows_labels else np.arange(N, dtype=np.int32))


def _trained(reader, start=0, number=6, crop="whole", share=(0, 1)):
    stages = Transform(6, (0.5,) * 3, (0.25,) * 3, flip="random", **CROPS[crop]).training_stages(K)
    batches = pipeline.train_batches(_split(reader), stages, pipeline.Sampling(3, BATCH), start, number, share)
    return list(batches.as_numpy_iterator())


def _assert_equal(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert set(one) == set(other)
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def _labels(batches):
    return np.concatenate([np.argmax(batch["label"], 1) for batch in batches])


def _order(reader, number=6):
    return np.concatenate([batch["index"] for batch in reader.order(3, BATCH, 0, number).as_numpy_iterator()])


@pytest.mark.parametrize(("name", "crop"), [
    (name, crop) for name in READERS for crop in CROPS if (name, crop) not in {
        ("wrong checksums", "whole"), ("by index", "parts")}])  # the other pairs cover these two
def test_the_next_image_stands_for_a_broken_one_with_its_own_label(name, crop, tmp_path):
    """And the batches are those of a reader that knew them, which does not decode them though they are sound."""
    def make(broken=()):
        return READERS[name](tmp_path / "images", broken)

    told, broken = [], {2, 6}
    reader = make(broken).tolerating("replace")
    reader.broken.listen(lambda place, finding: told.append((place, finding)))
    found, order = _trained(reader, crop=crop), _order(reader)
    expected = np.where(order == 2, 3, np.where(order == 6, 0, order))
    assert _labels(found).tolist() == expected.tolist()
    first = {place: int(np.flatnonzero(order == place)[0]) for place in broken}
    assert {place: finding.position for place, finding in reader.broken.known.items()} == first
    assert {place for place, _ in told} == broken and all(finding.reason for _, finding in told)
    known = {place: Finding("known") for place in broken}
    sound = make().tolerating("replace", known)
    _assert_equal(_trained(sound, crop=crop), found)
    _assert_equal(_trained(sound, 3, 3, crop), found[3:])  # as a resume does
    if crop == "parts":
        return  # two workers are shown with whole images
    halves = [_trained(make(broken).tolerating("replace"), crop=crop, share=(worker, 2)) for worker in range(2)]
    _assert_equal([{name: np.concatenate([one[name], other[name]]) for name in one}
                   for one, other in zip(*halves, strict=True)], found)


def test_a_run_of_broken_images_is_stepped_over_round_the_end(make):
    reader = make({5, 6, 0}).tolerating("replace")
    for position, place in enumerate((5, 6, 0, 4)):
        image, label, used = reader.broken.find(reader, place, position)
        assert used == (4 if place == 4 else 1) and np.array_equal(image, PIXELS[used])
        assert label == (used if reader.knows_labels else None)
    assert {place: finding.position for place, finding in reader.broken.known.items()} == {0: 0, 5: 0, 6: 0}


def test_where_nothing_can_be_decoded_the_line_says_so(make):
    reader = make(set(range(N))).tolerating("replace")
    with pytest.raises(decode.BrokenImage, match="broken image: .*: expected an image of the split that can be"):
        reader.broken.find(reader, 3)


def test_without_it_the_first_broken_image_ends_the_work_and_is_named(make):
    reader = make({4})
    with pytest.raises(decode.BrokenImage, match="^broken image: .*") as found, decode.broken_images_named():
        _trained(reader)
    assert str(found.value).startswith(f"broken image: {reader.origin(4)}: ")
    with pytest.raises(decode.BrokenImage) as eager:
        list(reader.images([4]))
    assert str(eager.value).startswith(f"broken image: {reader.origin(4)}: ")


@pytest.mark.parametrize("is_held", [False, True])
@pytest.mark.parametrize("known", [False, True])
def test_in_evaluation_it_counts_for_nothing(make, known, is_held):
    reader = make(() if known else {1, N - 1})  # the last one is padding, too
    reader = reader.tolerating("mask", {place: Finding("known") for place in (1, N - 1)} if known else {})
    split = dataclasses.replace(_split(reader, "test"), room=1e6 * is_held)
    stages = Transform(6, (0.5,) * 3, (0.25,) * 3).evaluation_stages(K)
    batches = list(pipeline.evaluation_batches(split, stages, batch_size=BATCH).as_numpy_iterator())
    mask, broken = (np.concatenate([batch[name] for batch in batches]) for name in ("mask", "broken"))
    assert mask.tolist() == [1, 0, 1, 1, 1, 1, 0, 0] and broken.tolist() == [0, 1, 0, 0, 0, 0, 1, 0]
    sound = _labels(batches)[mask > 0]
    assert sound.tolist() == [0, 2, 3, 4, 5] and sorted(reader.broken.known) == [1, N - 1]
    images = [(image[0, 0, 0], label) for image, label in split.images([1, 2])]  # a picture of it shows the next
    assert images == [(PIXELS[2, 0, 0, 0], 2)] * 2


def test_some_of_the_images_know_which_of_them_are_broken(make):
    reader = make().tolerating("replace", {1: Finding("known")})
    some = reader.select(reader.spread(3))
    places = reader.spread(3).tolist()
    assert list(some.broken.known) == [places.index(1)] if 1 in places else not some.broken.known
    assert reader.select(np.arange(N)).broken.known.keys() == {1}


def test_a_file_that_is_gone_is_broken_and_a_folder_that_is_gone_is_not(tmp_path):
    reader = _on_disk(tmp_path / "images", ()).tolerating("replace")
    os.remove(reader.origin(2))
    assert reader.broken.find(reader, 2)[2] == 3 and list(reader.broken.known) == [2]
    shutil.rmtree(tmp_path / "images/a")
    with pytest.raises(tf.errors.OpError) as found, decode.broken_images_named():
        _trained(reader)
    status, line = exit_status(found.value)
    assert status == 75 and line.startswith(f"{tmp_path}/images/a: Stale file handle; the same command goes on")
    assert list(reader.broken.known) == [2]


def test_a_shard_that_is_gone_is_no_word_on_its_records(tmp_path):
    reader = _streamed(tmp_path / "images", ())
    os.remove(reader.paths[1])
    bearing = reader.tolerating("replace")
    with pytest.raises(tf.errors.OpError) as found, decode.broken_images_named():
        _trained(bearing)
    status, line = exit_status(found.value)
    assert status == 75 and line.startswith(f"{reader.paths[1]}: Stale file handle; the same command goes on")
    assert bearing.broken.known == {}
    missing = r"second \(record \d\): expected a shard that can be read, found: No such file"
    with pytest.raises(decode.BrokenImage, match=missing), decode.broken_images_named():
        _trained(reader)


@pytest.mark.parametrize(("error", "raised"), [
    (OSError(5, "Input/output error"), OSError), (OSError(24, "Too many open files"), decode.BrokenImage),
    (MemoryError(), decode.BrokenImage)])
def test_what_is_no_fault_of_the_image_ends_the_work(tmp_path, error, raised):
    class Reader:
        def decoded(self, place):
            raise decode.BrokenImage("broken image: x: reason") from error

        def home(self, place):
            return str(tmp_path)

        def origin(self, place):
            return "x"

    broken = Broken(3, "replace")
    with pytest.raises(raised):
        broken.find(Reader(), 1)
    assert broken.known == {}


def test_of_two_positions_the_first_counts_and_none_is_before_all():
    told, broken = [], Broken(3, "replace", {0: Finding("a", 9)})
    broken.listen(lambda place, finding: told.append(finding.position))
    reader = types.SimpleNamespace(decoded=lambda place: (PIXELS[0], None))
    for position in (11, None, 7, 8):
        broken.find(reader, 0, position)
    assert broken.known == {0: Finding("a", 7)} and told == [7]
    broken.add(1, Finding("b"))
    broken.add(1, Finding("c", 3))
    assert broken.known[1] == Finding("b") and told == [7]
