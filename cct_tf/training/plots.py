"""Pictures for plots/ and TensorBoard, drawn with matplotlib without a display."""

import warnings

import numpy as np

from cct_tf.training.workdir import naming


def _figure(width, height):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def as_array(figure):
    """A figure's pixels, uint8 [H, W, 3]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a letter the font lacks is drawn as a box
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


def confusion_figure(confusion, class_names):
    """Confusion matrix, rows normalised.

    Args:
        confusion: int [K, K], rows are labels.
        class_names: sequence of K strings.

    Returns:
        matplotlib Figure. Names and numbers are written up to 30 classes.
    """
    classes = len(class_names)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(2.5 + 0.5 * classes, 5, 14))
    figure = _figure(side, side)
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    axes.set_xlabel("predicted")
    axes.set_ylabel("label")
    if classes <= 30:
        # A class may be called "$5": that is no formula.
        axes.set_xticks(range(classes), class_names, rotation=90, parse_math=False)
        axes.set_yticks(range(classes), class_names, parse_math=False)
        for row, column in np.argwhere(confusion > 0):
            axes.text(column, row, str(confusion[row, column]), ha="center", va="center", fontsize=8,
                      color="white" if shares[row, column] > 0.5 else "black")
    return figure


def curves_figure(records):
    """Loss, accuracy and learning rate over the steps.

    Args:
        records: list of dicts, as `metrics.jsonl` holds them.

    Returns:
        matplotlib Figure.
    """
    figure = _figure(12, 3.8)
    panels = figure.subplots(1, 3)
    lines = ((("train/loss", "train (augmented, smoothed)"), ("eval/loss", "evaluation"),
              ("eval_ema/loss", "evaluation, averaged weights"), ("test/loss", "test")),
             (("train/accuracy", "train"), ("eval/top1", "evaluation"),
              ("eval_ema/top1", "evaluation, averaged weights"), ("test/top1", "test (best weights)")),
             (("train/learning_rate", "learning rate"),))
    for axes, title, tags in zip(panels, ("loss", "accuracy", "learning rate"), lines, strict=True):
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
