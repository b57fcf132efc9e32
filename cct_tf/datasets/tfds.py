"""`--dataset=<TFDS name>`: image-classification sets of TensorFlow Datasets.

Up to --in_memory_gib a set is read once: images of one size as pixels (held.Held), others encoded
(encoded.Encoded). Larger ones are read from their shards as they are needed: by index where these are ArrayRecord files
(array_records.ArrayRecords), else as a stream (windowed.Windowed). In all cases the prepared shards are read here, not
by TFDS, and decoded with `decode`.
"""

import dataclasses
import os
import re

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from cct_tf.data import source, statistics
from cct_tf.datasets import encoded_images, tfds_prepare
from cct_tf.errors import UserError, nearest
from cct_tf.images import decode, pixel_type
from cct_tf.images.pixel_type import RGB
from cct_tf.readers import tensors
from cct_tf.readers.windowed import Windowed

# Sets whose test split has no labels: theirs is the validation split.
_UNLABELLED_TEST = ("imagenet2012",)


class RecordReader:
    """Reads serialized examples of one set; the `decode` of windowed.Windowed and array_records.ArrayRecords.

    Args:
        info: tfds.core.DatasetInfo.
        keys: (image key, label key).
        pixel_type: `pixel_type.PixelType`.
    """

    def __init__(self, info, keys, pixel_type=RGB):
        self.pixel_type = pixel_type
        self.image_key, self.label_key = keys
        # Only these two: other features would be parsed in vain.
        self._features = tfds.features.FeaturesDict({key: info.features[key] for key in keys})

    def encoded(self, record):
        """Serialized record (string scalar) -> (bytes of the image, label int64 scalar); decodes nothing."""
        example = self._features.deserialize_example(record, decoders={self.image_key: tfds.decode.SkipDecoding()})
        return example[self.image_key], tf.cast(example[self.label_key], tf.int64)

    def __call__(self, record):
        """Serialized record (string scalar) -> (image [H, W, C], label int64 scalar)."""
        image, label = self.encoded(record)
        return decode.decode(image, pixel_type=self.pixel_type), label


def open_tfds(config, rules, stream=None):
    """Open a TFDS set, preparing it first if its original files or a network are there.

    Args:
        config: DataConfig.
        rules: source.Rules.
        stream: text stream for progress, or None.

    Returns:
        source.Source.

    Raises:
        UserError: see `tfds_prepare.prepared_builder`; a split that is not there; not an image-classification set;
            damaged shards.
    """
    builder = tfds_prepare.prepared_builder(config, stream)
    info = builder.info
    keys = tfds_prepare.image_and_label(info)
    if keys is None:
        raise UserError(tfds_prepare.not_images(info, config))
    make_reader = _reader_of(config, builder)
    specs, notes = _split_specs(config, info)
    kind = pixel_type.of_config(config)
    decode_record = RecordReader(info, keys, kind)
    readers = {split: make_reader(*_shards(config, info, spec), decode_record) for split, spec in specs.items()}
    _require_disjoint(config, readers)
    class_names = tuple(info.features[keys[1]].names)
    known = statistics.KNOWN.get(builder.name)
    image_shape = info.features[keys[0]].shape
    uniform = None not in image_shape[:2]
    size = _size(readers, image_shape[:2] if uniform else None, kind.num_bytes)
    if size > config.in_memory_gib * tensors.GIB:
        return _from_shards(config, rules, class_names, readers, notes, known)
    tensors.require_memory(2 * size, config.dataset)  # twice: TensorFlow copies what it is given
    return _held(config, rules, class_names, readers, notes, known, stream)


