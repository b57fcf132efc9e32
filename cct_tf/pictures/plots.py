"""Pictures for plots/ and TensorBoard, drawn with matplotlib without a display."""

import textwrap
import warnings

import numpy as np

from cct_tf.machine.console import shortened
from cct_tf.pictures import fonts
from cct_tf.runs.workdir import naming
from cct_tf.settings.measure import NAMES


def _figure(width, height):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def as_array(figure):
    """A figure's pixels, uint8 [H, W, 3]."""
    fonts.choose(figure)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a letter that no font has, of a path say, is drawn as a box
        figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def save(pixels, path):
    """Write uint8 [H, W, 3] as a PNG, replacing the file whole."""
    from PIL import Image
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    with naming(path):
        Image.fromarray(pixels).save(temporary, format="png")
    temporary.replace(path)


_LETTERS = 24  # of a class name that is longer
_LEGEND_LETTERS, _LEGEND_LINES = 170, 30


def _entitle(figure, title):
    """A small title, broken into lines that fit the figure."""
    letters = int(figure.get_figwidth() * 12)
    # A path may hold a "$": that is no formula.
    figure.suptitle("\n".join(textwrap.fill(line, letters) for line in title.split("\n")), fontsize=9,
                    parse_math=False)


def confusion_figure(confusion, class_names, title=None):
    """Confusion matrix, rows normalised; colours go by the square root of the share, so that few mistakes are seen.

    Args:
        confusion: int [K, K], rows are labels.
        class_names: sequence of K strings.
        title: words above it, or None.

    Returns:
        matplotlib Figure. Numbers are written up to 30 classes, names up to 100. How many classes have no images is
        said beside the axis of labels.
    """
    classes = len(class_names)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(2.5 + 0.5 * classes, 5, 14))
    figure = _figure(side, side)
    axes = figure.subplots()
    axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0.0, vmax=1.0)
    axes.set_xlabel("predicted")
    without = int((confusion.sum(axis=1) == 0).sum())
    axes.set_ylabel("label" + (f" (no images of {without} of {classes} classes)" if without else ""))
    if title:
        _entitle(figure, title)
    if classes <= 100:
        # A class may be called "$5": that is no formula.
        names, size = [shortened(name, _LETTERS) for name in fonts.readable(class_names)], 10 if classes <= 30 else 6
        axes.set_xticks(range(classes), names, rotation=90, fontsize=size, parse_math=False)
        axes.set_yticks(range(classes), names, fontsize=size, parse_math=False)
    if classes <= 30:
        for row, column in np.argwhere(confusion > 0):
            axes.text(column, row, str(confusion[row, column]), ha="center", va="center", fontsize=8,
                      color="white" if shares[row, column] > 0.25 else "black")
    return figure


def classes_figure(columns, class_names, title=None, most=100):
    """A table of the classes with a bar for the first column, shares in [0, 1]; the lowest come first.

    Args:
        columns: dict title -> sequence of K values, floats or, as they are written, ints; NaN where there is none.
        class_names: sequence of K strings.
        title: words above it, or None.
        most: int, rows that are drawn.

    Returns:
        matplotlib Figure.
    """
    values = np.asarray(next(iter(columns.values())), np.float64)
    rows = np.argsort(values, kind="stable")[:most]  # NaN last
    names = [shortened(name, _LETTERS) for name in fonts.readable(class_names)]
    figure = _figure(4.0 + 1.1 * len(columns), 1.6 + 0.24 * len(rows))
    axes, table = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1.1 * len(columns)))
    table.set(xlim=(-0.5, len(columns) - 0.5))
    table.set_axis_off()
    axes.barh(range(len(rows)), np.nan_to_num(values[rows]), color="#9ecae1")
    axes.set(xlim=(0, 1), ylim=(len(rows) - 0.5, -0.5), xlabel=next(iter(columns)))
    if title:
        _entitle(figure, title)
    axes.set_yticks(range(len(rows)), [names[row] for row in rows], fontsize=8, parse_math=False)
    for place, (head, column) in enumerate(columns.items()):
        for line, text in [(-1, head), *((line, _cell(column[row])) for line, row in enumerate(rows))]:
            table.text(place, line, text, ha="center", va="center", fontsize=8)
    return figure


def _cell(value):
    if np.isnan(value):
        return "-"
    return f"{value:,}" if isinstance(value, (int, np.integer)) else f"{value:.4f}"


def curves_figure(records):
    """Loss, accuracy (or, of several labels, mAP and F1) and learning rate over the steps.

    Args:
        records: list of dicts, as `metrics.jsonl` holds them.

    Returns:
        matplotlib Figure.
    """
    figure = _figure(12, 3.8)
    panels = figure.subplots(1, 3)
    lines = ((("train/loss", "train (augmented, smoothed)"), ("eval/loss", "evaluation"),
              *_averaged("loss", "evaluation"), ("test/loss", "test")),
             (("train/accuracy", "train"), ("eval/top1", "evaluation"),
              *_averaged("top1", "evaluation"), ("test/top1", "test (best weights)")),
             (("train/learning_rate", "learning rate"),))
    titles = ["loss", "accuracy", "learning rate"]
    if any(f"{name}/map" in record for record in records for name in ("eval", "test")):
        titles[1], lines = "mAP and F1 at 0.5", (lines[0], _SEVERAL, lines[2])
    for axes, title, tags in zip(panels, titles, lines, strict=True):
        for tag, label in tags:
            points = [(record["step"], record[tag]) for record in records if record.get(tag) is not None]
            if points:
                steps, values = zip(*points, strict=True)
                marker = "o" if len(points) < 40 else None
                axes.plot(steps, values, label=label, marker=marker, markersize=3, linewidth=1.2)
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(frameon=False)
    panels[-1].set_ylim(bottom=0.0)
    return figure


