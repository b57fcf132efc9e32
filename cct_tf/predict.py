"""Classify image files: `python -m cct_tf.predict --workdir=runs/quickstart photos/*.png`."""

import contextlib
import csv
import dataclasses
import functools
import json
import os
import pathlib
import sys

from cct_tf.assembly import checks, selection
from cct_tf.datasets import listing, tree
from cct_tf.errors import UserError
from cct_tf.evaluation.multilabel import HALF
from cct_tf.export import formats
from cct_tf.machine import files, gpus, memory, runtime
from cct_tf.machine.console import Console
from cct_tf.runs import export_metadata
from cct_tf.settings import averages, command, config, flags

USAGE = """usage: python -m cct_tf.predict --workdir=DIR IMAGE|FOLDER|PATTERN ... [--top=5] [--csv|--json]
           [--attention[=DIR]] [--checkpoint=best|last|PATH] [--weights=auto]
       python -m cct_tf.predict --exported=PATH IMAGE|FOLDER|PATTERN ... [--top=5] [--csv|--json]

The most probable classes of image files, by a run of cct_tf.train, whose data set need not be there; of a run with
--task=multilabel all classes above their thresholds, fitted in its evaluation. Images may have any size and any format
that TensorFlow or Pillow reads; they are decoded, resized and cropped as in its evaluation. A folder is searched with
the folders below it; quote a pattern ('photos/**/*.jpg') that the shell is to leave alone. A broken file is named on
stderr and left out; the exit status is 2 if none can be read. --exported asks what cct_tf.export wrote instead of a
run; a SavedModel is a program, so ask only those you trust."""

FIELDS = [
    config.FIELDS["workdir"],
    command.CHECKPOINT,
    command.WEIGHTS,
    flags.command_field("exported", str, None, "what cct_tf.export wrote, instead of --workdir: the folder of a "
                        "SavedModel, or a .keras, .tflite or .onnx file", path=True, remote=True),
    flags.command_field("top", int, 5, "classes to show of each image, at most all", minimum=1),
    flags.command_field("csv", bool, False, "print comma-separated values, and nothing else, on stdout"),
    command.JSON,
    flags.command_field("attention", str, None, "a folder, made if needed: write each image beside what the pooling "
                        "and, by attention rollout, the whole encoder look at, as PNG files", bare="attention",
                        path=True),
    flags.command_field("batch_size", int, 32, "images computed together", minimum=1),
    config.FIELDS["device"],
    config.FIELDS["debug"],
]


class _Table:
    """Lines for a person: a row for each image.

    What an output is given: `origin`, dict of the network's origin; for each image its name, the classes to show,
    [(name, probability)], all probabilities, float32 [K], and the path of its picture, or None.
    """

    def __init__(self, console, paths, class_names, top):
        self._console = console
        self._path_width = min(max(len(tree.shown(path)) for path in paths), 60)
        self._class_width = min(max(map(len, class_names)), 24)

    def start(self, origin):
        weights = averages.WEIGHTS[origin["weights"]]
        said = f"; classes above their thresholds, {origin['thresholds_are']}" if "thresholds" in origin else ""
        self._console.say(f"{origin.get('exported') or origin['checkpoint']}, {weights} weights{said}")

    def add(self, name, classes, probabilities, picture):
        shown = "   ".join(f"{label:<{self._class_width}} {100 * share:6.2f}%" for label, share in classes)
        self._console.say(f"  {name:<{self._path_width}}   {shown or 'none'}")

    def end(self, broken):
        """Nothing more: stderr has named the broken ones."""


class _Csv:
    """A head, then a row for each image."""

    def __init__(self, top):
        self._top = top
        self._writer = csv.writer(sys.stdout, lineterminator="\n")

    def start(self, origin):
        del origin
        ranks = range(1, self._top + 1)
        self._writer.writerow(["image", *(f"{what}_{rank}" for rank in ranks for what in ("class", "probability"))])

    def add(self, name, classes, probabilities, picture):
        self._writer.writerow([name, *(part for label, share in classes for part in (label, f"{share:.6f}"))])

    def end(self, broken):
        """Nothing more: stderr has named the broken ones."""


class _SeveralCsv(_Csv):
    """The same of images with several classes: those above their thresholds, and the probability of each."""

    def __init__(self, class_names):
        super().__init__(len(class_names))
        self._class_names = class_names

    def start(self, origin):
        self._writer.writerow(["image", "classes", *(f"probability_{name}" for name in self._class_names)])

    def add(self, name, classes, probabilities, picture):
        self._writer.writerow([name, ";".join(label for label, _ in classes),
                               *(f"{share:.6f}" for share in probabilities)])


class _Json:
    """One object, when all is known; with all probabilities where an image may have several classes."""

    def __init__(self, class_names):
        self._class_names = class_names

    def start(self, origin):
        self._found = origin | {"images": []}

    def add(self, name, classes, probabilities, picture):
        row = {"image": name, "predictions": [{"class": label, "probability": share} for label, share in classes]}
        if "thresholds" in self._found:
            row["probabilities"] = dict(zip(self._class_names, map(float, probabilities), strict=True))
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


def _draw(found, name, shown, class_names, pools, picture):
    """Write one image beside its maps; `shown` is what is said of it, [(index, probability)]."""
    from cct_tf.pictures import fonts, plots
    names = fonts.readable(class_names)
    maps = {kind: values[None] for kind, values in found.maps.items()}
    words = ", ".join(f"{names[index]} {100 * share:.1f}%" for index, share in shown) or "none"
    caption = f"{os.path.basename(name)}\n{words}"
    plots.save(plots.as_array(plots.attention_figure(found.image[None], maps, [caption], pools)), picture)


