"""Classify image files: `python -m cct_tf.predict --workdir=runs/quickstart photos/*.png`."""

import contextlib
import csv
import dataclasses
import json
import os
import pathlib
import sys

from cct_tf.assembly import checks, selection
from cct_tf.datasets import listing, tree
from cct_tf.errors import UserError
from cct_tf.export import formats, metadata
from cct_tf.machine import memory, runtime
from cct_tf.machine.console import Console
from cct_tf.settings import command, config, flags

USAGE = """usage: python -m cct_tf.predict --workdir=DIR IMAGE|FOLDER|PATTERN ... [--top=5] [--csv|--json]
           [--attention[=DIR]] [--checkpoint=best|last|PATH] [--weights=auto]
       python -m cct_tf.predict --exported=PATH IMAGE|FOLDER|PATTERN ... [--top=5] [--csv|--json]

The most probable classes of image files, by a run of cct_tf.train, whose data set need not be there. Images may have
any size and any format that TensorFlow or Pillow reads; they are decoded, resized and cropped as in its evaluation. A
folder is searched with the folders below it; quote a pattern ('photos/**/*.jpg') that the shell is to leave alone. A
broken file is named on stderr and left out; the exit status is 2 if none can be read. --exported asks what
cct_tf.export wrote instead of a run; a SavedModel is a program, so ask only those you trust."""

FIELDS = [
    config.FIELDS["workdir"],
    command.CHECKPOINT,
    command.WEIGHTS,
    flags.command_field("exported", str, None, "what cct_tf.export wrote, instead of --workdir: the folder of a "
                        "SavedModel, or a .keras, .tflite or .onnx file", path=True),
    flags.command_field("top", int, 5, "classes to show of each image, at most all", minimum=1),
    flags.command_field("csv", bool, False, "print comma-separated values, and nothing else, on stdout"),
    command.JSON,
    flags.command_field("attention", str, None, "a folder, made if needed: write each image beside what the pooling "
                        "and, by attention rollout, the whole encoder look at, as PNG files", bare="attention",
                        path=True),
    flags.command_field("batch_size", int, 32, "images computed together", minimum=1),
    config.FIELDS["debug"],
]


class _Table:
    """Lines for a person: a row for each image."""

    def __init__(self, console, paths, class_names, top):
        self._console = console
        self._path_width = min(max(len(tree.shown(path)) for path in paths), 60)
        self._class_width = min(max(map(len, class_names)), 24)

    def start(self, origin):
        weights = "EMA" if origin["weights"] == "ema" else "raw"
        self._console.say(f"{origin.get('exported') or origin['checkpoint']}, {weights} weights")

    def add(self, name, classes, picture):
        shown = "   ".join(f"{label:<{self._class_width}} {100 * share:6.2f}%" for label, share in classes)
        self._console.say(f"  {name:<{self._path_width}}   {shown}")

    def end(self, broken):
        """Nothing more: stderr has named the broken ones."""


class _Csv:
    """A head, then a row for each image."""

    def __init__(self, top):
        self._top = top
        self._writer = csv.writer(sys.stdout, lineterminator="\n")

    def start(self, origin):
        ranks = range(1, self._top + 1)
        self._writer.writerow(["image", *(f"{what}_{rank}" for rank in ranks for what in ("class", "probability"))])

    def add(self, name, classes, picture):
        self._writer.writerow([name, *(part for label, share in classes for part in (label, f"{share:.6f}"))])

    def end(self, broken):
        """Nothing more: stderr has named the broken ones."""


class _Json:
    """One object, when all is known."""

    def start(self, origin):
        self._found = origin | {"images": []}

    def add(self, name, classes, picture):
        row = {"image": name, "predictions": [{"class": label, "probability": share} for label, share in classes]}
        self._found["images"].append(row | ({"attention": tree.shown(picture)} if picture else {}))

    def end(self, broken):
        print(json.dumps(self._found | {"broken": broken}))


def _picture_paths(folder, paths):
    """{image: pathlib.Path of its picture}, no two alike, and none of them one of the images."""
    taken, pictures = {os.path.realpath(path) for path in paths}, {}
    for path in paths:
        stem = f"{pathlib.Path(path).stem[:100]}_attention"
        target, number = pathlib.Path(folder) / f"{stem}.png", 1
        while os.path.realpath(target) in taken:
            number += 1
            target = pathlib.Path(folder) / f"{stem}_{number}.png"
        taken.add(os.path.realpath(target))
        pictures[path] = target
    return pictures


