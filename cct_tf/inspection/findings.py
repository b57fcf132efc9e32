"""What the facts of a data set's images amount to: plain values, as JSON has them.

Legend: n images of all splits together.
"""

import collections
import pathlib

import numpy as np

_BANDS = 4  # of 16 bits of a perceptual hash; two images are compared if one band is equal
_NEAR = 6.0  # levels, mean difference of two thumbnails that show the same
_PLAIN = 4.0  # levels, deviation of a thumbnail below which it shows nothing
_MOST_PAIRS = 2_000_000  # compared in a band
_SKEW = 0.05  # of the share of a class between two splits


def find(facts, class_names):
    """dict of the findings, by what they are.

    Args:
        facts: `facts.Facts`.
        class_names: sequence of K strings.
    """
    equal, classes = _equal(facts), _classes(facts, class_names)
    return {
        "images": dict(collections.Counter(facts.splits.tolist())),
        "classes": classes,
        "sizes": _sizes(facts.sizes),
        "formats": dict(collections.Counter(map(_format, facts.names)).most_common()),
        "grey": int(facts.grey.sum()),
        "widened": int(facts.widened.sum()),
        "broken": [list(pair) for pair in facts.broken],
        "equal": [_described(facts, group) for group in equal],
        "contradictions": [_described(facts, group) for group in equal
                           if len({facts.labels[index] for index in group}) > 1],
        "equal_across_splits": [_described(facts, group) for group in equal
                                if len({facts.splits[index] for index in group}) > 1],
        "near_across_splits": [_described(facts, pair) for pair in _near(facts)],
        "plain": int(_is_plain(facts).sum()),
        "skew": _skew(facts, classes),
    }


def _format(name):
    """The ending of a file's name; "none" of an image that is no file, such as "row 1 of mine.py:load"."""
    ending = pathlib.PurePath(str(name)).suffix.lower()
    return ending if ending[1:].isalnum() else "none"


def _described(facts, group):
    return [{"split": facts.splits[index], "image": str(facts.names[index]), "label": list(facts.labels[index])}
            for index in group]


def _classes(facts, class_names):
    """{class: {split: images}}."""
    found = {name: dict.fromkeys(dict.fromkeys(facts.splits.tolist()), 0) for name in class_names}
    for split, labels in zip(facts.splits, facts.labels, strict=True):
        for label in labels:
            found[label][split] += 1
    return found


def _sizes(sizes):
    """Of height and width the smallest, the median and the largest; the number of different sizes."""
    if not len(sizes):
        return {}
    return {"different": len(np.unique(sizes, axis=0))} | {
        name: [int(value) for value in (column.min(), np.median(column), column.max())]
        for name, column in (("height", sizes[:, 0]), ("width", sizes[:, 1]))}


def _equal(facts):
    """Lists of indices of images with the same pixels."""
    groups = collections.defaultdict(list)
    for index, digest in enumerate(facts.digests):
        groups[digest].append(index)
    return [group for group in groups.values() if len(group) > 1]


def _is_plain(facts):
    return facts.thumbs.std(axis=(1, 2)) < _PLAIN


def _near(facts):
    """Pairs of indices of images in two splits that show nearly the same, without those that are equal.

    Compared are images that have 16 bits of their perceptual hashes in common, in one of four places; then their
    thumbnails decide. Plain images, such as a white page, are left out: all of them look alike.
    """
    splits = np.unique(facts.splits.astype(str), return_inverse=True)[1]
    candidates = np.flatnonzero(~_is_plain(facts))
    thumbs, found = facts.thumbs.astype(np.int16), set()
    for band in range(_BANDS):
        keys = (facts.hashes[candidates] >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        order = np.argsort(keys, kind="stable")
        for members in np.split(candidates[order], np.flatnonzero(np.diff(keys[order])) + 1):
            found.update(_near_of(members, splits, thumbs, facts.digests))
    return sorted(found)


def _near_of(members, splits, thumbs, digests):
    """Pairs among some images, int64 [m], that are in different splits and near."""
    if len(np.unique(splits[members])) < 2:
        return
    rows = max(1, _MOST_PAIRS // len(members) // 256)
    for start in range(0, len(members), rows):
        block = members[start:start + rows]
        difference = np.abs(thumbs[block][:, None] - thumbs[members][None]).mean(axis=(2, 3))
        near = (difference <= _NEAR) & (splits[block][:, None] != splits[members][None])
        for first, second in zip(*np.nonzero(near), strict=True):
            pair = tuple(sorted((int(block[first]), int(members[second]))))
            if digests[pair[0]] != digests[pair[1]]:
                yield pair


def _skew(facts, counts):
    """Classes whose share in another split is not that of training: list of [class, split, share, share in train].

    `counts` is of `_classes`.
    """
    totals = collections.Counter(facts.splits.tolist())
    found = []
    for name, by_split in counts.items():
        for split, number in by_split.items():
            share, of_train = number / totals[split], by_split.get("train", 0) / max(totals["train"], 1)
            if split != "train" and abs(share - of_train) > _SKEW:
                found.append([name, split, round(share, 4), round(of_train, 4)])
    return sorted(found, key=lambda row: -abs(row[2] - row[3]))