def _split_specs(config, info):
    """({"train": TFDS split, "validation": ..., "test": ...}, notes for the plan)."""
    specs, notes = {"train": _checked(config.train_split, "train_split", info)}, ()
    own = "validation" in info.splits
    wanted = config.test_split
    unlabelled = wanted == "test" and info.name in _UNLABELLED_TEST
    if wanted != "test" or ("test" in info.splits and not unlabelled):
        specs["test"] = _checked(wanted, "test_split", info)
    elif own:
        specs["test"] = "validation"
        kind = "labelled test" if unlabelled else "test"
        notes += (f"the set's validation split is the test split, for there is no {kind} split",)
    elif not config.holds_out:
        raise UserError(f"--test_split: expected one of {', '.join(info.splits)}, or --validation_fraction above 0, "
                        f"found {wanted!r}")
    if own and "validation" not in _base_names(specs["train"]) | _base_names(specs.get("test", "")):
        if config.fold:
            raise UserError("--fold: expected no validation split beside the folds, found that of the set; "
                            "--train_split=train+validation takes its images too")
        if config.validation_fraction:
            notes += ("the set's own validation split is not used: --validation_fraction holds out training images "
                      "instead",)
        else:
            specs["validation"] = "validation"
    return specs, notes


def _base_names(spec):
    """{"train", "validation"} of "train[:90%]+validation"."""
    return set(re.findall(r"\w+", re.sub(r"\[.*?\]", "", spec)))


def _checked(spec, flag, info):
    try:
        if info.splits[spec].num_examples:
            return spec
        found = f"{spec!r}, which is empty"
    except (ValueError, KeyError, AssertionError) as error:
        found = repr(spec) + nearest(spec, info.splits) if spec.isidentifier() else \
            f"{spec!r}: {tfds_prepare.first_line(error)}"
    raise UserError(f"--{flag}: expected one of {', '.join(info.splits)}, or a slice such as train[:90%], found "
                    f"{found}")


def _reader_of(config, builder):
    """Function of (paths, lengths, skips, decode) -> a reader of the set's shards, whatever their format."""
    found = builder.info.file_format.value
    if found == "tfrecord":
        return lambda *shards: Windowed(*shards, config.shuffle_window)
    if found != "array_record":
        raise UserError(f"--dataset={config.dataset}: expected TFRecord or ArrayRecord files in {builder.data_dir}, "
                        f"found {found}; prepare the set again with the builder's file_format='array_record'")
    try:
        from cct_tf.readers import array_records
    except ImportError as error:
        raise UserError(f"--dataset={config.dataset}: expected the package array_record, which TFDS brings along on "
                        f"Linux, for the ArrayRecord files in {builder.data_dir}, found: "
                        f"{tfds_prepare.first_line(error)}") from error

    def make_reader(paths, lengths, skips, decode_record):
        unsound = array_records.find_unsound(paths, np.add(skips, lengths))
        if unsound:
            raise _unsound(config, *unsound)
        return array_records.ArrayRecords(paths, lengths, skips, decode_record)

    return make_reader


def _unsound(config, path, found):
    return UserError(f"--dataset={config.dataset}: expected a sound shard at {path}, found: {found}; copy it again or "
                     "delete the folder and prepare the set again")


def _shards(config, info, spec):
    """The shards of a TFDS split in file order: lists of paths, of lengths (records of the split), of skips."""
    shards = [shard for shard in info.splits[spec].file_instructions if shard.take]
    for shard in shards:
        if not os.path.exists(shard.filename):
            raise UserError(f"--dataset={config.dataset}: expected the shard {shard.filename}, found nothing; copy it "
                            "or delete the folder and prepare the set again")
    return ([os.fspath(shard.filename) for shard in shards], [shard.take for shard in shards],
            [shard.skip for shard in shards])


def _require_disjoint(config, readers):
    """Raise UserError if an example would be both trained and evaluated on."""
    def spans(split):
        reader = readers[split]
        return list(zip(reader.paths, reader.skips, reader.lengths, strict=True))

    for split in readers.keys() - {"train"}:
        for path, skip, length in spans(split):
            if any(path == other and skip < other_skip + other_length and other_skip < skip + length
                   for other, other_skip, other_length in spans("train")):
                raise UserError(f"--test_split: expected no image of --train_split={config.train_split}, found that "
                                f"the {split} split shares some")


