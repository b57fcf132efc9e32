"""The worst mistakes of an evaluation, as a picture for a person: broken labels stand among the first.

Legend: m mistakes shown, S S height and width of the network's input, P P of its picture on the sheet.
"""

import os
import textwrap

import numpy as np
import tensorflow as tf

from cct_tf.data import label_kinds
from cct_tf.evaluation.multilabel import MultilabelEvaluation
from cct_tf.images import decode
from cct_tf.machine.console import shortened
from cct_tf.pictures import contact_sheet, fonts
from cct_tf.pictures.contact_sheet import GAP, LETTER, LINE, write

_COLUMNS, _NARROWEST, _CAPTION = 8, 128, 3  # pixels of a column; lines below an image
_PIXELS_PER_LETTER = 6.0  # of a caption


def worst(evaluation, count):
    """The wrong predictions with the highest losses, the highest first.

    Args:
        evaluation: `metrics.Evaluation` or `multilabel.MultilabelEvaluation`.
        count: int, at most so many.

    Returns:
        int64 [m], numbers of examples.
    """
    wrong = np.flatnonzero(~evaluation.is_right)
    losses = np.nan_to_num(evaluation.losses[wrong], nan=np.inf)
    return wrong[np.argsort(-losses, kind="stable")[:count]]


def sheet(evaluated, rows, heading):
    """A contact sheet of mistakes: class, prediction and its probability, loss and place in the split.

    Args:
        evaluated: `evaluator.Evaluated`.
        rows: int64 [m], of `worst`; at least one.
        heading: words for the top, broken into lines.

    Returns:
        matplotlib Figure.
    """
    with tf.device("CPU:0"), decode.broken_images_named():
        images = _images(evaluated.split, evaluated.transform, evaluated.plain.place_of(rows))
    cells = contact_sheet.enlarged(images / np.float32(255.0))  # [m, P, P, 3]
    (down, across), columns = cells.shape[1:3], min(_COLUMNS, max(len(rows), 3))
    step_x, step_y = max(across, _NARROWEST) + GAP, down + 2 * GAP + _CAPTION * LINE
    width = columns * step_x + GAP
    lines = textwrap.wrap(heading, round((width - 2 * GAP) / LETTER), break_on_hyphens=False)
    top = 2 * GAP + len(lines) * LINE
    canvas = np.full([top + -(-len(rows) // columns) * step_y, width, 3], 255, np.uint8)
    corners = [(top + number // columns * step_y, GAP + number % columns * step_x) for number in range(len(rows))]
    for image, (y, x) in zip(cells, corners, strict=True):
        canvas[y:y + down, x:x + across] = image
    axes = contact_sheet.pixel_axes(canvas)
    for line, text in enumerate(lines):
        write(axes, GAP, GAP + (line + 0.5) * LINE, text, 8)
    letters = round((step_x - GAP) / _PIXELS_PER_LETTER)
    for row, (y, x) in zip(rows, corners, strict=True):
        for line, (text, color) in enumerate(_caption(evaluated, row, letters)):
            write(axes, x, y + down + (line + 0.7) * LINE, text, 7, color=color)
    return axes.figure


def _caption(evaluated, row, letters):
    """The lines below an image, (text, colour) each; an image that is no file is called by its place in the split."""
    result, names = evaluated.plain, fonts.readable(evaluated.class_names)
    loss = f"loss {result.losses[row]:.2f}, "
    place = result.place_of(row)
    origin = evaluated.split.reader.origin(place)
    name = os.path.basename(origin) if origin else f"image {place}"
    last = (loss + shortened(name, letters - len(loss)), "dimgray")
    if isinstance(result, MultilabelEvaluation):
        label, said = (", ".join(label_kinds.names(rows, names)) or "none"
                       for rows in (result.labels[row], result.above()[row]))
        return ((f"is {shortened(label, letters - 3)}", "black"), (f"said {shortened(said, letters - 5)}", "firebrick"),
                last)
    confidence = f"{100 * result.confidences[row]:.1f}% "
    return ((f"is {shortened(names[result.labels[row]], letters - 3)}", "black"),
            (confidence + shortened(names[result.predictions[row]], letters - len(confidence)), "firebrick"),
            last)


def _images(split, transform, places):
    """What the network saw of a split's images, before normalising, as a person sees it: see `Transform.shown`."""
    images = [contact_sheet.at_network_size(split, transform, image) for image, _ in split.images(places)]
    return transform.shown(np.stack(images))
