"""Look at a data set before training on it: `python -m cct_tf.inspect_data --dataset=folder --data_dir=DIR`."""

import dataclasses
import json
import pathlib
import sys

from cct_tf.assembly import checks
from cct_tf.datasets import registry
from cct_tf.machine import gpus, runtime
from cct_tf.settings import command, config, flags

USAGE = """usage: python -m cct_tf.inspect_data [--flagfile=FILE] [--flag=value ...] [--json] [--output=FILE.png]

Counts the images by class and split and looks at each: sizes, formats, broken files; images that are equal, or nearly
equal in different splits; labels that contradict each other; classes whose share differs between splits. Trains
nothing and needs no --workdir. Broken images do not end it, whatever --on_bad_image says."""

_OWN = [
    flags.command_field("json", bool, False, "print the findings as JSON"),
    flags.command_field("output", str, None, "a PNG file that shows the pairs that were found", path=True),
]
FIELDS = [*_OWN, *config.FIELDS.values()]


def main(given):
    """Look at what the flags say."""
    values = {field.name: field.default for field in _OWN} | given
    own = {field.name for field in _OWN}
    settings = config.from_dict({name: value for name, value in given.items() if name not in own})
    runtime.check_backend()
    gpus.hide()
    from cct_tf.machine.console import Console
    console = Console(quiet=values["json"])
    data = dataclasses.replace(settings.data, on_bad_image="skip")
    registry.check_name(data, stream=console.stream)
    if values["output"]:
        checks.check_output("--output", values["output"], ".png")
    with console.phase("starting TensorFlow"):
        runtime.start_tensorflow()
    from cct_tf.inspection import facts, findings, report
    source = registry.open_source(data, console.stream)
    looked = facts.look(source, console.stream)
    found = findings.find(looked, source.class_names)
    print(json.dumps(found, indent=1) if values["json"] else "\n".join(report.lines(found)))
    if values["output"]:
        _draw(found, looked, source, values["output"])
        console.say(f"wrote {values['output']}")


def _draw(found, looked, source, output):
    from cct_tf.inspection import facts, report
    from cct_tf.pictures import plots
    places = dict(zip(zip(looked.splits, map(str, looked.names), strict=True), looked.places, strict=True))

    def image_of(split, name):
        image, _ = next(iter(source.splits[split].reader.images([int(places[split, name])])))
        return facts.picture(image)

    plots.save(plots.as_array(report.figure(found, image_of)), pathlib.Path(output))


def run():
    """Entry point of `cct-inspect`."""
    command.run(main, sys.argv[1:], USAGE, FIELDS)


if __name__ == "__main__":
    run()