def _draw(found, name, class_names, pools, picture):
    """Write one image beside its maps."""
    from cct_tf.pictures import fonts, plots
    (index, share), = found.top(1)
    maps = {kind: values[None] for kind, values in found.maps.items()}
    caption = f"{os.path.basename(name)}\n{fonts.readable(class_names)[index]} {100 * share:.1f}%"
    plots.save(plots.as_array(plots.attention_figure(found.image[None], maps, [caption], pools)), picture)


def _predict(predictor, paths, pictures, class_names, top, output, console):
    """Send all images through the network and the output; returns the broken ones, [{"image", "reason"}]."""
    broken = []
    for batch in predictor(paths):
        for found in batch:
            name = tree.shown(found.path)
            if found.broken:
                console.warn(str(found.broken))
                reason = str(found.broken).removeprefix(f"broken image: {name}: ")
                broken.append({"image": name, "reason": reason})
                continue
            classes = [(class_names[index], share) for index, share in found.top(top)]
            picture = pictures.get(found.path)
            if picture:
                _draw(found, name, class_names, predictor.network.pools, picture)
            output.add(name, classes, picture)
    output.end(broken)
    return broken


@dataclasses.dataclass(frozen=True)
class _Asked:
    """The network that predicts, a run's or an export's, as far as it is known without TensorFlow.

    Attributes:
        class_names: sequence of K strings.
        opened: function (largest batch, whether attention maps are asked for) -> context manager of (network, dict of
            its origin); the network is, or stands in for, a `prediction.Network`.
    """

    class_names: object
    opened: object


def _of_run(values):
    """The _Asked of --workdir."""
    selected = selection.select(values["workdir"], values["checkpoint"], values["weights"])
    checks.check_model(selected.settings.model, selected.settings.augment.image_size)

    @contextlib.contextmanager
    def opened(size, with_maps):
        from cct_tf.evaluation import prediction
        network, loaded = prediction.load(selected.settings, selected.record, selected.find, values["weights"],
                                          size, with_maps)
        yield network, {"checkpoint": str(loaded.path), "step": loaded.record.step, "weights": loaded.weights}

    return _Asked(selected.record.resolved.classes, opened)


def _of_export(values, given):
    """The _Asked of --exported."""
    for name in ("workdir", "checkpoint", "weights", "attention"):
        if name in given:
            raise UserError(f"--{name}: expected none beside --exported, found {given[name]!r}")
    path = values["exported"]
    kind = formats.of_path("--exported", path)
    formats.require("--exported", kind.reads_with)
    found = metadata.read("--exported", path, kind)

    @contextlib.contextmanager
    def opened(size, with_maps):
        from cct_tf.export import reading
        with reading.opened("--exported", pathlib.Path(path), kind, found) as network:
            yield network, {"exported": path, "checkpoint": found.checkpoint, "step": found.step,
                            "weights": found.weights}

    return _Asked(found.classes, opened)


def main(given):
    """Predict as the flags say."""
    values = {field.name: field.default for field in FIELDS} | given
    if not values["exported"]:
        checks.check_workdir(values["workdir"])
    runtime.check_backend()
    if values["csv"] and values["json"]:
        raise UserError("--csv: expected one of --csv and --json, found both")
    paths = listing.list_images(values["images"])
    if values["attention"] and not values["exported"]:
        checks.make_output_dir("--attention", values["attention"])
    asked = _of_export(values, given) if values["exported"] else _of_run(values)
    console = Console(quiet=values["csv"] or values["json"])
    with console.phase("starting TensorFlow"):
        runtime.start_tensorflow()
        from cct_tf.evaluation import prediction
    top, size = min(values["top"], len(asked.class_names)), min(values["batch_size"], len(paths))
    output = (_Json() if values["json"] else _Csv(top) if values["csv"]
              else _Table(console, paths, asked.class_names, top))
    with memory.named_when_out(memory.PREDICTION, size), contextlib.ExitStack() as stack:
        with console.phase("loading the weights"):
            network, origin = stack.enter_context(asked.opened(size, bool(values["attention"])))
        output.start(origin)
        pictures = _picture_paths(values["attention"], paths) if values["attention"] else {}
        predictor = prediction.Predictor(network, size)
        broken = _predict(predictor, paths, pictures, asked.class_names, top, output, console)
    if len(broken) == len(paths):
        raise UserError(f"IMAGE: expected at least one image that can be read, found {len(broken)} broken")
    if pictures:
        count = len(paths) - len(broken)
        console.say(f"wrote {count} {'picture' if count == 1 else 'pictures'} to {values['attention']}")


def run():
    """Entry point of `cct-predict`."""
    command.run(main, sys.argv[1:], USAGE, FIELDS, positional="images")


if __name__ == "__main__":
    run()
