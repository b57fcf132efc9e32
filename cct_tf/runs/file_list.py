"""`files.txt` of a work folder: the image files (of a folder or table) that a run uses, to say what changed among them.

    fingerprint 3f0c...                 of the images and splits that are listed
    train   cat     2031    cat/1.jpg   split, class, bytes, path below --data_dir; a tab between them

Nothing else is done with it: a run without it goes on, and counts are compared instead. No TensorFlow here.
"""

import os

_NAMED = 3  # files of each kind of change


def _escaped(name):
    """Bytes of a name as printable text of one line, so that different names stay different."""
    text = name.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else "".join(f"\\x{byte:02x}" for byte in letter.encode())
                   for letter in text)


def _head(fingerprint):
    return f"fingerprint {fingerprint}"


def _rows(source, splits=None):
    """(split, class, bytes, path) of every file, text each; of the files of some splits if they are named."""
    classes = [_escaped(os.fsencode(name)) for name in source.class_names]
    for split in (source.splits[name] for name in splits or source.splits):
        for label, file in zip(split.labels.tolist(), split.files, strict=True):
            if isinstance(label, list):  # 0 and 1 of each class
                name = ";".join(name for name, is_there in zip(classes, label, strict=True) if is_there)
            else:
                name = classes[label]
            yield split.name, name, str(file.size), _escaped(file.path)


def write(workdir, source):
    """Replace the list by that of `source` (`source.Source` of an image folder), unless it is that already."""
    head = _head(source.fingerprint)
    try:
        with open(workdir.files, encoding="utf-8") as file:
            if file.readline() == head + "\n":
                return
    except (FileNotFoundError, UnicodeDecodeError):
        pass
    workdir.write_text(workdir.files, "".join(f"{line}\n" for line in [head, *map("\t".join, _rows(source))]))


def _read(path, fingerprint):
    """{path: (split, class, bytes)} as listed; None where there is no list of that fingerprint."""
    try:
        head, *lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        rows = [line.split("\t") for line in lines]
        found = {name: (split, label, size) for split, label, size, name in rows}
        return found if head == _head(fingerprint) else None
    except (OSError, ValueError):
        return None


def _named(what, names):
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return f"{len(names):,} {what} ({', '.join(names[:_NAMED])}{more})"


def changes(workdir, resolved, source, splits=None):
    """What is different in the files now, as text.

    Args:
        workdir: `workdir.Workdir`.
        resolved: `resolved.Resolved` of the run's checkpoint.
        source: `source.Source` of an image folder, opened now.
        splits: names of the splits to compare, or None for all.

    Returns:
        Text such as "1 added (cat/9.jpg), 1 of another size (dog/2.jpg)"; the counts of images before and now where
        there is no list of the files before.
    """
    before = _read(workdir.files, resolved.fingerprint)
    if before is None:
        counts = resolved.num_examples, {name: split.num_examples for name, split in source.splits.items()}
        return ", ".join(f"{name} {counts[0].get(name, 0):,} -> {counts[1].get(name, 0):,} images"
                         for name in splits or dict.fromkeys([*counts[0], *counts[1]]))
    if splits:
        before = {name: found for name, found in before.items() if found[0] in splits}
    now = {name: tuple(values) for *values, name in _rows(source, splits)}
    both = [name for name in now if name in before]
    kinds = {"added": [name for name in now if name not in before],
             "removed": [name for name in before if name not in now],
             "of another size": [name for name in both if before[name][2] != now[name][2]],
             "of another class": [name for name in both if before[name][1] != now[name][1]],
             "in another split": [name for name in both if before[name][0] != now[name][0]]}
    return ", ".join(_named(what, names) for what, names in kinds.items() if names) or (
        "the same files, split or weighted anew")
