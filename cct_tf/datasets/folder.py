"""`--dataset=folder` and `table`: image files, held decoded, held as bytes, or read from disk.

    all of one size, and fits in --in_memory_gib as pixels    held.Held
    fits as it is, encoded                                    encoded.Encoded, bytes held
    neither                                                   encoded.Encoded, on disk
"""

import contextlib
import dataclasses
import importlib.util
import os

import numpy as np
import PIL
import tensorflow as tf

from cct_tf.data import label_kinds, splits, twins
from cct_tf.datasets import files as files_lib
from cct_tf.datasets import image_files, tree
from cct_tf.datasets.checked import Checked
from cct_tf.errors import UserError
from cct_tf.images import decode, pixel_type
from cct_tf.machine import files as remote_files
from cct_tf.readers import flat, headers, loading, progress, tensors

_MANY = 10_000  # files whose first bytes take long enough for a bar


def open_folder(config, rules, stream=None, part=None, cache=None, recorded=None):
    """Open an image folder or a table.

    Args:
        config: DataConfig.
        rules: source.Rules.
        stream: text stream for progress, or None.
        part: tree.Part, the splits to open: no file of another is opened. None opens all.
        cache: pathlib.Path of the folder that remembers which files were looked at, see `checked`, or None.
        recorded: recorded_files.RecordedFiles of a run that bears broken images: no other files are left out. None
            looks which are broken.

    Returns:
        source.Source.

    Raises:
        UserError: the data is not as `tree` or `table` say, an image is broken and --on_bad_image=stop, or a set to be
            held exceeds the free memory.
    """
    listing = image_files.take(config, part)
    kept = listing = recorded.restored(listing, config) if recorded else listing
    if recorded:
        kept = recorded.without_left_out(listing)
    subsets = {split: splits.Subset(None, np.arange(len(files)), kept.labels[split], files)
               for split, files in kept.files.items()}
    subsets = _needed(subsets, config, rules, part)
    opened = _Opened(config, listing, files_lib.joined(subset.files for subset in subsets.values()),
                     part is None or len(subsets) == len(listing.files), cache, stream)
    with _read_once(opened):
        return _opened(opened, subsets, rules, part, recorded)


@contextlib.contextmanager
def _read_once(opened):
    """While a set is opened its files are looked at several times: fetch each remote one once, if they may be held."""
    if not remote_files.is_remote(opened.listing.root) or opened.total[1] > opened.config.in_memory_gib * tensors.GIB:
        yield
        return
    tensors.require_memory(int(opened.files.sizes.sum()), opened.config.data_dir)
    with remote_files.remembering():
        with progress.count(len(opened.names), f"fetching {opened.config.data_dir}", opened.stream) as advance:
            remote_files.fetch(opened.paths.numpy().tolist(), advance)
        yield


def _opened(opened, subsets, rules, part, recorded):
    """The `source.Source` of files that were listed; `subsets` are those of `_needed`."""
    config, listing = opened.config, opened.listing
    held = False if recorded and recorded.broken else part and part.held
    with opened.broken_noted():
        rules, notes = _settle_bit_depth(rules, opened, part is not None)
        images = loading.whole(opened.paths, opened.names, True, rules.settled_depth, opened.pixel_type)
        images = dataclasses.replace(images, note=opened.note)
        make_reader, good = open_images(images, opened, held, bool(recorded))
    left_out, start = _left_out(opened, subsets, images, good, recorded), 0
    for split, subset in subsets.items():
        indices = np.arange(start, start + len(subset.labels))
        start += len(indices)
        subsets[split] = splits.without_broken(dataclasses.replace(subset, make_reader=make_reader, indices=indices),
                                               good)
    found = {"notes": listing.notes + notes} | left_out
    if part is None:
        found = splits.indexed_source(config, rules, listing.class_names, subsets,
                                      extra=_lines(files_lib.joined(listing.files.values())),
                                      every_class=listing.every_class, **found)
        return dataclasses.replace(found, notes=found.notes + twins.notes(listing.root, list(found.splits.values())))
    if _is_held_out_late(config):
        subsets = splits.divided(subsets, config, rules.split)
    subsets = {split: subsets[split] for split in part.splits}
    return splits.part_source(config, rules, listing.class_names, subsets, **found)


