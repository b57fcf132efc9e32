"""What the reports of both tasks share."""

import math

MOST_CLASSES = 40  # rows of the table of classes
LETTERS = 40  # of a class name


def finite(value):
    """A number for JSON, which has no NaN."""
    return float(value) if math.isfinite(value) else None
