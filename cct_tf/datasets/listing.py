"""Images named on a command line: files, folders, patterns. No TensorFlow, no decoding."""

import glob
import os

from cct_tf.datasets import tree
from cct_tf.errors import UserError
from cct_tf.machine import files as remote_files


def list_images(names):
    """The image files that a command line names.

    Args:
        names: list of strings. A file is taken whatever its suffix. Of a folder and the folders below it, what is not
            hidden and has the suffix of an image, sorted by the bytes of the path. A pattern (`*`, `?`, `[...]`, `**`
            for folders of any depth) stands for the files and folders that it matches, sorted in the same way.

    Returns:
        list of paths, each once.

    Raises:
        UserError: no names; a name or pattern that nothing matches; a folder without images, or unreadable.
    """
    if not names:
        raise UserError("IMAGE: expected files, folders or patterns of images, found none")
    found = []
    for name in names:
        try:
            files = [file for match in _matches(name) for file in _files(match)]
        except OSError as error:
            raise UserError(f"{error.filename}: expected a readable folder, found: {error.strerror}") from None
        if not files:
            raise UserError(f"{tree.shown(name)}: expected a folder with images, found none")
        found += files
    return list(dict.fromkeys(found))


def _matches(name):
    if remote_files.is_remote(name):
        return _remote_matches(name)
    if os.path.lexists(name):  # first, for a file may be called img[1].png
        return [name]
    if not any(mark in name for mark in "*?["):
        raise UserError(f"{tree.shown(name)}: expected an image, a folder or a pattern, found no such file")
    found = sorted(glob.glob(name, recursive=True), key=os.fsencode)
    if not found:
        raise UserError(f"{tree.shown(name)}: expected a pattern of images, found no file that it matches")
    return found


def _remote_matches(name):
    remote_files.check("IMAGE", name)
    if remote_files.exists(name):
        return [name]
    if "**" in name:
        raise UserError(f"{tree.shown(name)}: expected a folder, which is searched with those below it, found ** in a "
                        "remote pattern")
    found = sorted(remote_files.glob(name), key=os.fsencode) if any(mark in name for mark in "*?[") else []
    if not found:
        raise UserError(f"{tree.shown(name)}: expected an image, a folder or a pattern, found no such file")
    return found


def _files(path):
    if not remote_files.is_dir(path):
        return [path]
    return sorted((file for file, *_ in tree.images_below(path)[0]), key=os.fsencode)
