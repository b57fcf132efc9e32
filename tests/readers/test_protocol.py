"""What every reader does: the protocol of `readers.reader.Reader`. A new reader is a row in `READERS`."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from cct_tf.errors import UserError
from cct_tf.images import parts
from cct_tf.readers.encoded import Encoded
from cct_tf.readers.flat import Flat
from cct_tf.readers.held import Held
from cct_tf.readers.windowed import Windowed

PIXELS = np.random.default_rng(0).integers(0, 256, [9, 6, 5, 3]).astype(np.uint8)
ROWS = np.array([2, 3, 4, 5, 6, 7, 8], np.int64)  # the images of this split; of records, those from the third on
N = len(ROWS)


def _files(folder):
    paths = [str(folder / f"{number}.png") for number in range(len(PIXELS))]
    for path, image in zip(paths, PIXELS, strict=True):
        Image.fromarray(image).save(path)
    return paths


def _in_memory(folder):
    paths = _files(folder)
    return Encoded(tf.constant([open(path, "rb").read() for path in paths]), paths, ROWS, False)


def _on_disk(folder):
    paths = _files(folder)
    return Encoded(tf.constant(paths), paths, ROWS, True)


def _streamed(folder):
    path = str(folder / "records")
    with tf.io.TFRecordWriter(path) as writer:
        for number, image in enumerate(PIXELS):
            writer.write(bytes([number]) + image.tobytes())

    def decode(record):
        values = tf.io.decode_raw(record, tf.uint8)
        return tf.reshape(values[1:], PIXELS.shape[1:]), tf.cast(values[0], tf.int64)

    return Windowed([path], [N], [2], decode, window=3)


class _PngRecord:
    """Records of a byte, the label, and a PNG."""

    def encoded(self, record):
        return tf.strings.substr(record, 1, -1), tf.cast(tf.io.decode_raw(record, tf.uint8)[0], tf.int64)

    def __call__(self, record):
        contents, label = self.encoded(record)
        return tf.io.decode_png(contents, channels=3), label


def _by_index(folder):
    array_record_module = pytest.importorskip("array_record.python.array_record_module")  # not on all platforms
    from cct_tf.readers.array_records import ArrayRecords

    paths, shards = _files(folder), [str(folder / "first"), str(folder / "second")]
    for shard, numbers in zip(shards, np.split(np.arange(len(paths)), [4]), strict=True):
        writer = array_record_module.ArrayRecordWriter(shard, "group_size:1")
        for number in numbers:
            writer.write(bytes([number]) + open(paths[number], "rb").read())
        writer.close()
    return ArrayRecords(shards, [2, 5], [2, 0], _PngRecord())


def _flat(folder):
    starts, shapes = np.arange(9) * PIXELS[0].size, np.full([9, 2], PIXELS.shape[1:3], np.int32)
    return Flat(tf.constant(PIXELS.reshape(-1)), starts, shapes, ROWS, [f"{row}.png" for row in range(9)])


READERS = {"held": lambda folder: Held(tf.constant(PIXELS), ROWS), "held end to end": _flat, "in memory": _in_memory,
           "on disk": _on_disk, "by index": _by_index, "streamed": _streamed}


@pytest.fixture(scope="module", params=READERS)
def reader(request, tmp_path_factory):
    return READERS[request.param](tmp_path_factory.mktemp("reader"))


def _loaded(reader, examples):
    """The images of a dataset of batches of examples, as a graph loads them: uint8 [k, H, W, 3]."""
    images = reader.fetch(examples).unbatch().map(lambda example: reader.load(example)[0])
    return np.stack(list(images.as_numpy_iterator()))


def test_it_says_what_it_is(reader):
    assert len(reader) == N and reader.describe()
    sizes = reader.sizes()
    assert sizes.shape[1] == 2 and (sizes == PIXELS.shape[1:3]).all()


def test_images_come_in_the_order_asked_for(reader):
    found = list(reader.images([4, 0, 6]))
    assert np.array_equal([image for image, _ in found], PIXELS[ROWS[[4, 0, 6]]])
    expected = ROWS[[4, 0, 6]].tolist() if reader.knows_labels else [None] * 3
    assert [label for _, label in found] == expected


def test_a_part_of_an_image_has_its_pixels(reader):
    box = np.float32([2, 1, 3, 4])
    examples = reader.fetch(reader.in_order(N)).unbatch()
    found = list(examples.map(lambda example: reader.load_part(example, lambda *size: box)[:2]).as_numpy_iterator())
    for row, (pixels, frame) in zip(ROWS, found, strict=True):
        assert tuple(frame[:3]) == (*PIXELS.shape[1:3], 1)
        top, left, height, width = parts.placed(box, frame).numpy().astype(int)
        assert np.array_equal(pixels[top:top + height, left:left + width], PIXELS[row, 2:5, 1:5])


def test_who_reads_images_keeps_his_device(reader):
    with tf.device("CPU:1"):
        for _ in reader.images([1, 0]):
            assert tf.zeros([]).device.endswith("CPU:1")


def test_every_image_once_in_order_and_the_last_one_again_as_padding(reader):
    batches = list(reader.in_order(4).as_numpy_iterator())
    assert np.concatenate([batch["index"] for batch in batches]).tolist() == [0, 1, 2, 3, 4, 5, 6, 6]
    assert set(reader.fetch(reader.in_order(4)).element_spec) == {"index", *reader.own_columns}
    assert np.array_equal(_loaded(reader, reader.in_order(4)), PIXELS[ROWS[[0, 1, 2, 3, 4, 5, 6, 6]]])


def test_the_order_of_training_shows_each_image_once_an_epoch_and_begins_anywhere(reader):
    whole = list(reader.order(3, 2, 0, 14).as_numpy_iterator())
    index, epoch = (np.concatenate([batch[name] for batch in whole]) for name in ("index", "epoch"))
    assert epoch.tolist() == [place // N for place in range(28)]
    for number in range(4):
        assert sorted(index[epoch == number].tolist()) == list(range(N))
    assert len({tuple(index[epoch == number]) for number in range(4)}) > 1
    assert np.array_equal(_loaded(reader, reader.order(3, 2, 0, 14)), PIXELS[ROWS[index]])
    for start in (1, 5):
        later = np.concatenate([batch["index"] for batch in reader.order(3, 2, start, 14 - start)])
        assert np.array_equal(later, index[2 * start:])


def test_a_reader_of_some_images_has_those_and_no_others(reader):
    places = reader.spread(3)
    some = reader.select(places)
    assert len(some) == 3 and len(reader.spread(99)) == N
    assert np.array_equal([image for image, _ in some.images(range(3))], PIXELS[ROWS[places]])
    assert np.array_equal(_loaded(some, some.in_order(3)), PIXELS[ROWS[places]])


def test_images_of_one_size_come_many_at_once(reader):
    if reader.image_shape is None:
        pytest.skip("a reader of images of any size")
    assert reader.image_shape == PIXELS.shape[1:3]
    places = np.array([5, 0])
    assert np.array_equal(reader.gather(places), PIXELS[ROWS[places]])
    assert np.array_equal(tf.function(reader.gather)(tf.constant(places)), PIXELS[ROWS[places]])


def test_a_function_of_all_pixels_sees_each_once_or_the_line_says_what_helps(reader):
    def total(pixels):
        return (tf.reduce_sum(tf.cast(pixels, tf.int64)),)

    try:
        found = list(reader.map_pixels(total).as_numpy_iterator())
    except UserError as error:
        assert str(error).startswith("--mean: ")
        return
    assert sum(int(number) for number, _ in found) == N
    assert sum(int(value) for _, value in found) == PIXELS[ROWS].astype(int).sum()
