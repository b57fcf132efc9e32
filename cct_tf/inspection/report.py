"""The findings in words, and as a picture."""

import numpy as np

_MOST = 20  # rows of a list that are shown


def lines(found):
    """Lines of text of `findings.find`'s dict."""
    splits = list(found["images"])
    yield "images        " + ", ".join(f"{number:,} {split}" for split, number in found["images"].items())
    sizes = found["sizes"]
    if sizes:
        yield "sizes         " + (f"{sizes['different']:,} different; height {_range(sizes['height'])}, width "
                                  f"{_range(sizes['width'])} (smallest, median, largest)")
    if set(found["formats"]) != {"none"}:  # of arrays
        yield "formats       " + ", ".join(f"{number:,} {'without an ending' if name == 'none' else name}"
                                           for name, number in found["formats"].items())
    yield f"grey          {found['grey']:,} of {sum(found['images'].values()):,} have equal channels"
    if found["widened"]:
        yield f"bits          {found['widened']:,} have 8 bits, of which --bits=16 makes 16 (a level l becomes 257 l)"
    yield ""
    yield f"{'class':<24}" + "".join(f"{split:>12}" for split in splits)
    classes = list(found["classes"].items())
    for name, counts in classes[:_MOST]:
        yield f"{name[:23]:<24}" + "".join(f"{counts[split]:>12,}" for split in splits)
    yield from _more(classes)
    numbers = [sum(counts.values()) for counts in found["classes"].values()]
    yield f"the largest class has {max(numbers) / max(min(numbers), 1):.1f} times the images of the smallest"
    for title, rows in (("broken", [f"{name}: {reason}" for name, reason in found["broken"]]),
                        ("classes with another share than in training",
                         [f"{name}: {100 * share:.1f}% of {split}, {100 * train:.1f}% of train"
                          for name, split, share, train in found["skew"]]),
                        ("equal images with different labels", _groups(found["contradictions"])),
                        ("equal images in different splits", _groups(found["equal_across_splits"])),
                        ("other equal images", _groups([group for group in found["equal"]
                                                        if group not in found["contradictions"]
                                                        and group not in found["equal_across_splits"]])),
                        ("nearly equal images in different splits", _groups(found["near_across_splits"]))):
        yield ""
        yield f"{title}: {len(rows):,}" if rows else f"{title}: none"
        yield from (f"  {row}" for row in rows[:_MOST])
        yield from _more(rows)
    if found["plain"]:
        yield f"({found['plain']:,} images show nearly nothing and were compared for equality alone)"


def _range(values):
    return ", ".join(f"{value:,}" for value in values)


def _more(rows):
    if len(rows) > _MOST:
        yield f"  ... and {len(rows) - _MOST:,} more (--json has all)"


def _groups(groups):
    return ["  =  ".join(f"{image['image']} ({image['split']}, {';'.join(image['label']) or 'no class'})"
                         for image in group) for group in groups]


def figure(found, image_of, most=12):
    """The pairs that were found, side by side: a matplotlib Figure.

    Args:
        found: of `findings.find`.
        image_of: function of (split, name) -> uint8 [H, W, 3].
        most: rows at most.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pairs = [(title, group[:2]) for title, key in (("different labels", "contradictions"),
                                                   ("equal, other split", "equal_across_splits"),
                                                   ("nearly equal, other split", "near_across_splits"))
             for group in found[key]][:most]
    figure = Figure(figsize=(6, 0.6 + 2.3 * max(len(pairs), 1)))
    FigureCanvasAgg(figure)
    if not pairs:
        figure.text(0.5, 0.5, "no equal or nearly equal images in different splits", ha="center")
        return figure
    grid = figure.subplots(len(pairs), 2, squeeze=False)
    for row, (title, pair) in zip(grid, pairs, strict=True):
        for axes, image in zip(row, pair, strict=True):
            axes.imshow(np.asarray(image_of(image["split"], image["image"])))
            axes.set_title(f"{title}\n{image['split']}: {';'.join(image['label'])}\n{image['image'][-40:]}", fontsize=7)
            axes.axis("off")
    figure.tight_layout()
    return figure