def _averaged(name, label):
    """The lines of a figure of the averaged weights, one of which a run has at most."""
    return tuple((f"{evaluation}/{name}", f"{label}, averaged weights") for evaluation in ("eval_ema", "eval_average"))


_SEVERAL = (("eval/map", "mAP"), *_averaged("map", "mAP"), ("test/map", "mAP, test (best weights)"),
            ("eval/f1", "F1"), *_averaged("f1", "F1"))
_CAPTION_LETTERS = 36


def attention_figure(images, maps, captions, pools):
    """Images beside the maps of `attention_maps`, a row for each.

    Args:
        images: uint8 [R, H, W, 3].
        maps: dict {"pooling", "rollout"} of [R, h, w], each map with sum 1; enlarged bilinearly, its largest value in
            the brightest colour.
        captions: R strings, above the images; long lines are cut.
        pools: whether the network pools the sequence; else it has a class token.

    Returns:
        matplotlib Figure.
    """
    rows, height, width = images.shape[:3]
    titles = {"pooling": "sequence pooling" if pools else "class token, last block", "rollout": "attention rollout"}
    figure = _figure(2.6 * (1 + len(maps)), 3.1 * rows)
    panels = figure.subplots(rows, 1 + len(maps), squeeze=False)
    for row, (image, caption) in enumerate(zip(images, captions, strict=True)):
        panels[row, 0].imshow(image.repeat(3 // image.shape[2], axis=2), interpolation="nearest")
        lines = (line if len(line) <= _CAPTION_LETTERS else f"{line[:_CAPTION_LETTERS - 1]}…"
                 for line in caption.split("\n"))
        panels[row, 0].set_title("\n".join(lines), fontsize=9, parse_math=False)
        for axes, (name, values) in zip(panels[row, 1:], maps.items(), strict=True):
            shares = values[row]
            axes.imshow(image.mean(axis=2), cmap="gray", vmin=0, vmax=400, interpolation="nearest")  # dim, or it blinds
            axes.imshow(shares, cmap="inferno", alpha=0.65, vmin=0, vmax=shares.max(), interpolation="bilinear",
                        extent=(-0.5, width - 0.5, height - 0.5, -0.5))
            axes.set_title(titles[name], fontsize=9)
            axes.set_xlabel(f"at most {100 * shares.max():.2g}%, even {100 / shares.size:.2g}%", fontsize=8)
    for axes in panels.flat:
        axes.set_xticks([])
        axes.set_yticks([])
    return figure


def reliability_figure(calibration, title):
    """Accuracy over confidence, and how many images each bin holds (Guo et al., arXiv:1706.04599 Fig. 1).

    Args:
        calibration: `calibration.Calibration`.
        title: words above it.

    Returns:
        matplotlib Figure.
    """
    figure = _figure(5.6, 6.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    edges, counts = calibration.edges, calibration.counts
    place, width = edges[:-1], np.diff(edges)
    filled = counts > 0
    accuracy, confidence = np.nan_to_num(calibration.accuracy), np.nan_to_num(calibration.confidence)
    upper.bar(place, accuracy, width, align="edge", color="#9ecae1", edgecolor="white", label="accuracy")
    upper.bar(place[filled], (confidence - accuracy)[filled], width[filled], accuracy[filled], align="edge",
              color="none", edgecolor="#d62728", hatch="///", linewidth=0.8, label="gap to the mean confidence")
    upper.plot((0, 1), (0, 1), color="black", linestyle="--", linewidth=1, label="perfect calibration")
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    _entitle(figure, f"{title}\nexpected calibration error {100 * calibration.ece:.2f}%")
    figure.legend(*upper.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    lower.bar(place, counts, width, align="edge", color="gray", edgecolor="white")
    lower.set(xlabel="confidence of the prediction", ylabel="images")
    lower.set_yscale("symlog")
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)  # the grid
    return figure


def comparison_figure(groups):
    """Evaluation accuracy and training loss over the epochs, a line for each run and a colour for each group; the
    legend names the first 30 groups.

    Args:
        groups: list of (label, list of `side_by_side.Run`), at least one.

    Returns:
        matplotlib Figure.
    """
    figure = _figure(12, 4.6 + 0.19 * min(len(groups), _LEGEND_LINES))
    panels = figure.subplots(1, 2)
    from matplotlib import colormaps
    palette = "tab10" if len(groups) <= 10 else "tab20" if len(groups) <= 20 else "turbo"
    lines = []
    for number, (label, members) in enumerate(groups):
        colour = colormaps[palette](number / len(groups) if palette == "turbo" else number)
        for axes in panels:
            for run in members:
                points = run.curve("loss" if axes is panels[1] else run.measure.shown)
                marker = "o" if axes is panels[0] and len(points) < 40 else None
                line, = axes.plot(*zip(*points, strict=True) if points else ((), ()), color=colour, marker=marker,
                                  markersize=3, linewidth=1.2, alpha=0.85, label=label)
        lines.append(line)
    metrics = dict.fromkeys(NAMES[run.measure.shown] for _, members in groups for run in members)
    titles = f"evaluation: {', '.join(metrics)}", "training loss (augmented, smoothed)"
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
    names = [shortened(label, _LEGEND_LETTERS) for label, _ in groups]
    legend = figure.legend(lines[:_LEGEND_LINES], names[:_LEGEND_LINES], loc="outside lower left", frameon=False,
                           fontsize=8)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure
