"""The image files of a data set, listed once: those of a folder or of a table. No TensorFlow, no decoding."""

from cct_tf.datasets import table, tree

_SCANS = {"folder": tree.scan, "table": table.scan}
DATASETS = tuple(_SCANS)
_listed = {}  # what `check` has listed last, by what it was asked for


def scan(config, part=None, stream=None):
    """List what --data_dir names: `tree.Tree`. Args and errors: as `tree.scan` and `table.scan`."""
    return _SCANS[config.dataset](config, part, stream)


def check(config, part=None, stream=None):
    """As `scan`, and keep the list for the `take` that follows: a large set takes seconds to list."""
    _listed.clear()
    found = _listed[_asked(config, part)] = scan(config, part, stream)
    return found


def keep(config, tree, part=None):
    """Keep a list that was made otherwise, for the `take` that follows."""
    _listed.clear()
    _listed[_asked(config, part)] = tree


def take(config, part=None):
    """The Tree that `check` has listed last; `scan` anew where it was asked for another, or it was taken before."""
    found = _listed.pop(_asked(config, part), None)
    _listed.clear()
    return found or scan(config, part)


def _asked(config, part):
    return (config.dataset, config.data_dir, config.train_split, config.test_split, config.validation_fraction,
            config.fold, config.on_bad_image, config.image_root, config.columns, config.class_names, config.task, part)
