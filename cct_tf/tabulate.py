"""The table of an image folder: `python -m cct_tf.tabulate photos > photos.csv`."""

import csv
import os
import sys

from cct_tf.datasets import tree
from cct_tf.errors import UserError
from cct_tf.machine import files
from cct_tf.machine.console import Console
from cct_tf.settings import command, config

USAGE = """usage: python -m cct_tf.tabulate FOLDER > TABLE.csv

Prints the table of an image folder, for cct_tf.train --dataset=table --data_dir=TABLE.csv --image_root=FOLDER: path and
label of each image, and its split where the folder has splits. Trained on, the table gives the same run as the folder.
Starts no TensorFlow."""

FIELDS = [config.FIELDS["debug"]]


def _rows(listing):
    """Yield the cells of the table of a `tree.Tree` of `tree.scan_all`, the header first."""
    with_splits = "" not in listing.files
    yield ["path", "label", *["split"] * with_splits]
    for split, found in listing.files.items():
        for file, label in zip(found, listing.labels[split].tolist(), strict=True):
            try:
                path = file.path.decode()
            except UnicodeDecodeError:
                raise UserError(f"{os.path.join(listing.root, tree.shown(os.fsdecode(file.path)))}: expected a name in "
                                "UTF-8, as the text of a table is, found another") from None
            yield [path, listing.class_names[label], *[split] * with_splits]


def main(given):
    """Print the table of a folder."""
    if len(given["folder"]) != 1:
        raise UserError(f"FOLDER: expected one image folder, found {len(given['folder'])}")
    root, = given["folder"]
    files.check("FOLDER", root)
    if not files.is_dir(root):
        raise UserError(f"{root}: expected an image folder, found {'a file' if files.exists(root) else 'nothing'}")
    try:
        listing = tree.scan_all(root)
    except OSError as error:
        raise UserError(f"{error.filename}: expected a readable folder, found: {error.strerror}") from None
    csv.writer(sys.stdout, lineterminator="\n").writerows(_rows(listing))
    if listing.ignored:
        Console().warn(f"{root}: left out: {tree.left_out(listing.ignored)}")


def run():
    """Entry point of `cct-tabulate`."""
    command.run(main, sys.argv[1:], USAGE, FIELDS, positional="folder")


if __name__ == "__main__":
    run()