def _predict(predictor, paths, pictures, class_names, choose, output, console):
    """Send all images through the network and the output; returns the broken ones, [{"image", "reason"}].

    `choose` is a function of a `prediction.Prediction` that gives the classes to show, [(index, probability)].
    """
    broken = []
    for batch in predictor(paths):
        for found in batch:
            name = tree.shown(found.path)
            if found.broken:
                console.warn(str(found.broken))
                reason = str(found.broken).removeprefix(f"broken image: {name}: ")
                broken.append({"image": name, "reason": reason})
                continue
            shown, picture = choose(found), pictures.get(found.path)
            if picture:
                said = shown[:1] if choose.func is type(found).top else shown
                _draw(found, name, said, class_names, predictor.network.pools, picture)
            output.add(name, [(class_names[index], share) for index, share in shown], found.probabilities, picture)
    output.end(broken)
    return broken


@dataclasses.dataclass(frozen=True)
class _Asked:
    """The network that predicts, a run's or an export's, as far as it is known without TensorFlow.

    Attributes:
        class_names: sequence of K strings.
        several: bool, whether an image may have several classes; the origin then holds "thresholds", dict by class, and
            "thresholds_are", words.
        opened: function (largest batch, whether attention maps are asked for) -> context manager of (network, dict of
            its origin); the network is, or stands in for, a `prediction.Network`.
    """

    class_names: object
    several: bool
    opened: object


def _of_run(values):
    """The _Asked of --workdir."""
    selected = selection.select(values["workdir"], values["checkpoint"], values["weights"])
    checks.check_model(selected.settings.model, selected.settings.augment.image_size)
    if values["attention"]:
        checks.require_ours("--attention", selected.settings.model.model, "whose attention is known")

    @contextlib.contextmanager
    def opened(size, with_maps):
        from cct_tf.evaluation import prediction
        network, loaded = prediction.load(selected.settings, selected.record, selected.find, values["weights"],
                                          size, with_maps)
        origin = {"checkpoint": str(loaded.path), "step": loaded.record.step, "weights": loaded.weights}
        yield network, origin | (_thresholds(classes, loaded) if several else {})

    classes, several = selected.record.resolved.classes, selected.settings.data.task == "multilabel"
    return _Asked(classes, several, opened)


def _thresholds(classes, loaded):
    """The thresholds of an origin: those of `networks.Loaded` weights of K classes."""
    words = f"fitted on the {loaded.record.resolved.evaluated_split} split"
    if loaded.thresholds is None:
        words = "0.5 for each, for none were fitted to these weights"
    values = loaded.thresholds or (HALF,) * len(classes)
    return {"thresholds": dict(zip(classes, values, strict=True)), "thresholds_are": words}


def _of_export(values, given):
    """The _Asked of --exported."""
    for name in ("workdir", "checkpoint", "weights", "attention"):
        if name in given:
            raise UserError(f"--{name}: expected none beside --exported, found {given[name]!r}")
    path = copy = values["exported"]
    files.check("--exported", path)
    if files.is_remote(path) and files.exists(path):
        copy = files.local(path)
    with files.named(path, copy):
        kind = formats.of_path("--exported", copy)
        formats.require("--exported", kind.reads_with)
        found = export_metadata.read("--exported", copy, kind.name)

    @contextlib.contextmanager
    def opened(size, with_maps):
        from cct_tf.export import reading
        runtime.make_devices(1)
        with files.named(path, copy), reading.opened("--exported", pathlib.Path(copy), kind, found) as network:
            origin = {"exported": path, "checkpoint": found.checkpoint, "step": found.step, "weights": found.weights}
            if found.is_multilabel:
                origin |= {"thresholds": dict(zip(found.classes, found.thresholds, strict=True)),
                           "thresholds_are": "those of the export"}
            yield network, origin

    return _Asked(found.classes, found.is_multilabel, opened)


def _output(values, asked, paths, top, console):
    """What prints the predictions."""
    if values["json"]:
        return _Json(asked.class_names)
    if values["csv"]:
        return _SeveralCsv(asked.class_names) if asked.several else _Csv(top)
    return _Table(console, paths, asked.class_names, top)


def main(given):
    """Predict as the flags say."""
    values = {field.name: field.default for field in FIELDS} | given
    if not values["exported"]:
        checks.check_workdir(values["workdir"])
    runtime.check_backend()
    gpus.choose(values["device"])
    if values["csv"] and values["json"]:
        raise UserError("--csv: expected one of --csv and --json, found both")
    paths = listing.list_images(values["images"])
    if values["attention"] and not values["exported"]:
        checks.make_output_dir("--attention", values["attention"])
    asked = _of_export(values, given) if values["exported"] else _of_run(values)
    if asked.several and "top" in given:
        raise UserError("--top: expected none for a network of --task=multilabel, which shows all classes above their "
                        f"thresholds, found {given['top']}")
    console = Console(quiet=values["csv"] or values["json"])
    with console.phase("starting TensorFlow"):
        runtime.start_tensorflow()
        from cct_tf.evaluation import prediction
    top, size = min(values["top"], len(asked.class_names)), min(values["batch_size"], len(paths))
    output = _output(values, asked, paths, top, console)
    with memory.named_when_out(memory.PREDICTION, size), contextlib.ExitStack() as stack:
        with console.phase("loading the weights"):
            network, origin = stack.enter_context(asked.opened(size, bool(values["attention"])))
        output.start(origin)
        pictures = _picture_paths(values["attention"], paths) if values["attention"] else {}
        predictor = prediction.Predictor(network, size)
        choose = functools.partial(prediction.Prediction.top, count=top)
        if asked.several:
            choose = functools.partial(prediction.Prediction.above, thresholds=list(origin["thresholds"].values()))
        broken = _predict(predictor, paths, pictures, asked.class_names, choose, output, console)
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