def _is_held_out_late(config):
    """Whether it can't be told which images are held out before they were looked at: broken ones count for nothing."""
    return config.holds_out and config.on_bad_image == "skip"


def _left_out(opened, subsets, images, good, recorded):
    """"broken" and "left_out" of `source.Source`; `good` as of `open_images`, `subsets` with the broken images."""
    rows, start, broken = [], 0, iter(loading.broken_images(images, good))
    for split, subset in subsets.items():
        for place in np.flatnonzero(~good[start:start + len(subset.labels)]):
            file = subset.files[place]
            rows.append({"split": split, "path": os.fsdecode(file.path), "size": file.size,
                         "label": label_kinds.plain(subset.labels[place]),
                         "reason": next(broken)[1] + opened.note(start + place)})
        start += len(subset.labels)
    rows = (*(recorded.left_out if recorded else ()), *rows)
    names = [os.path.join(opened.listing.root, tree.shown(row["path"])) for row in rows]
    return {"broken": tuple((name, row["reason"]) for name, row in zip(names, rows, strict=True)),
            "left_out": rows if opened.config.on_bad_image == "skip" else None}


def _needed(subsets, config, rules, part):
    """Those of `subsets` (dict of Subset by split, of all files listed) that have to be opened, in their order."""
    if part is None:
        return subsets
    if _is_held_out_late(config):
        needed = {"train" if split == "validation" else split for split in part.splits}
    else:
        subsets, needed = splits.divided(subsets, config, rules.split), part.splits
    return {split: subset for split, subset in subsets.items() if split in needed}


def _lines(files):
    """What of the files counts towards the fingerprint."""
    for path, size, _ in files.rows():
        yield f"file {path.decode('utf-8', 'backslashreplace')} {size}"


class _Names:
    """Paths of files for people, made when they are asked for: a sequence of str."""

    def __init__(self, root, paths):
        self._root, self._paths = root, paths

    def __len__(self):
        return len(self._paths)

    def __getitem__(self, place):
        return os.path.join(self._root, decode.shown(bytes(self._paths[place])))


class _Opened:
    """The files that are opened, and what was found about them before.

    Attributes:
        config, stream: as for `open_folder`.
        files: `files.Files`, n of them.
        paths: string [n] tensor.
        names: sequence of n paths, for messages.
        total: (files, bytes) of all that were listed.
        pixel_type: `pixel_type.PixelType`, what the images become.
    """

    def __init__(self, config, listing, files, are_all, cache, stream):
        self.config, self.files, self.stream = config, files, stream
        self.pixel_type = pixel_type.of_config(config)
        self.listing, self._are_all, self._cache = listing, are_all, cache
        self.paths, self.names = self.of(files)
        listed = listing.files.values()
        self.total = sum(map(len, listed)), sum(int(found.sizes.sum()) for found in listed)

    def of(self, files):
        """(string tensor of paths, sequence of names) of some files."""
        return (tensors.on_cpu(files_lib.below(self.listing.root, files.paths)),
                _Names(self.listing.root, files.paths))

    def note(self, place):
        """What else is said of a broken file: the row of the table that names it, " (row 5 of birds.csv)", or ""."""
        number = 0 if self.files.numbers is None else self.files.numbers[place]
        return f" (row {number} of {self.config.data_dir})" if number else ""

    @contextlib.contextmanager
    def broken_noted(self):
        """Add the `note` to the BrokenImage of a file."""
        try:
            yield
        except decode.BrokenImage as error:
            starts = ((place, f"broken image: {name}") for place, name in enumerate(self.names))
            found = next(((self.note(place), start) for place, start in starts if str(error).startswith(f"{start}: ")),
                         ("", ""))
            if not found[0]:
                raise
            raise decode.BrokenImage(f"{found[1]}{found[0]}{str(error).removeprefix(found[1])}") from error

    def paths_of(self, places):
        """Array of bytes, the paths of the files at these places."""
        return files_lib.below(self.listing.root, self.files.paths[places])

    def checked(self, kind):
        """The `Checked` of one kind of look. The packages that look are part of it."""
        kind = f"{kind}; pillow {PIL.__version__}, heif {importlib.util.find_spec('pillow_heif') is not None}, at most "
        is_dated = not remote_files.is_remote(self.listing.root) or self.files.times.all()  # some places tell no times
        return Checked(self._cache if is_dated else None, self.listing.root, f"{kind}{decode.MAX_PIXELS} pixels",
                       self.files, self._are_all)


