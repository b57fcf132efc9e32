"""Contact sheets: what the network will see, and what each operation of the policies does, as pictures for a person.

Legend: R rows (images), C columns (draws), S S height and width of the network's input, n training images, B batch.
"""

import dataclasses
import textwrap
import unicodedata

import numpy as np
import tensorflow as tf

from cct_tf import rng
from cct_tf.augment.stages import on_device
from cct_tf.data import label_kinds, pipeline, sampler
from cct_tf.images import decode
from cct_tf.images.pixel_type import PixelType
from cct_tf.pictures import fonts
from cct_tf.policies import notation
from cct_tf.policies.notation import BICUBIC, BILINEAR, NEAREST, Op
from cct_tf.policies.operations import apply as apply_operations
from cct_tf.policies.rand_augment import mean_levels

_CELL, _LARGEST_CELL = 96, 192  # pixels of the sheet that an image's longer side is enlarged to, or reduced to
_NARROWEST = 64  # pixels of a column, for the words
GAP, LINE = 8, 13
_TITLE_LETTERS, LETTER = 18, 7.5

# What is shown of each operation: (argument, the words below it, interpolation). Shifts are shares of the side.
_ONCE = ((0.0, "", NEAREST),)
_FACTORS = tuple((factor, f"{factor:g}", NEAREST) for factor in (0.1, 0.5, 1.5, 1.9))
_SHEARS = ((-0.3, "-0.3", NEAREST), (0.1, "0.1", NEAREST), (0.3, "0.3", NEAREST), (0.3, "0.3 bicubic", BICUBIC))
_ANGLES = ((-30.0, "-30 degrees", NEAREST), (10.0, "10 degrees", NEAREST), (30.0, "30 degrees", NEAREST),
           (30.0, "30, bilinear", BILINEAR))
_SHIFTS = tuple((share, "{:g} pixels", kind) for share, kind in ((-0.3, NEAREST), (0.1, NEAREST), (0.3, NEAREST)))
SHOWN = {
    Op.IDENTITY: _ONCE, Op.AUTO_CONTRAST: _ONCE, Op.EQUALIZE: _ONCE, Op.INVERT: _ONCE,
    Op.POSTERIZE: tuple((float(bits), f"{bits} bits", NEAREST) for bits in (2, 3, 4, 6)),
    Op.SOLARIZE: tuple((level, f"from {level:g}", NEAREST) for level in (0.0, 64.0, 128.0, 192.0)),
    Op.SOLARIZE_ADD: tuple((level, f"+{level:g}", NEAREST) for level in (26.0, 55.0, 83.0, 110.0)),
    Op.BRIGHTNESS: _FACTORS, Op.CONTRAST: _FACTORS, Op.COLOR: _FACTORS, Op.SHARPNESS: _FACTORS,
    Op.SHEAR_X: _SHEARS, Op.SHEAR_Y: _SHEARS, Op.TRANSLATE_X: _SHIFTS, Op.TRANSLATE_Y: _SHIFTS, Op.ROTATE: _ANGLES,
}


@dataclasses.dataclass(frozen=True)
class Sheet:
    """The contents of a contact sheet.

    Attributes:
        originals: uint8 [R, S, S, 3] or [R, S, S, 1], the images without anything random.
        draws: float32 [R, C, S, S, 3], or of one channel, in [0, 1]; NaN is an empty place.
        titles: R strings, beside the rows.
        columns: C strings, above the draws, or ().
        captions: R sequences of C strings of up to two lines, below the draws, or ().
    """

    originals: np.ndarray
    draws: np.ndarray
    titles: tuple
    columns: tuple = ()
    captions: tuple = ()


def draw(split, class_names, transform, stages, sampling, rows, columns):
    """The first images of the training, and their draws in the first epochs; with --sampler their first draws.

    Without mixing a draw is the very one that the training sees. With it the partner is the neighbouring row, and the
    share that of the step in which the first row's image comes.

    Args:
        split: `source.Split` to train on.
        class_names: sequence of K strings.
        transform: `transform.Transform`.
        stages: tuple of `stages.Stage`, of its `training_stages`.
        sampling: `pipeline.Sampling`.
        rows: int R, at most n; even with mixing.
        columns: int C.

    Returns:
        Sheet.
    """
    with tf.device("CPU:0"), decode.broken_images_named():
        chosen = _first_examples(split, sampling, rows)
        originals, classes = _originals(split, transform, chosen)
        places = _places(split, sampling, chosen, columns)  # [R, C]
        draws = [_draws_of(chosen, split, sampling, column) for column in np.maximum(places, 0).T]
        # Not from a generator: TensorFlow keeps its function, and so the images, as long as the process lives.
        batches = tf.data.Dataset.from_tensor_slices({name: tf.stack([draw[name] for draw in draws])
                                                      for name in draws[0]})
        batches = list(pipeline.prepared_batches(batches, split, stages))
        pictures = [transform.unfinish(on_device(batch, stages)) for batch in batches]
    class_names, draws = fonts.readable(class_names), np.stack(pictures, axis=1).astype(np.float32)
    draws[places < 0] = np.nan
    captions = ()
    if any(stage.name == "mix" for stage in stages):
        labels = np.stack([batch["label"] for batch in batches], axis=1)  # [R, C, K]
        captions = _mixtures(labels, next(stage for stage in stages if stage.name == "labels"), classes, class_names)
        captions = tuple(tuple(text if place >= 0 else "" for text, place in zip(*row, strict=True))
                         for row in zip(captions, places, strict=True))
    titles = tuple(", ".join(label_kinds.names(label, class_names)) for label in classes)
    head = "epoch {}" if sampling.sampler == "none" else "draw {}"
    heads = tuple(head.format(column) for column in range(columns))
    return Sheet(transform.shown(originals), draws, titles, heads, captions)


