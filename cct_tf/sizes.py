"""Sizes of images: an int is the side of a square, (height, width) any other rectangle.

Squares stay an int everywhere, so their records, configs and exports read as they did before there were rectangles.
"""


def sides(size):
    """(height, width) of a size, a tuple of two ints."""
    return size if isinstance(size, tuple) else (size, size)


def as_size(found):
    """The size that an int or a pair (height, width) stands for; what is neither comes back as it is, for a check."""
    if isinstance(found, list):  # of JSON
        found = tuple(found)
    return found[0] if isinstance(found, tuple) and len(found) == 2 and found[0] == found[1] else found


def shown(size):
    """Words for people, `24 x 40`."""
    return " x ".join(map(str, sides(size)))
