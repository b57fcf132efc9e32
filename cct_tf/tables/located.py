"""Where the images of a table lie: a root, and paths relative to it. No TensorFlow here."""

import os
import posixpath

from cct_tf.errors import UserError
from cct_tf.machine import files


def relative(table, root, numbers, paths):
    """(root, paths relative to it). It is "/" where a path is absolute and leads elsewhere, `gs://` where one is such.

    Args:
        table: what messages call the table.
        root: the folder that paths are relative to, text.
        numbers: rows of the paths.
        paths: list of text.

    Raises:
        UserError, OutsideFault: images lie in different kinds of places, or in one that can't be reached.
    """
    if any(map(files.is_remote, paths)) or files.is_remote(root) and not all(map(os.path.isabs, paths)):
        return _remote(table, root, numbers, paths)
    paths = [os.path.normpath(path) for path in paths]
    if any(map(os.path.isabs, paths)):
        start = os.path.join(os.path.abspath(root), "")
        paths = [path.removeprefix(start) for path in paths]
        if any(map(os.path.isabs, paths)):
            return os.sep, [os.path.normpath(start + path if path[0] != os.sep else path).lstrip(os.sep)
                            for path in paths]
    return root, paths


def _remote(table, root, numbers, paths):
    """`relative` where something is remote: then all images have to be, on one kind of file system."""
    whole = [path if files.is_remote(path) else os.path.join(root, path) for path in paths]
    schemes = [files.scheme(path) if files.is_remote(path) else None for path in whole]
    first = next(scheme for scheme in schemes if scheme) if any(schemes) else files.scheme(root)
    for number, path, scheme in zip(numbers, whole, schemes, strict=True):
        if scheme != first:
            raise UserError(f"{table}: row {number}: expected an image of {first}://, as others of the table, found "
                            f"{path}")
    start = os.path.join(root, "")
    if not all(path.startswith(start) for path in whole):
        root = start = f"{first}://"
        files.check(f"{table}: row {numbers[0]}", whole[0])
    return root, [posixpath.normpath(path.removeprefix(start)) for path in whole]
