"""Records of damaged TFRecord shards, against those that TensorFlow wrote."""

import errno

import pytest
import tensorflow as tf

from cct_tf.readers import tf_records
from tests.readers import damaged

RECORDS = [b"", b"a", bytes(range(256)) * 5, b"last"]


@pytest.fixture
def shard(tmp_path):
    path = str(tmp_path / "shard")
    with tf.io.TFRecordWriter(path) as writer:
        for record in RECORDS:
            writer.write(record)
    return path


def _read(shard):
    """The records, or in words why there are none."""
    found = []
    for number in range(len(RECORDS)):
        try:
            found.append(tf_records.read(shard, number))
        except ValueError as error:
            found.append(str(error).removeprefix("expected a record"))
    return found


def test_sound_records_are_those_that_were_written(shard):
    assert _read(shard) == RECORDS
    with pytest.raises(ValueError, match="^expected a record, found that the shard is cut off at record 4$"):
        tf_records.read(shard, len(RECORDS))


@pytest.mark.parametrize("at", [damaged.HEAD, damaged.HEAD + 1279, damaged.HEAD + 1280, damaged.HEAD + 1283])
def test_a_wrong_checksum_costs_its_record_alone(shard, at):
    damaged.flip(shard, 2, at)
    assert _read(shard) == [*RECORDS[:2], " with the right checksum, found a damaged one", RECORDS[3]]


@pytest.mark.parametrize("at", [0, 7, 8, 11])
def test_nothing_is_found_behind_a_damaged_length(shard, at):
    damaged.flip(shard, 1, at)
    gone = ", found that the length of record 1 is damaged, so nothing behind it can be found"
    assert _read(shard) == [RECORDS[0], gone, gone, gone]


@pytest.mark.parametrize("further", [0, 5, damaged.HEAD, damaged.HEAD + 1283])
def test_nothing_is_found_behind_the_end(shard, further):
    damaged.cut(shard, 2, further)
    gone = ", found that the shard is cut off at record 2"
    assert _read(shard) == [*RECORDS[:2], gone, gone]


def test_a_shard_that_was_mended_is_read_anew(shard):
    with open(shard, "rb") as file:
        contents = file.read()
    damaged.cut(shard, 1)
    assert len(set(_read(shard))) == 2
    with open(shard, "wb") as file:
        file.write(contents)
    assert _read(shard) == RECORDS


def test_a_fault_of_the_storage_is_none_of_the_record(shard, monkeypatch):
    def refuse(*args):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(OSError, match=f"{shard}; Input/output error"):
        tf_records.read(shard, 0)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="^expected a shard that can be read, found: No such file or directory$"):
        tf_records.read(f"{shard}.gone", 0)
