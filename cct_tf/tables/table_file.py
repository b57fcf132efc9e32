"""The rows of a table: a CSV, TSV, JSON-lines or Parquet file. No TensorFlow.

Rows are counted as a spreadsheet does: the header of a CSV or TSV file is row 1. The first record of a JSON-lines or
Parquet file is row 1.
"""

import codecs
import csv
import fnmatch
import json
import os

from cct_tf.errors import UserError, nearest
from cct_tf.machine import files

COLUMNS = ("path", "label", "split", "weight", "group")  # the first two are needed
PATTERN = "labels"
_NEEDED = COLUMNS[:2]
_BLOCK = 65_536  # rows of a Parquet file in memory at a time


def column_names(text):
    """{column: its name in the table, None where it is left unread}, from the text of --columns or None.

    PATTERN is among them where each class has a column of its own: its value is a pattern of their names, such as
    `finding_*`, and "label" is left unread.

    Raises:
        UserError: it is not `column:name` pairs with commas between them.
    """
    names = {column: column for column in COLUMNS}
    known = (*COLUMNS, PATTERN)
    pairs = [pair.partition(":") for pair in text.split(",")] if text else []
    for place, (column, colon, name) in enumerate(pairs):
        if column not in known or not colon or column in (*_NEEDED, PATTERN) and not name:
            raise UserError(f"--columns: expected pairs of {', '.join(known)} and a name, such as path:filename,"
                            f"label:diagnosis, found {column + colon + name!r}"
                            + ("" if column in known else nearest(column, known)))
        if column in [before for before, *_ in pairs[:place]]:
            raise UserError(f"--columns: expected each column once, found {column} twice in {text!r}")
        names[column] = name or None
    if PATTERN in names:
        if "label" in [column for column, *_ in pairs]:
            raise UserError(f"--columns: expected label or {PATTERN}, found both in {text!r}")
        names["label"] = None
    return names


def rows(path, names):
    """Read a table.

    Args:
        path: its file, text.
        names: of `column_names`.

    Yields:
        (row, values): the row's number, and a dict of the columns that the table has; those of the pattern are called
        ("class", name). Values are as the file has them: text in CSV and TSV; None where a record lacks one.

    Raises:
        UserError: it can't be read, is not of its format, or lacks a column.
    """
    reader = _READERS.get(os.path.splitext(path)[1].lower())
    if reader is None:
        found = "the folder " if files.is_dir(path) else ""
        raise UserError(f"--data_dir: expected a table that ends in {', '.join(_READERS)}, found {found}{path}")
    try:
        yield from reader(path, names)
    except UnicodeDecodeError:
        raise UserError(f"{path}: expected text in UTF-8, found {_other_encoding(path)}") from None
    except OSError as error:
        raise UserError(f"--data_dir: expected a table that can be read, found {path} ({error.strerror or error})"
                        ) from None


def given_rows(source, given, names):
    """As `rows`, of a list of dicts; `source` is what messages call it. Values that are NumPy's become Python's."""
    found = {key for row in given for key in row}
    wanted = _present(source, sorted(map(str, found)), names)
    for number, row in enumerate(given, 1):
        yield number, {column: getattr(value, "tolist", lambda value=value: value)()
                       for column, value in ((column, row.get(name)) for column, name in wanted.items())}


def _other_encoding(path):
    """What the first line that is no UTF-8 has in it, in words."""
    with files.open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if number == 1 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                return "UTF-16"
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return f"the byte 0x{line[error.start]:02x} in line {number}; save the table in UTF-8"
    return "none"


def _present(path, header, names, what="columns"):
    """{column: its name} of the columns that a table has, from the names in its header."""
    present = {column: name for column, name in names.items() if name in header and column != PATTERN}
    if PATTERN in names:
        classes = [name for name in header if name not in present.values()
                   and fnmatch.fnmatchcase(name, names[PATTERN])]
        if not classes:
            raise UserError(f"{path}: expected columns of classes called {names[PATTERN]!r} (--columns), found {what} "
                            + ", ".join(map(repr, header[:8])))
        present |= {("class", name): name for name in classes}
    for column, name in names.items():
        if column == PATTERN:
            continue
        if column not in present and name is not None and (column in _NEEDED or name != column):
            listed = ", ".join(map(repr, header[:8])) + (" ..." if len(header) > 8 else "")
            hint = nearest(name, header)
            if len(header) == 1 and ";" in header[0]:
                hint = "; columns are separated by commas, not semicolons"
            elif not hint and name == column:
                hint = f"; --columns={column}:NAME renames"
            found = f"{what} {listed}" if listed else "none"
            raise UserError(f"{path}: expected a column {name!r}, found {found}{hint}")
    return present


def _separated(delimiter):
    def read(path, names):
        with files.open(path, encoding="utf-8-sig", newline="") as file:
            records = csv.reader(file, delimiter=delimiter, strict=True)
            number = 0
            try:
                header, number = next(records, []), 1
                found = {column: header.index(name) for column, name in _present(path, header, names).items()}
                for name in (header[place] for place in found.values()):
                    if header.count(name) > 1:
                        raise UserError(f"{path}: expected one column {name!r}, found {header.count(name)}")
                for number, record in enumerate(records, 2):
                    if not record:
                        continue  # an empty line
                    if len(record) != len(header):
                        raise UserError(f"{path}: row {number}: expected {len(header)} columns as in the header, found "
                                        f"{len(record)}")
                    yield number, {column: record[place] for column, place in found.items()}
            except csv.Error as error:
                raise UserError(f"{path}: row {number + 1}: expected a row whose quotes are closed, found: {error}"
                                ) from None
    return read


def _json_lines(path, names):
    found = None
    with files.open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise UserError(f"{path}: row {number}: expected a JSON object, found a line that is none ({error})"
                                ) from None
            if not isinstance(record, dict):
                raise UserError(f"{path}: row {number}: expected a JSON object, found {line.strip()[:40]!r}")
            if found is None:
                found = _present(path, list(record), names, "keys")
            more = [name for column, name in names.items() if column not in found and name in record]
            if more:
                raise UserError(f"{path}: row {number}: expected the keys of the first row, found {more[0]!r} too")
            yield number, {column: record.get(name) for column, name in found.items()}


def _parquet(path, names):
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(f"--data_dir: expected pyarrow, which reads {path}, found none; pip install pyarrow") from None
    try:
        with parquet.ParquetFile(files.open(path, "rb") if files.is_remote(path) else path) as file:
            found = _present(path, file.schema_arrow.names, names)
            number = 0
            for batch in file.iter_batches(_BLOCK, columns=list(dict.fromkeys(found.values()))):
                columns = [batch.column(name).to_pylist() for name in found.values()]
                for values in zip(*columns, strict=True):
                    number += 1
                    yield number, dict(zip(found, values, strict=True))
    except pyarrow.ArrowException as error:
        raise UserError(f"{path}: expected a Parquet file, found: {' '.join(str(error).split())[:200]}") from None


_READERS = {".csv": _separated(","), ".tsv": _separated("\t"), ".jsonl": _json_lines, ".parquet": _parquet}
