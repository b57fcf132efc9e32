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


_CAPTION_LETTERS = 36


def attention_figure(images, maps, captions, pools):
    """Images beside the maps of `attention_maps`, a row for each.

    Args:
        images: uint8 [R, S, S, 3].
        maps: dict {"pooling", "rollout"} of [R, h, w], each map with sum 1; enlarged bilinearly, its largest value in
            the brightest colour.
        captions: R strings, above the images; long lines are cut.
        pools: whether the network pools the sequence; else it has a class token.

    Returns:
        matplotlib Figure.
    """
    rows, side = images.shape[:2]
    titles = {"pooling": "sequence pooling" if pools else "class token, last block", "rollout": "attention rollout"}
    figure = _figure(2.6 * (1 + len(maps)), 3.1 * rows)
    panels = figure.subplots(rows, 1 + len(maps), squeeze=False)
    for row, (image, caption) in enumerate(zip(images, captions, strict=True)):
        panels[row, 0].imshow(image, interpolation="nearest")
        lines = (line if len(line) <= _CAPTION_LETTERS else f"{line[:_CAPTION_LETTERS - 1]}…"
                 for line in caption.split("\n"))
        panels[row, 0].set_title("\n".join(lines), fontsize=9, parse_math=False)
        for axes, (name, values) in zip(panels[row, 1:], maps.items(), strict=True):
            shares = values[row]
            axes.imshow(image.mean(axis=2), cmap="gray", vmin=0, vmax=400, interpolation="nearest")  # dim, or it blinds
            axes.imshow(shares, cmap="inferno", alpha=0.65, vmin=0, vmax=shares.max(), interpolation="bilinear",
                        extent=(-0.5, side - 0.5, side - 0.5, -0.5))
            axes.set_title(titles[name], fontsize=9)
            axes.set_xlabel(f"at most {100 * shares.max():.2g}%, even {100 / shares.size:.2g}%", fontsize=8)
    for axes in panels.flat:
        axes.set_xticks([])
        axes.set_yticks([])
    return figure
