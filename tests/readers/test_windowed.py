"""What a streamed split reads and decodes: its own records, once, the next shards ahead, in an unchanged order."""

import collections
import dataclasses
import shutil
import time

import numpy as np
import pytest
import tensorflow as tf

from cct_tf import rng
from cct_tf.augment.transform import Transform
from cct_tf.data import pipeline, source
from cct_tf.readers import windowed
from cct_tf.readers.windowed import Windowed
from tests.readers import damaged

SHARDS, RECORDS, WINDOW, BATCH = 4, 10, 12, 8
N = SHARDS * RECORDS


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Shards of records of 1,000 bytes, which are all their place in the split."""
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(SHARDS):
        with tf.io.TFRecordWriter(str(folder / str(shard))) as writer:
            for number in range(RECORDS):
                writer.write(bytes([shard * RECORDS + number]) * 1000)
    return [str(folder / str(shard)) for shard in range(SHARDS)]


def _reader(paths, decode=None):
    return Windowed(paths, [RECORDS] * SHARDS, [0] * SHARDS, decode, WINDOW)


@pytest.fixture
def read(monkeypatch):
    """The places of the records that were read, as they are read."""
    found, dataset_of = [], tf.data.TFRecordDataset

    def note(record):
        found.append(record[0])
        return record

    def noted(*args, **kwargs):
        return dataset_of(*args, **kwargs).map(lambda record: tf.numpy_function(note, [record], tf.string))

    monkeypatch.setattr(tf.data, "TFRecordDataset", noted)
    return found


@pytest.mark.parametrize("batch_size", [BATCH, 7])  # without padding, and with 2 of 42
def test_evaluation_reads_every_record_once(paths, read, batch_size):
    batches = list(_reader(paths).in_order(batch_size).as_numpy_iterator())
    assert collections.Counter(read) == collections.Counter(range(N))
    expected = [min(place, N - 1) for place in range(-(-N // batch_size) * batch_size)]
    assert [place for batch in batches for place in batch["index"]] == expected
    assert [record[0] for batch in batches for record in batch["record"]] == expected


def _decoded_by(share, paths, training):
    """The places of the records that a worker decodes, and the labels of its batches."""
    decoded = []

    def decode(record):
        def note(record):
            record = record if isinstance(record, bytes) else record.item()  # eagerly an array
            decoded.append(record[0])
            return np.full([4, 4, 3], record[0], np.uint8), np.int64(record[0])

        image, label = tf.numpy_function(note, [record], (tf.uint8, tf.int64))
        return tf.ensure_shape(image, [4, 4, 3]), tf.ensure_shape(label, [])

    split = source.Split("train", _reader(paths, decode), N, None)
    transform = Transform(4, (0.5,) * 3, (0.5,) * 3)
    if training:
        batches = pipeline.train_batches(split, transform.training_stages(N), pipeline.Sampling(3, BATCH), 2, 6, share)
    else:
        batches = pipeline.evaluation_batches(split, transform.evaluation_stages(N), batch_size=BATCH, share=share)
    decoded.clear()  # the first records, which told the images' size
    return decoded, [batch["label"].argmax(1).tolist() for batch in batches.as_numpy_iterator()]


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_a_worker_decodes_its_own_records_and_no_others(paths, training):
    decoded, whole = _decoded_by((0, 1), paths, training)
    assert collections.Counter(decoded) == collections.Counter(sum(whole, []))
    for worker in range(2):
        decoded, labels = _decoded_by((worker, 2), paths, training)
        assert labels == [batch[4 * worker:4 * (worker + 1)] for batch in whole]
        assert collections.Counter(decoded) == collections.Counter(sum(labels, []))


def _wait_for(condition):
    end = time.monotonic() + 60
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def test_the_next_shards_are_read_while_one_is_used(paths, read):
    records = iter(_reader(paths).records())
    assert next(records).numpy()[0] == 0
    assert _wait_for(lambda: set(read) >= set(range(3 * RECORDS)))
    assert [record.numpy()[0] for record in records] == list(range(1, N))
    assert len(read) == N


def test_what_is_read_ahead_is_measured_in_bytes(paths, read, monkeypatch):
    monkeypatch.setattr(windowed.budget, "ahead", lambda: 3 * 4 * 1016)  # four records of three shards
    records = iter(_reader(paths).records())
    next(records)
    assert _wait_for(lambda: {13, 23} <= set(read))
    time.sleep(0.2)
    per_shard = collections.Counter(place // RECORDS for place in read)
    assert set(per_shard) == {0, 1, 2}
    assert max(per_shard[1], per_shard[2]) <= 4 + 1  # and one that finds no room yet
    assert [record.numpy()[0] for record in records] == list(range(1, N))


@pytest.mark.parametrize("ahead", [1, 256 << 20])
def test_what_is_read_ahead_does_not_change_the_order(paths, monkeypatch, ahead):
    monkeypatch.setattr(windowed.budget, "ahead", lambda: ahead)
    first = 5
    found = list(_reader(paths).order(3, BATCH, first, 5).as_numpy_iterator())
    expected = []
    for epoch in range(2):
        shards = rng.permutation(SHARDS, rng.fold_pair(3, rng.Stream.ORDER, epoch)).numpy()
        places = (shards[:, None] * RECORDS + np.arange(RECORDS)).ravel()
        for number, start in enumerate(range(0, N, WINDOW)):
            window = places[start:start + WINDOW]
            key = rng.fold_pair(3, rng.Stream.WINDOW, epoch * -(-N // WINDOW) + number)
            expected += window[rng.permutation(len(window), key).numpy()].tolist()
    assert np.concatenate([batch["index"] for batch in found]).tolist() == expected[first * BATCH:]
    assert [record[0] for batch in found for record in batch["record"]] == expected[first * BATCH:]


def test_the_plan_says_what_the_windows_take(paths, monkeypatch):
    monkeypatch.setattr(windowed.os.path, "getsize", lambda path: RECORDS * 3 * 2**20)
    assert "shuffled 12 records at a time, which takes about 144 MiB)" in _reader(paths).describe()
    assert "100 records at a time, which takes about 480 MiB)" in (
        dataclasses.replace(_reader(paths), window=100).describe())


def test_a_missing_shard_stops_nothing_before_its_turn(paths):
    records = iter(_reader([*paths[:2], "/nowhere", paths[3]]).records())
    assert [next(records).numpy()[0] for _ in range(2 * RECORDS)] == list(range(2 * RECORDS))
    with pytest.raises(tf.errors.NotFoundError):
        next(records)


DAMAGE = {"checksum": lambda shard: damaged.flip(shard, 4), "length": lambda shard: damaged.flip(shard, 4, 0),
          "cut off": lambda shard: damaged.cut(shard, 4, 9), "cut between records": lambda shard: damaged.cut(shard, 4)}


@pytest.mark.parametrize("kind", DAMAGE)
def test_behind_damage_the_order_stays_and_sound_records_are_found(paths, tmp_path, kind):
    """Of a split that begins within the shard, as where the records before are another one."""
    copies = [shutil.copy(path, tmp_path) for path in paths]
    DAMAGE[kind](copies[1])
    gone = {14} if kind == "checksum" else set(range(14, 20))
    broken, sound = (_reader(which).cut(13)[1] for which in (copies, paths))
    for order in (lambda reader: reader.order(3, 6, 0, 6), lambda reader: reader.in_order(6)):
        found, expected = (reader.fetch(order(reader)).as_numpy_iterator() for reader in (broken, sound))
        for batch, whole in zip(found, expected, strict=True):
            assert batch["index"].tolist() == whole["index"].tolist()
            assert batch["record"].tolist() == [b"" if record[0] in gone else record for record in whole["record"]]


def test_a_shard_that_is_gone_comes_to_an_end(paths):
    """TensorFlow would try to open it again and again."""
    reader = _reader([*paths[:2], "/nowhere", paths[3]])
    records = [record for batch in reader.in_order(BATCH) for record in batch["record"].numpy()]
    assert [record[0] if record else None for record in records] == [*range(20), *[None] * 10, *range(30, N)]


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_where_all_records_are_read_damage_is_an_error(paths, tmp_path, damage):
    copies = [shutil.copy(path, tmp_path) for path in paths]
    damage(copies[1])
    with pytest.raises(tf.errors.OpError):
        list(_reader(copies).records())
