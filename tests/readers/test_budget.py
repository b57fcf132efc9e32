"""How many images are in work at once, whatever the number of threads: --pipeline_gib."""

import numpy as np
import pytest
import tensorflow as tf

from cct_tf.augment.mix import Mix
from cct_tf.augment.stages import Mixing
from cct_tf.augment.transform import Transform
from cct_tf.data import pipeline, statistics
from cct_tf.data.source import Split
from cct_tf.readers import budget, loading, tensors
from cct_tf.readers.encoded import Encoded
from cct_tf.readers.held import Held
from cct_tf.readers.windowed import Windowed

GIB, SIDE, BATCH = 2**30, 224, 512
BATCH_BYTES = BATCH * SIDE**2 * 3  # 74 MiB


@pytest.fixture(autouse=True)
def _own_budget():
    yield
    budget.use(budget.DEFAULT_GIB)


@pytest.fixture(params=[2, 16, 64])
def threads(request, monkeypatch):
    monkeypatch.setattr(tensors, "num_threads", lambda: request.param)
    return request.param


@pytest.fixture
def maps(monkeypatch):
    """[(parallel calls, the dataset that came out)] of all `Dataset.map`."""
    found, original = [], tf.data.Dataset.map

    def recorded(dataset, function, num_parallel_calls=None, **options):
        mapped = original(dataset, function, num_parallel_calls=num_parallel_calls, **options)
        found.append((num_parallel_calls, mapped))
        return mapped

    monkeypatch.setattr(tf.data.Dataset, "map", recorded)
    return found


def _at_once(calls, threads):
    return {None: 1, tf.data.AUTOTUNE: threads}.get(calls, calls)


def _in_work(maps, threads):
    """The largest number of images of [..., SIDE, SIDE, 3] that one of the maps makes at once."""
    images = [(calls, mapped.element_spec["image"].shape) for calls, mapped in maps
              if isinstance(mapped.element_spec, dict) and "image" in mapped.element_spec]
    assert images
    return max(_at_once(calls, threads) * (shape[0] if shape.rank == 4 else 1) for calls, shape in images)


def _split(reader):
    return Split("train", reader, len(reader), np.zeros(len(reader), np.int32))


def _held(side, at_network_size):
    return _split(Held(tf.zeros([8, side, side, 3], tf.uint8), np.arange(8), at_network_size=at_network_size))


def _batches(split, batch_size=BATCH, evaluate=False):
    transform = Transform(SIDE, (0.5,), (0.25,), flip="random", resized_crop=None)
    if evaluate:
        return pipeline.evaluation_batches(split, transform.evaluation_stages(2), batch_size=batch_size)
    mixing = Mixing(Mix(0.8, 1.0, 1.0, 0.5), 0, batch_size)
    return pipeline.train_batches(split, transform.training_stages(2, mixing=mixing), pipeline.Sampling(0, batch_size),
                                  0, 4)


def test_the_shares_add_up_to_the_budget():
    budget.use(3.0)
    assert 2 * (budget.reading() + budget.staging() + budget.waiting()) == 3 * GIB
    assert budget.opening() + 2 * budget.block() <= 3 * GIB
    assert 8 * budget.ahead() == 3 * GIB  # of a stream, beside it
    assert budget.describe().startswith("up to 3 GiB of images in work")


@pytest.mark.parametrize("evaluate", [False, True])
@pytest.mark.parametrize("gib", [0.001, 2.0, 16.0])
def test_whole_batches_in_work_stay_within_the_budget_whatever_the_threads(threads, maps, gib, evaluate):
    budget.use(gib)
    batches = _batches(_held(SIDE, True), evaluate=evaluate)
    allowed = max(budget.reading() / BATCH_BYTES, 1)  # whole batches
    assert 1 <= _in_work(maps, threads) / BATCH <= min(allowed, threads)
    assert batches.options().autotune.ram_budget == budget.waiting()
    if gib == 2.0:  # a call of the stages takes four batches
        assert _at_once(maps[-1][0], threads) == 1
    if gib == 16.0:
        assert _at_once(maps[-1][0], threads) == min(threads, 6)


def test_small_batches_are_left_to_the_tuning_of_tf_data(threads, maps):
    transform = Transform(32, (0.5,), (0.25,), flip="random")
    pipeline.train_batches(_held(32, False), transform.training_stages(2), pipeline.Sampling(0, 128), 0, 4)
    assert [calls for calls, _ in maps[-3:]] == [tf.data.AUTOTUNE] * 3  # numbers, reading, stages


def _files(tmp_path, shape):
    """An `Encoded` of one JPEG of (height, width)."""
    path = tmp_path / "a.jpg"
    path.write_bytes(tf.io.encode_jpeg(np.zeros((*shape, 3), np.uint8)).numpy())
    return loading.whole(loading.path_tensor([path]), [path], True)


@pytest.mark.parametrize("evaluate", [False, True])
def test_photographs_in_work_stay_within_the_budget(tmp_path, threads, maps, evaluate):
    _batches(_split(_files(tmp_path, (1500, 2000))), 8, evaluate)
    one = 36 * 1500 * 2000  # bytes, as float32, while it is resized
    images = [calls for calls, mapped in maps
              if isinstance(mapped.element_spec, dict) and "image" in mapped.element_spec]
    one_by_one, one_by_one_with_care, groups, *_ = images  # the first two within a group
    assert one_by_one is None and one_by_one_with_care is None
    assert _at_once(groups, threads) == min(threads, GIB // 2 // one)


def test_photographs_are_decoded_and_summed_up_within_the_budget(tmp_path, threads, maps):
    files = _files(tmp_path, (1500, 2000))
    files.map_pixels(statistics._moments)
    assert _at_once(maps[-1][0], threads) == min(threads, GIB // (6 * 1500 * 2000 + tensors.SUMMING))
    budget.use(0.05)
    assert loading.find_broken(files, "stop", "looking", None).tolist() == [True]
    assert _at_once(maps[-1][0], threads) == 1


def test_the_largest_of_some_images_says_how_many_are_read_at_once(tmp_path):
    assert _held(32, False).reader.most_pixels == 32 * 32
    assert _files(tmp_path, (30, 40)).most_pixels == 30 * 40
    (tmp_path / "a.jpg").write_bytes(b"broken")
    broken = Encoded(loading.path_tensor([tmp_path / "a.jpg"]), ["a.jpg"], np.arange(1), True)
    assert broken.most_pixels == 12_000_000


def test_of_a_streamed_set_the_first_images_say_it(tmp_path):
    path, images = tmp_path / "shard", [np.zeros((side, 20, 3), np.uint8) for side in (10, 30, 20)]
    with tf.io.TFRecordWriter(str(path)) as writer:
        for image in images:
            writer.write(tf.io.encode_png(image).numpy())
    stream = Windowed([str(path)], [3], [0], lambda record: (tf.io.decode_png(record, 3), tf.constant(0, tf.int64)), 2)
    assert stream.most_pixels == 600
