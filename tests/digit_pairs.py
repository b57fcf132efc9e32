"""Pictures of two of scikit-learn's digits each, both its labels: the set of docs/multilabel.md, or less of it."""

import pathlib
import re

PAGE = pathlib.Path(__file__).parents[1] / "docs/multilabel.md"


def code():
    """The Python code of the page, which writes pairs.npz into the current folder."""
    return re.search(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S).group(1)


def write(folder, train=400, others=90):
    """Write pairs.npz with so many pictures into a folder; returns its path."""
    counts = {"4000": str(train), "500": str(others)}
    text = re.sub(r"\b(4000|500)\b", lambda found: counts[found.group()], code())
    path = pathlib.Path(folder) / "pairs.npz"
    exec(text.replace('"pairs.npz"', repr(str(path))), {})
    return path