def first_image(split, transform, sampling):
    """The first image of the training as the evaluation would prepare it, [S, S, C]."""
    with tf.device("CPU:0"), decode.broken_images_named():
        return _originals(split, transform, _first_examples(split, sampling, 1))[0][0]


def _first_examples(split, sampling, count):
    """The first examples of the training: dict of tensors [count], without their epoch."""
    examples = next(iter(pipeline.order(split, sampling, count, 0, 1)))
    return {name: value for name, value in examples.items() if name != "epoch"}


def _places(split, sampling, chosen, columns):
    """Where the examples are drawn, int64 [R, C]: once an epoch, or with a sampler by chance, -1 where not so often."""
    if sampling.sampler == "none":
        return np.stack([split.reader.place_in_epoch(sampling.seed, epoch, chosen["index"]).numpy()
                         + epoch * split.num_examples for epoch in range(columns)], axis=1)
    draw = sampler.draws(sampling.sampler, split.labels, sampling.seed)
    return sampler.next_places(draw, len(chosen["index"]), columns)


def _draws_of(chosen, split, sampling, place):
    """The batch of one column, whose places are int64 [R], as `pipeline.prepared_batches` takes it."""
    place, new = tf.constant(place, tf.int64), sampling.num_images
    position = place // new * sampling.batch_size + place % new  # of the first copy, where images are repeated
    return chosen | {"position": position, "epoch": place // split.num_examples,
                     "seed": rng.fold(sampling.seed, rng.Stream.EXAMPLE, position)}


def _originals(split, transform, chosen):
    """Examples as the evaluation would prepare them: [R, S, S, C], and their labels, see `Split.label_of`."""
    images, classes = [], []
    for row in range(len(chosen["index"])):
        image, label, place = split.reader.load_or_replace({name: value[row] for name, value in chosen.items()})
        images.append(at_network_size(split, transform, image))
        classes.append(split.label_of(int(place), label))
    return np.stack(images), classes


def at_network_size(split, transform, image):
    """An image of a split as the network sees it in evaluation: [H, W, C] -> [S, S, C]."""
    return image if split.reader.at_network_size else transform.resize(image[None])[0]


def _mixtures(labels, stage, classes, class_names):
    """Captions such as "60% cat", "40% dog", read from labels of the batch, float32 [R, C, K], that `stage` made."""
    shares = (labels - stage.smoothing / stage.outcomes) / (1.0 - stage.smoothing)
    captions = []
    for row, label in zip(shares, classes, strict=True):
        # The own classes first, then the partner's, if it has others and their share is a whole percent.
        own = list(np.flatnonzero(label)) if stage.multilabel else [label]
        mixed = [[*own, *(each for each in np.flatnonzero(share >= 0.005) if each not in own)] for share in row]
        captions.append(tuple("\n".join(f"{100 * share[label]:.0f}% {class_names[label]}" for label in names)
                              for share, names in zip(row, mixed, strict=True)))
    return tuple(captions)


def operations(image, mean):
    """Every operation of the policies at several arguments.

    Args:
        image: uint8 [S, S, 3] or [S, S, 1].
        mean: one or C floats in [0, 1], the colour of what a geometric operation leaves empty.

    Returns:
        Sheet, a row for each operation.
    """
    size = tuple(image.shape[:2])
    cells = [(row, column, op, *what) for row, (op, shown) in enumerate(SHOWN.items())
             for column, what in enumerate(shown)]
    shifts = (Op.TRANSLATE_X, Op.TRANSLATE_Y)
    argument = [round(value * notation.side_of(op, size)) if op in shifts else value
                for _, _, op, value, _, _ in cells]
    stage = {"op": tf.constant([int(cell[2]) for cell in cells]), "argument": tf.constant(argument, tf.float64),
             "interpolation": tf.constant([cell[5] for cell in cells])}
    fill = mean_levels(mean, PixelType(image.shape[2]))
    done = apply_operations(tf.tile(image[None], [len(cells), 1, 1, 1]), stage, fill).numpy()
    most = max(map(len, SHOWN.values()))
    draws = np.full([len(SHOWN), most, *image.shape], np.nan, np.float32)
    captions = [[""] * most for _ in SHOWN]
    for pixels, value, (row, column, _, _, words, _) in zip(done, argument, cells, strict=True):
        draws[row, column] = pixels / 255.0
        captions[row][column] = words.format(value)
    titles = tuple(op.name.lower().replace("_", " ") for op in SHOWN)
    return Sheet(np.tile(image, [len(SHOWN), 1, 1, 1]), draws, titles, (), tuple(map(tuple, captions)))


