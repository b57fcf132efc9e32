"""Splitting: which images are for training, validation and test, and the Source made of them."""

import collections
import dataclasses
import hashlib
import itertools

import numpy as np
import tensorflow as tf

from cct_tf import rng
from cct_tf.data import folds, holding_out, label_kinds, source
from cct_tf.errors import UserError


@dataclasses.dataclass(frozen=True)
class Subset:
    """Images as the data set itself splits them.

    Attributes:
        make_reader: function of indices (int64 NumPy array) -> `readers.reader.Reader`.
        indices: int64 [m], the subset's images among those of the reader.
        labels: int32 [m], their labels; uint8 [m, K] of 0 and 1 where an image may have several.
        files: `files.Files` of them, or object [m] of `source.File`s; None where the images are no files.
    """

    make_reader: collections.abc.Callable
    indices: np.ndarray
    labels: np.ndarray
    files: np.ndarray | None = None

    def of(self, chosen):
        """The subset of the images at these places: int [m'], or bool [m]."""
        return Subset(self.make_reader, self.indices[chosen], self.labels[chosen],
                    None if self.files is None else self.files[chosen])


def stratified(labels, fraction, seed, rule, files=None):
    """Hold out a share of every class, at random but fixed by (seed, class), and the paths where there are any.

    Args:
        labels: int [n], or uint8 [n, K], see `label_kinds.stratified`.
        fraction: share held out, 0 to 1.
        seed: Python int.
        rule: `source.Rules.split`, see `holding_out`.
        files: as in `Subset`.

    Returns:
        (kept, held_out): ascending int64 positions in `labels`.
    """
    def ordered(members, label):
        if rule >= 2 and files is not None:
            return members[holding_out.order_of([file.path for file in files[members]], seed)]
        with tf.device("CPU:0"):
            return members[rng.permutation(len(members), rng.fold_pair(seed, rng.Stream.SPLIT, label)).numpy()]

    if labels.ndim == 2:
        held_out = label_kinds.stratified(labels, fraction, rule, ordered)
        return np.flatnonzero(~held_out), np.flatnonzero(held_out)
    held_out = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        number = holding_out.number(len(members), fraction, rule)
        if number:
            held_out[ordered(members, int(label))[:number]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _hold_out(subset, config, rule):
    """Subset -> (training subset, validation subset) by --validation_fraction or --fold, and --split_seed."""
    groups = getattr(subset.files, "groups", None)
    folds.check(config, subset.labels, groups, rule=rule)
    if config.fold:
        held_out = folds.held_out(config, subset.labels, groups)
        return subset.of(~held_out), subset.of(held_out)
    kept, held_out = stratified(subset.labels, config.validation_fraction, config.split_seed, rule, subset.files)
    return subset.of(kept), subset.of(held_out)


def divided(subsets, config, rule):
    """dict of Subset by split, with the validation split held out if one is asked for; from "train", if it is there."""
    if not config.holds_out or "train" not in subsets:
        return dict(subsets)
    kept, held_out = _hold_out(subsets["train"], config, rule)
    return subsets | {"train": kept, "validation": held_out}


def without_broken(subset, good):
    """The subset less the images for which `good` (bool, by the reader's index) is False."""
    return subset.of(good[subset.indices])


def _lacking(class_names, splits, limit=3):
    """Lines for the plan that name the classes without an image in a split, the first few."""
    notes = ()
    for split in splits.values():
        lacked = [class_names[label] for label in label_kinds.missing(split.labels, len(class_names))]
        more = f" and {len(lacked) - limit} more" if len(lacked) > limit else ""
        if lacked:
            notes += (f"the {split.name} split has no image of {len(lacked)} of {len(class_names)} classes: "
                      f"{', '.join(lacked[:limit])}{more}",)
    return notes


def _splits(subsets, rules):
    """dict of `source.Split` of a dict of Subset."""
    return {name: source.Split(name, subsets[name].make_reader(subsets[name].indices), len(subsets[name].indices),
                               label_kinds.as_held(subsets[name].labels), subsets[name].files,
                               weights=getattr(subsets[name].files, "weights", None) if rules.table_weights else None,
                               groups=getattr(subsets[name].files, "groups", None))
            for name in ("train", "validation", "test") if name in subsets}


def weights_line(split):
    """What of the weights of the training split counts towards the fingerprint: a list of one line, or none."""
    if split.weights is None:
        return []
    return [f"weights {hashlib.sha256(np.ascontiguousarray(split.weights, '<f8').tobytes()).hexdigest()}"]


def _of_folds(config, rules, class_names, whole, divided_subsets, extra):
    """(`Source.folds_fingerprint`, what one of its folds adds to it: a list of lines).

    Args:
        whole, divided_subsets: dicts of Subset before and after the fold was held out.
        extra: as for `indexed_source`.
    """
    undivided = _splits(whole, rules)
    found = source.fingerprint(class_names, list(undivided.values()),
                               itertools.chain(extra, weights_line(undivided["train"])))
    places = np.flatnonzero(np.isin(whole["train"].indices, divided_subsets["validation"].indices))
    digest = hashlib.sha256(places.astype("<i8").tobytes()).hexdigest()
    return found, [f"fold {config.fold} of {found}, places {digest}"]


def _torn(splits, shown=3):
    """A line for the plan on groups that lie in two splits."""
    where = {}
    for split in splits.values():
        for group in set(() if split.groups is None else split.groups.tolist()) - {""}:
            where.setdefault(group, []).append(split.name)
    torn = sorted(group for group, names in where.items() if len(names) > 1)
    if not torn:
        return ()
    named = ", ".join(f"{group} ({', '.join(where[group])})" for group in torn[:shown])
    more = f" and {len(torn) - shown:,} more" if len(torn) > shown else ""
    what = "group lies" if len(torn) == 1 else "groups lie"
    return (f"{len(torn):,} {what} in more than one split: {named}{more}; --fold keeps groups of the training images "
            "whole",)


def part_source(config, rules, class_names, subsets, *, notes=(), broken=(), left_out=None):
    """The Source of some splits: a dict of Subset by split, held out already. Other arguments as `indexed_source`."""
    for name, subset in subsets.items():
        if not len(subset.indices):
            raise UserError(f"--dataset={config.dataset}: expected images in the {name} split, found none")
    splits = _splits(subsets, rules)
    first = splits.get("train", next(iter(splits.values())))  # other parts than "train" come with recorded rules
    return source.Source(
        name=config.dataset, class_names=tuple(class_names), splits=splits, mean=None, std=None, fingerprint=None,
        notes=tuple(notes), order="indexed", rules=rules.settled(first.reader.image_shape), broken=tuple(broken),
        left_out=left_out)


def indexed_source(config, rules, class_names, subsets, *, notes=(), known=None, extra=(), broken=(),
                   left_out=None, every_class=True):
    """The Source of a data set with random access, with the validation split held out if one is asked for.

    Args:
        config: DataConfig.
        rules: source.Rules.
        class_names: sequence of K strings.
        subsets: dict of Subset: "train", and "validation", "test" where the data set has them.
        notes: lines for the plan.
        known: (mean, std) of the training images, or None.
        extra: iterable of strings that count towards the fingerprint.
        broken, left_out: as in `source.Source`.
        every_class: whether a class without a training image is an error.

    Raises:
        UserError: a split without images; a class without a training image; nothing to evaluate on.
    """
    if len(class_names) < 2:
        raise UserError(f"--dataset={config.dataset}: expected at least two classes, found {len(class_names)}")
    for name, subset in subsets.items():
        if not len(subset.indices):
            raise UserError(f"--dataset={config.dataset}: expected images in the {name} split, found none")
    missing = label_kinds.missing(np.asarray(subsets["train"].labels), len(class_names))
    if len(missing) and every_class:
        raise UserError(f"--dataset={config.dataset}: expected at least one training image of every class, found none "
                        f"of {class_names[missing[0]]!r} (class {missing[0]})")
    if config.fold and "validation" in subsets:
        raise UserError("--fold: expected no validation split beside the folds, found one of "
                        f"--dataset={config.dataset}")
    if config.validation_fraction:
        if rules.split >= 2 and subsets["train"].files is not None:  # of which labels and files alone do not tell
            extra = itertools.chain(extra, [f"held out by rule {rules.split}, seed {config.split_seed}"])
    whole, subsets = subsets, divided(subsets, config, rules.split)
    if len(subsets) < 2:
        raise UserError(f"--validation_fraction: expected above 0, or --fold, for --dataset={config.dataset} has "
                        "neither a test nor a validation split, found 0")
    splits, of_folds = _splits(subsets, rules), None
    if config.fold:
        of_folds, extra = _of_folds(config, rules, class_names, whole, subsets, extra)
        if splits["train"].labels.ndim == 2:
            notes = (*notes, "the folds are not stratified, for images have several labels")
    else:
        extra = itertools.chain(extra, weights_line(splits["train"]))
    mean, std = known or (None, None)
    return source.Source(
        name=config.dataset, class_names=tuple(class_names), splits=splits, mean=mean, std=std,
        fingerprint=source.fingerprint(class_names, list(splits.values()), extra), folds_fingerprint=of_folds,
        notes=(*notes, *_lacking(class_names, splits), *_torn(splits)), order="indexed",
        rules=rules.settled(splits["train"].reader.image_shape), broken=tuple(broken), left_out=left_out)
