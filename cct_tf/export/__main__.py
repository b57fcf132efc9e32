"""Write a network for others to run: `python -m cct_tf.export --workdir=runs/x --format=onnx --output=x.onnx`."""

import contextlib
import json
import os
import pathlib
import sys
import tempfile

from cct_tf.assembly import checks, recorded_data, selection
from cct_tf.datasets import listing
from cct_tf.errors import OutsideFault, UserError
from cct_tf.export import formats
from cct_tf.machine import files, gpus, runtime
from cct_tf.machine.console import Console
from cct_tf.settings import averages, command, config, flags

USAGE = """usage: python -m cct_tf.export --workdir=DIR --format=saved_model|keras|litert|onnx --output=PATH
           [--quantize=int8 [--calibration_images=200]] [--data_dir=DIR | IMAGE|FOLDER|PATTERN ...] [--json]

Writes the network of a run of cct_tf.train as a SavedModel (a folder: images of any size in), a Keras file (.keras),
or for LiteRT (.tflite) or ONNX (.onnx; both take images prepared to the network's size). What is written is loaded
again in a process of its own and compared with the network on the run's test images; if it differs, nothing is left of
it and the exit status is 2. Where the data set of the run is not at hand, name images instead."""

FIELDS = [
    config.FIELDS["workdir"],
    command.CHECKPOINT,
    command.WEIGHTS,
    flags.command_field("format", str, None, "what to write", choices=tuple(formats.FORMATS)),
    flags.command_field("output", str, None, "a new or empty folder for saved_model, else a file that ends in .keras, "
                        ".tflite or .onnx, which is replaced", path=True, remote=True),
    flags.command_field("quantize", str, "none", "int8, with --format=litert: a quarter of the size",
                        choices=("none", "int8")),
    flags.command_field("calibration_images", int, 200, "training images (or of those named) by which the ranges of "
                        "int8 are chosen", minimum=1),
    flags.command_field("check_images", int, 500, "test images (or of those named) to compare on, evenly spread; at "
                        "most all", minimum=1),
    *(config.FIELDS[name] for name in config.PLACES),
    command.JSON,
    config.FIELDS["debug"],
]


def _check(values, given):
    """Judge the flags before anything is read."""
    checks.check_workdir(values["workdir"])
    runtime.check_backend()
    gpus.hide()  # converting and comparing are work of the CPU
    if not values["format"]:
        raise UserError(f"--format: expected one of {', '.join(formats.FORMATS)}, found none")
    kind = formats.FORMATS[values["format"]]
    if not values["output"]:
        raise UserError("--output: expected where to write, found none")
    if values["quantize"] != "none" and kind.name != "litert":
        raise UserError(f"--quantize: expected none with --format={kind.name}, found {values['quantize']!r}; int8 is "
                        "for --format=litert")
    if "calibration_images" in given and values["quantize"] == "none":
        raise UserError("--calibration_images: expected it with --quantize=int8, found it without")
    if values["images"] and "data_dir" in given:
        raise UserError("--data_dir: expected it or images to compare with, found both")
    if kind.suffix:
        if not values["output"].endswith(kind.suffix):  # in small letters: so Keras and `formats.of_path` know it
            raise UserError(f"--output: expected a file that ends in {kind.suffix}, found {values['output']!r}")
        checks.check_output("--output", values["output"], kind.suffix)
    else:
        checks.check_new_folder("--output", values["output"])
    formats.require(f"--format={kind.name}", kind.writes_with)
    return kind


def _say(written, kind, values, console):
    found, loaded = written.comparison, written.loaded
    console.say(f"{loaded.path}, {averages.WEIGHTS[loaded.weights]} weights")
    console.say(f"  {found.count} {written.sample.name} compared: largest difference of a probability "
                f"{found.difference:.2g}" + (f" (allowed {kind.tolerance:g})" if values["quantize"] == "none" else "")
                + f", same prediction on {100 * found.same:.2f}%")
    if found.accuracies:
        console.say(f"  accuracy there: network {100 * found.accuracies[0]:.2f}%, export "
                    f"{100 * found.accuracies[1]:.2f}%")
    console.say(f"wrote {values['output']}: {written.num_bytes:,} bytes")


def _as_dict(written, values):
    found = written.comparison
    ours, theirs = found.accuracies or (None, None)
    return {"output": values["output"], "format": values["format"], "quantize": values["quantize"],
            "bytes": written.num_bytes, "checkpoint": str(written.loaded.path), "step": written.loaded.record.step,
            "weights": written.loaded.weights, "compared_on": f"{found.count} {written.sample.name}",
            "largest_difference": found.difference, "same_prediction": found.same, "accuracy_of_network": ours,
            "accuracy_of_export": theirs}


def _part(resolved, settings, quantize):
    """The `tree.Part` of the run's image folder that is compared on, and calibrated with; None: all is opened."""
    compared = "test" if "test" in resolved.num_examples else "validation"
    return recorded_data.part_of(resolved, settings, (compared,) if quantize == "none" else ("train", compared))


def main(given):
    """Export as the flags say."""
    values = {field.name: field.default for field in FIELDS} | given
    kind = _check(values, given)
    paths = listing.list_images(values["images"]) if values["images"] else []
    changed = {"workdir": values["workdir"]} | {name: given[name] for name in config.PLACES if name in given}
    selected = selection.select(values["workdir"], values["checkpoint"], values["weights"], changed=changed)
    settings = selected.settings
    part = _part(selected.record.resolved, settings, values["quantize"])
    checks.check_model(settings.model, settings.augment.image_size)
    console = Console(quiet=values["json"])
    if not paths:
        with formats.images_help():
            checks.check_inputs(settings, part, console.stream)
    with console.phase("starting TensorFlow"):
        runtime.start_tensorflow()
        from cct_tf.export import writing
    with _output(values["output"], console) as output:
        request = writing.Request(kind, pathlib.Path(output), values["quantize"], values["calibration_images"],
                                  values["check_images"], paths, part)
        written = writing.export(settings, selected.record, selected.find, values["weights"], request, console)
    _say(written, request.kind, values, console)
    if values["json"]:
        print(json.dumps(_as_dict(written, values)))


@contextlib.contextmanager
def _output(path, console):
    """Context manager of a path of this machine to write to; what is there in the end is copied to a remote one."""
    if not files.is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        output = os.path.join(folder, os.path.basename(path.rstrip("/")))
        yield output
        try:
            with console.phase(f"copying to {path}"):
                files.send(output, path.rstrip("/"), last="saved_model.pb")
        except OSError as error:
            raise OutsideFault(f"--output: copying to {path} failed ({error.strerror})") from None


def run():
    """Entry point of `cct-export`."""
    command.run(main, sys.argv[1:], USAGE, FIELDS, positional="images")


if __name__ == "__main__":
    run()