def _settle_bit_depth(rules, opened, others_count):
    """As `loading.settle_bit_depth`; `others_count`: files that are listed but not opened have to be looked at too."""
    what, kind = f"looking at {opened.config.data_dir}", opened.pixel_type
    if rules.bit_depth is not None or kind.bits == 16 or not kind.is_colour_or_grey:
        return loading.settle_bit_depth(rules, opened.paths, opened.names, True, what, opened.stream, kind)
    checked = opened.checked("at most 8 bits a channel")
    unknown = checked.unknown()
    with progress.count(len(unknown), what, opened.stream if len(unknown) > _MANY else None) as advance:
        wide = headers.find_wide(opened.paths_of(unknown), advance)
    checked.add(np.delete(unknown, wide))
    files = opened.files[unknown[wide]]
    if wide and others_count:
        files = files_lib.joined(opened.listing.files.values())
    return loading.settle_bit_depth(rules, *opened.of(files), True, what, opened.stream)


def open_images(images, opened, held, bears=False):
    """Decide how to hold image files, and read them.

    Args:
        images: encoded.Encoded on disk, of `loading.whole`.
        opened: _Opened.
        held: bool, whether they are held decoded if they are of one size; None: if all that were listed fit.
        bears: bool, whether files on disk are not looked at, for the run bears those that are broken.

    Returns:
        (function of indices -> reader, bool [n] False where the image is broken).
    """
    config, stream, number = opened.config, opened.stream, len(images.names)
    limit, on_bad, what = config.in_memory_gib * tensors.GIB, config.on_bad_image, f"decoding {config.data_dir}"
    shape = loading.first_shape(images, on_bad)
    if shape is None:
        raise UserError(f"{config.data_dir}: expected images that can be decoded, found {number} broken ones")
    if opened.total[0] * shape[0] * shape[1] * images.pixel_type.num_bytes <= limit if held is None else held:
        found = flat.decoded(images, shape, limit, config, what, stream)
        if found is not None:
            return found
    if opened.total[1] <= limit:
        num_bytes = int(opened.files.sizes.sum())
        tensors.require_memory(2 * num_bytes, config.data_dir)  # twice: TensorFlow copies them
        images = dataclasses.replace(images, contents=_read(images.contents, on_bad), on_disk=False)
    good = np.ones(number, bool) if bears and images.on_disk else _verify(images, opened, what)
    return lambda indices: dataclasses.replace(images, indices=indices), good


def _read(paths, on_bad):
    """String [n] tensor of the files' bytes; empty where a file cannot be read and on_bad is "skip"."""
    contents = []
    for path in paths.numpy():
        try:
            contents.append(decode.read_bytes(path))
        except decode.BrokenImage:
            if on_bad == "stop":
                raise
            contents.append(b"")
    return tensors.on_cpu(contents)


def _verify(images, opened, what):
    """bool [n]: held bytes, and everything that may be skipped, are decoded once; else the headers on disk are read.

    What was found good by an earlier start is not looked at again.
    """
    on_bad, good = opened.config.on_bad_image, np.ones(len(images.names), bool)
    if images.on_disk and on_bad == "stop":
        _check_headers(opened, what.replace("decoding", "checking"))
        return good
    kind = f"decoded, {images.bit_depth} bits{images.pixel_type.describe()}, tensorflow {tf.__version__}"
    checked = opened.checked(kind)
    unknown = checked.unknown()
    if len(unknown) < len(good):  # all of them are not copied
        images = loading.whole(tf.gather(images.contents, unknown), [images.names[place] for place in unknown],
                               images.on_disk, images.bit_depth, images.pixel_type)
    if len(unknown):
        good[unknown] = loading.find_broken(images, on_bad, what, opened.stream)
    checked.add(unknown[good[unknown]])
    return good


def _check_headers(opened, what):
    """Raise BrokenImage of the first file on disk that does not begin like an image."""
    checked, done = opened.checked("header"), 0
    unknown = checked.unknown()

    try:
        with progress.count(len(unknown), what, opened.stream if len(unknown) else None) as advance:
            for number in headers.check_many(opened.paths_of(unknown)):
                done += number
                advance(number)
    finally:  # an interrupted look, or one that found a broken file, goes on from there
        checked.add(unknown[:done])