def enlarged(images):
    """As on the sheet, with whole pixels enlarged: float32 [N, S, S, 3] in [0, 1] or NaN -> uint8 [N, P, P, 3]."""
    sides, images = images.shape[1:3], np.nan_to_num(images, nan=1.0)
    longest = max(sides)
    if longest > _LARGEST_CELL:
        reduced = [max(1, round(side * _LARGEST_CELL / longest)) for side in sides]
        images = tf.image.resize(images, reduced, method="area").numpy()
    images, times = np.rint(images * 255.0).astype(np.uint8), max(_CELL // longest, 1)
    return images.repeat(times, axis=1).repeat(times, axis=2)


def _short(text, letters):
    return text if len(text) <= letters else text[:letters - 1] + "…"


def _columns(text):
    """How many Latin letters are as wide as a text: the wide letters of East Asia count twice."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def figure(sheet, heading=""):
    """A contact sheet.

    Args:
        sheet: Sheet.
        heading: words for the top, broken into lines.

    Returns:
        matplotlib Figure. One pixel of an image is a whole number of pixels of the figure, up to sides of 192.
    """
    rows, columns, *sides = sheet.draws.shape[:4]
    cells = np.concatenate([sheet.originals[:, None] / np.float32(255.0), sheet.draws], axis=1)  # [R, C + 1, S, S, 3]
    cells = enlarged(cells.reshape(-1, *sides, cells.shape[-1]))  # grey ones come to three channels on the canvas
    cell_y, cell_x = cells.shape[1:3]
    lines = max((text.count("\n") + 1 for row in sheet.captions for text in row if text), default=0)
    left = round(max(_columns(_short(title, _TITLE_LETTERS)) for title in sheet.titles) * LETTER) + 2 * GAP
    step_x, step_y = max(cell_x, _NARROWEST) + GAP, cell_y + GAP + lines * LINE
    width = left + (columns + 1) * step_x + GAP
    heading = textwrap.wrap(heading, round((width - 2 * GAP) / LETTER), break_on_hyphens=False)
    top = GAP + (2 + len(heading)) * LINE
    height = top + rows * step_y
    canvas = np.full([height, width, 3], 255, np.uint8)
    corners = [(top + row * step_y, left + column * step_x + (GAP if column else 0))
               for row in range(rows) for column in range(columns + 1)]  # a little more room behind the originals
    for image, (y, x) in zip(cells, corners, strict=True):
        canvas[y:y + cell_y, x:x + cell_x] = image
    axes = pixel_axes(canvas)
    for line, text in enumerate(heading):
        write(axes, GAP, GAP + (line + 0.5) * LINE, text, 8)
    for column, text in enumerate(("original", *sheet.columns)):
        write(axes, corners[column][1], top - LINE, text, 8)
    for row, title in enumerate(sheet.titles):
        y = corners[row * (columns + 1)][0]
        write(axes, left - GAP, y + cell_y // 2, _short(title, _TITLE_LETTERS), 9, ha="right")
        for column, text in enumerate(sheet.captions[row] if sheet.captions else ()):
            x = corners[row * (columns + 1) + column + 1][1]
            for line, part in enumerate(text.split("\n")):
                write(axes, x, y + cell_y + (line + 0.5) * LINE, _short(part, round((step_x - GAP) / 5.5)), 7)
    return axes.figure


def pixel_axes(canvas):
    """Axes that show float32 [H, W, 3] pixel by pixel, in its coordinates."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    height, width = canvas.shape[:2]
    drawn = Figure(figsize=(width / 100, height / 100), dpi=100)
    FigureCanvasAgg(drawn)
    axes = drawn.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.imshow(canvas, extent=(0, width, height, 0), interpolation="nearest", aspect="auto")
    return axes


def write(axes, x, y, text, size, ha="left", color="black"):
    """Write a line, `y` its middle."""
    # A class may be called "$5": that is no formula.
    axes.text(x, y, text, fontsize=size, ha=ha, va="center_baseline", color=color, parse_math=False)