def _size(readers, shape, num_bytes):
    """Bytes of a set held in memory: pixels of `num_bytes` if all images have one `shape` (H, W), else encoded ones."""
    if shape:
        return sum(len(reader) for reader in readers.values()) * shape[0] * shape[1] * num_bytes
    return sum(os.path.getsize(path) for path in {path for reader in readers.values() for path in reader.paths})


def _from_shards(config, rules, class_names, readers, notes, known):
    """A Source of readers of shards; the validation split is the tail of the training records."""
    if config.fold:
        raise UserError("--fold: expected none for a TFDS set that is not held in memory, whose labels are not known "
                        f"beforehand, found {config.fold}")
    if config.validation_fraction:
        total = len(readers["train"])
        number = int(config.validation_fraction * total + 0.5)
        if not 0 < number < total:
            raise UserError(f"--validation_fraction: expected a share that leaves images on both sides of "
                            f"{total:,} records, found {config.validation_fraction:g}")
        readers["train"], readers["validation"] = readers["train"].cut(total - number)
        notes += (f"validation split unstratified: the last {number:,} of {total:,} records of {config.train_split}, "
                  "which may lack classes",)
    found = {name: source.Split(name, readers[name], len(readers[name]), None)
             for name in ("train", "validation", "test") if name in readers}
    # Labels stay unread; the shards' names and records stand for them.
    extra = [f"shard {name} {os.path.basename(path)} {skip} {length}" for name, split in found.items()
             for path, skip, length in zip(split.reader.paths, split.reader.skips, split.reader.lengths, strict=True)]
    mean, std = known or (None, None)
    return source.Source(name=config.dataset, class_names=class_names, splits=found, mean=mean, std=std,
                         fingerprint=source.fingerprint(class_names, list(found.values()), extra), notes=notes,
                         order=readers["train"].shuffling, rules=dataclasses.replace(rules, bit_depth=16).settled(None))


def _held(config, rules, class_names, readers, notes, known, stream):
    """A Source of Held or Encoded readers."""
    contents, labels, names, start, members = [], [], [], 0, {}
    for split, reader in readers.items():
        for found, values, classes in _encoded_shards(config, reader):
            contents += values
            names += found
            labels.append(classes)
        members[split] = np.arange(start, len(contents))
        start = len(contents)
    labels = np.concatenate(labels)
    _require_labels(config, labels, members, len(class_names))
    return encoded_images.open_encoded(config, rules, class_names, contents, labels, names, members, stream,
                                       known=known, notes=notes)


def _encoded_shards(config, reader):
    """Yield (names, list of encoded images, int64 labels) for the shards of a reader."""
    for path, skip, length in zip(reader.paths, reader.skips, reader.lengths, strict=True):
        one = dataclasses.replace(reader, paths=[path], lengths=[length], skips=[skip])
        examples = one.records().map(reader.decode.encoded, num_parallel_calls=tensors.num_threads())
        try:
            pairs = list(examples.batch(1024).as_numpy_iterator())
        except tf.errors.OpError as error:
            raise _unsound(config, path, tfds_prepare.first_line(error)) from error
        names = [f"{path} (record {skip + number})" for number in range(length)]
        yield names, [image for images, _ in pairs for image in images], np.concatenate([label for _, label in pairs])


def _require_labels(config, labels, members, num_classes):
    for split, indices in members.items():
        if labels[indices].min() < 0 or labels[indices].max() >= num_classes:
            flag = {"train": "train_split", "test": "test_split"}.get(split, "dataset")
            raise UserError(f"--{flag}: expected labels from 0 to {num_classes - 1} in the {split} split of "
                            f"{config.dataset}, found {labels[indices].min()} to {labels[indices].max()} "
                            "(-1: published without labels)")
