"""TFDS sets, made here with several shards: held, encoded, streamed; and the errors without data and network."""

import collections
import contextlib
import hashlib
import pathlib

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import resource

from cct_tf import rng
from cct_tf.data import source, statistics
from cct_tf.datasets import registry, tfds_prepare
from cct_tf.datasets import tfds as tfds_module
from cct_tf.errors import UserError
from cct_tf.readers.encoded import Encoded
from cct_tf.readers.flat import Flat
from cct_tf.readers.windowed import Windowed
from cct_tf.settings.config import DataConfig

NUM_TRAIN, NUM_TEST, NUM_CLASSES, NUM_SHARDS, WINDOW = 103, 11, 4, 5, 16


def _example(index):
    """(image uint8 [6, 5, 1], label): every image is another."""
    image = np.random.default_rng(index).integers(0, 256, (6, 5, 1), np.uint8)
    image[0, 0] = index
    return image, (index * 7) % NUM_CLASSES


def _array_record_writer(path):
    from array_record.python import array_record_module  # not on all platforms

    return contextlib.closing(array_record_module.ArrayRecordWriter(path, "group_size:1"))


def _write(data_dir, name, image_shape, splits, features=None, file_format="tfrecord"):
    """A prepared set of NUM_SHARDS shards per split, which TFDS reads without its builder's code."""
    make_writer = {"tfrecord": tf.io.TFRecordWriter, "array_record": _array_record_writer}[file_format]
    features = features or tfds.features.FeaturesDict({
        "image": tfds.features.Image(shape=image_shape, encoding_format="png"),
        "label": tfds.features.ClassLabel(names=["ant", "bee", "cow", "dog"]), "weight": tf.float32})
    folder = pathlib.Path(data_dir) / name / "1.0.0"
    folder.mkdir(parents=True)
    infos = []
    for split, examples in splits.items():
        lengths = []
        template = tfds.core.ShardedFileTemplate(data_dir=tfds.core.Path(folder), dataset_name=name, split=split,
                                                 filetype_suffix=file_format)
        for shard, part in enumerate(np.array_split(np.arange(len(examples)), NUM_SHARDS)):
            path = folder / f"{name}-{split}.{file_format}-{shard:05d}-of-{NUM_SHARDS:05d}"
            with make_writer(str(path)) as writer:
                for index in part:
                    example = dict(zip(("image", "label"), examples[index], strict=True), weight=1.0)
                    writer.write(features.serialize_example({key: example[key] for key in features}))
            lengths.append(len(part))
        infos.append(tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=0, filename_template=template))
    tfds.folder_dataset.write_metadata(data_dir=str(folder), features=features, split_infos=infos,
                                       supervised_keys=("image", "label"), check_data=file_format == "tfrecord")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A TFDS folder with the sets `grey` (one size), `mixed` (sizes differ) and `three` (three splits)."""
    root = tmp_path_factory.mktemp("tfds")
    train, test = [_example(i) for i in range(NUM_TRAIN)], [_example(200 + i) for i in range(NUM_TEST)]
    _write(root, "grey", (6, 5, 1), {"train": train, "test": test})
    widened = [(np.pad(image, [(0, i % 2), (0, 0), (0, 0)]), label) for i, (image, label) in enumerate(train)]
    _write(root, "mixed", (None, None, 1), {"train": widened, "test": test})
    _write(root, "three", (6, 5, 1), {"train": train, "validation": test, "test": test})
    return str(root)


def _open(data_dir, name="grey", **fields):
    return registry.open_source(DataConfig(dataset=name, data_dir=data_dir, **fields))


def _streamed(data_dir, **fields):
    return _open(data_dir, in_memory_gib=0.0, shuffle_window=WINDOW, **fields)


def test_a_set_of_one_size_is_held_in_file_order(data_dir):
    opened = _open(data_dir)
    assert opened.class_names == ("ant", "bee", "cow", "dog") and opened.order == "indexed"
    for name, first, number in (("train", 0, NUM_TRAIN), ("test", 200, NUM_TEST)):
        split = opened.splits[name]
        images = tf.gather(split.reader.tensor, split.reader.indices).numpy()
        expected = [_example(first + i) for i in range(number)]
        np.testing.assert_array_equal(images, [np.repeat(image, 3, axis=2) for image, _ in expected])
        assert split.labels.tolist() == [label for _, label in expected]


@pytest.mark.parametrize(("decode", "reader"), [("exact", Flat), ("fast", Encoded)])
def test_a_set_of_mixed_sizes_is_held_decoded_or_encoded(data_dir, decode, reader):
    split = _open(data_dir, "mixed", decode=decode).splits["train"]
    assert isinstance(split.reader, reader) and split.reader.held_bytes
    for index in (0, 1, 50):
        image = split.reader.load({"index": index})[0].numpy()
        np.testing.assert_array_equal(image[:6, :, 0], _example(index)[0][..., 0])
        assert image.shape == (6 + index % 2, 5, 3)


def test_slices_are_splits_and_shared_images_are_refused(data_dir):
    opened = _open(data_dir, train_split="train[:50%]", test_split="train[50%:]")
    sizes = [opened.splits[name].num_examples for name in ("train", "test")]
    assert sum(sizes) == NUM_TRAIN and abs(sizes[0] - sizes[1]) <= 1
    with pytest.raises(UserError, match="^--test_split: expected no image of --train_split"):
        _open(data_dir, train_split="train[:60%]", test_split="train[50%:]")


def test_a_validation_split_of_its_own_is_used_unless_a_share_is_held_out(data_dir):
    assert set(_open(data_dir, "three").splits) == {"train", "validation", "test"}
    opened = _open(data_dir, "three", validation_fraction=0.2)
    assert opened.splits["validation"].num_examples == 20 and "not used" in opened.notes[0]
    joined = _open(data_dir, "three", train_split="train+validation")
    with pytest.raises(UserError, match="^--fold: expected no validation split .* --train_split=train.validation"):
        _open(data_dir, "three", fold="1/2")
    folded = _open(data_dir, "three", train_split="train+validation", fold="1/2")
    assert set(folded.splits) == {"train", "validation", "test"}
    assert set(joined.splits) == {"train", "test"} and joined.splits["train"].num_examples == NUM_TRAIN + NUM_TEST


@pytest.mark.parametrize("fields, flag", [({"test_split": "tset"}, "--test_split: expected one of train, test"),
                                          ({"train_split": "train[:x]"}, "--train_split: expected one of train, test"),
                                          ({"train_split": "train[:0%]"}, "--train_split: ")])
def test_a_wrong_split_is_one_line(data_dir, fields, flag):
    with pytest.raises(UserError) as caught:
        _open(data_dir, **fields)
    assert str(caught.value).startswith(flag) and "\n" not in str(caught.value)


def test_damaged_and_missing_shards_are_named(tmp_path):
    _write(tmp_path, "small", (6, 5, 1), {"train": [_example(i) for i in range(10)], "test": [_example(20)] * 5})
    shard = next(tmp_path.glob("small/1.0.0/small-train*-00002-of*"))
    contents = shard.read_bytes()
    shard.write_bytes(contents[:-20])
    with pytest.raises(UserError, match=f"expected a sound shard at {shard}"):
        _open(str(tmp_path), "small")
    shard.unlink()
    with pytest.raises(UserError, match=f"expected the shard {shard}, found nothing"):
        _open(str(tmp_path), "small")


def test_a_set_without_classes_is_refused(tmp_path):
    features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(6, 5, 1)), "label": tf.int64,
                                           "weight": tf.float32})
    _write(tmp_path, "plain", None, {"train": [_example(i) for i in range(6)]}, features)
    with pytest.raises(UserError, match=r"^--dataset: expected an image-classification set .* label \(Tensor\)"):
        _open(str(tmp_path), "plain")


def test_streamed_sets_have_no_folds(data_dir):
    with pytest.raises(UserError, match="^--fold: expected none for a TFDS set that is not held .* found 1/2"):
        _streamed(data_dir, fold="1/2")


def test_streamed_sets_keep_their_order_unread(data_dir):
    opened = _streamed(data_dir, validation_fraction=0.1)
    assert opened.order == "windowed" and "unstratified" in opened.notes[0]
    assert {name: split.num_examples for name, split in opened.splits.items()} == {
        "train": 93, "validation": 10, "test": 11}
    everything = []
    for name in ("train", "validation"):
        reader = opened.splits[name].reader
        records = reader.records().map(reader.decode)
        everything += [(image[..., :1], label) for image, label in records.as_numpy_iterator()]
    for index, (image, label) in enumerate(everything):  # the validation split is the tail
        np.testing.assert_array_equal(image, _example(index)[0])
        assert label == _example(index)[1]
    with pytest.raises(UserError, match="^--mean: "):
        statistics.channel_statistics(opened.splits["train"])


def _stream(reader, seed, start, number):
    """The first `number` (epoch, index, encoded image) of a stream from place `start` on; no image is decoded."""
    examples = reader.examples(seed, start).unbatch().take(number).map(
        lambda example: (example["epoch"], example["index"], reader.decode.encoded(example["record"])[0]))
    return list(examples.as_numpy_iterator())


def test_each_epoch_is_another_permutation_in_windows(data_dir):
    reader = _streamed(data_dir).splits["train"].reader
    stream = _stream(reader, 3, 0, 2 * NUM_TRAIN)
    assert [epoch for epoch, _, _ in stream] == [0] * NUM_TRAIN + [1] * NUM_TRAIN
    first, second = [image for _, _, image in stream[:NUM_TRAIN]], [image for _, _, image in stream[NUM_TRAIN:]]
    assert collections.Counter(first) == collections.Counter(second) and len(set(first)) == NUM_TRAIN
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 10


def test_the_order_is_shards_then_windows(data_dir):
    reader = _streamed(data_dir).splits["train"].reader
    by_image = {reader.decode.encoded(record)[0].numpy(): i
                for i, record in enumerate(reader.records())}
    stream = _stream(reader, 3, NUM_TRAIN, NUM_TRAIN)  # epoch 1
    seen = [by_image[image] for _, _, image in stream]
    assert seen == [index for _, index, _ in stream]
    shards = np.array_split(np.arange(NUM_TRAIN), NUM_SHARDS)
    order = rng.permutation(NUM_SHARDS, rng.fold_pair(3, rng.Stream.ORDER, 1)).numpy()
    records = np.concatenate([shards[shard] for shard in order])
    windows = -(-NUM_TRAIN // WINDOW)
    expected = []
    for number in range(windows):
        window = records[number * WINDOW:(number + 1) * WINDOW]
        key = rng.fold_pair(3, rng.Stream.WINDOW, windows + number)
        expected += window[rng.permutation(len(window), key).numpy()].tolist()
    assert seen == expected


@pytest.mark.parametrize("start", [1, WINDOW, WINDOW + 5, 60, NUM_TRAIN - 1, NUM_TRAIN, 2 * NUM_TRAIN + 37])
def test_a_stream_resumed_anywhere_goes_on_as_if_nothing_had_happened(data_dir, start):
    reader = _streamed(data_dir).splits["train"].reader
    whole = _stream(reader, 3, 0, start + 40)
    assert _stream(reader, 3, start, 40) == whole[start:]


def test_another_seed_is_another_order(data_dir):
    reader = _streamed(data_dir).splits["train"].reader
    assert _stream(reader, 3, 0, 50) != _stream(reader, 4, 0, 50)


def test_resuming_opens_no_shard_that_is_skipped(data_dir):
    reader = _streamed(data_dir).splits["train"].reader
    order = rng.permutation(NUM_SHARDS, rng.fold_pair(3, rng.Stream.ORDER, 0)).numpy()
    paths = list(reader.paths)
    paths[order[0]] = "/nowhere"
    moved = Windowed(paths, reader.lengths, reader.skips, reader.decode, reader.window)
    past = -(-reader.lengths[order[0]] // WINDOW) * WINDOW  # the first window boundary behind the first shard
    assert _stream(moved, 3, past, 10) == _stream(reader, 3, past, 10)
    records = next(iter(moved.examples(3, 0)))["record"].numpy()
    assert not all(records)  # those of the shard that is not there are empty


def test_known_statistics_are_given_by_name(data_dir):
    assert statistics.KNOWN["cifar10"] == ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    assert _open(data_dir).mean is None


class TinyArchive(tfds.core.GeneratorBasedBuilder):
    """A set with one original file: a line `label pixel` per image."""

    VERSION = tfds.core.Version("1.0.0")
    ORIGINAL = "".join(f"{index % 2} {index}\n" for index in range(12)).encode()
    URL = "http://tiny.invalid/tiny.txt"

    @property
    def url_infos(self):
        digest = hashlib.sha256(self.ORIGINAL).hexdigest()
        info = tfds.core.download.checksums.UrlInfo(tfds.core.utils.Size(len(self.ORIGINAL)), digest, "tiny.txt")
        return {self.URL: info}

    def _info(self):
        features = {"image": tfds.features.Image(shape=(4, 4, 1)), "label": tfds.features.ClassLabel(num_classes=2)}
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features),
                                              supervised_keys=("image", "label"))

    def _split_generators(self, dl_manager):
        path = dl_manager.download(self.URL)
        return {"train": self._generate_examples(path, 0), "test": self._generate_examples(path, 8)}

    def _generate_examples(self, path, first):
        for line in path.read_text().splitlines()[first:]:
            label, pixel = map(int, line.split())
            yield pixel, {"image": np.full((4, 4, 1), pixel, np.uint8), "label": label}


@pytest.mark.parametrize("place", ["manual", "cache"])
def test_original_files_are_prepared_without_a_network(tmp_path, no_network, monkeypatch, place, capfd):
    monkeypatch.setattr(tfds_prepare, "_builder", lambda config: TinyArchive(data_dir=config.data_dir))
    config = DataConfig(dataset="tiny_archive", data_dir=str(tmp_path))
    with pytest.raises(UserError, match=r"\(tiny.txt\) in [^\n]* found neither, and no connection to tiny.invalid"):
        tfds_module.open_tfds(config, source.Rules())
    folder, name = tmp_path / "downloads" / "manual", "tiny.txt"
    if place == "cache":
        digest = hashlib.sha256(TinyArchive.ORIGINAL).hexdigest()
        folder, name = tmp_path / "downloads" / "tiny_archive", resource.get_dl_fname(TinyArchive.URL, digest)
    folder.mkdir(parents=True)
    (folder / name).write_bytes(TinyArchive.ORIGINAL)
    if place == "cache":
        (folder / f"{name}.INFO").write_text('{"original_fname": "tiny.txt"}')
    first = tfds_module.open_tfds(config, source.Rules())
    assert first.splits["train"].num_examples == 12
    assert capfd.readouterr().out == ""  # stdout is not TFDS' to write on
    monkeypatch.undo()
    prepared = registry.open_source(config)  # prepared elsewhere and copied: no builder, no originals needed
    assert prepared.fingerprint == first.fingerprint


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network")
    monkeypatch.setattr(tfds_prepare.socket, "create_connection", refuse)


def test_without_data_and_network_both_ways_on_are_named(tmp_path, no_network):
    with pytest.raises(UserError) as caught:
        _open(str(tmp_path), "cifar10")
    message = str(caught.value)
    for part in ("--dataset=cifar10", str(tmp_path / "cifar10"), "cifar-10-binary.tar.gz",
                 str(tmp_path / "downloads" / "manual"), "prepare it elsewhere", "run again"):
        assert part in message
    assert "\n" not in message


def test_sets_that_are_fetched_by_hand_say_so(tmp_path):
    with pytest.raises(UserError, match=r"^--dataset=imagenet2012: [^\n]*ILSVRC2012_img_train.tar[^\n]*$"):
        _open(str(tmp_path), "imagenet2012")


def test_a_wrong_original_file_is_named(tmp_path, no_network):
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    (manual / "cifar-10-binary.tar.gz").write_bytes(b"something else")
    with pytest.raises(UserError, match=r"^--dataset=cifar10: expected the original files[^\n]*checksum[^\n]*$"):
        _open(str(tmp_path), "cifar10")


def test_a_set_for_another_task_is_refused_before_anything_is_downloaded(tmp_path):
    with pytest.raises(UserError, match="^--dataset: expected an image-classification set"):
        _open(str(tmp_path), "imdb_reviews")
