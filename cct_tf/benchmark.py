"""Measure the trainer: `python -m cct_tf.benchmark --what=input --flagfile=configs/cifar10_paper_300.cfg`."""

import json
import sys

from cct_tf import checks, command, config, flags, runtime

_USAGE = """usage: python -m cct_tf.benchmark --what=input [--flagfile=FILE] [--flag=value ...] [--json]

Measures a part of the trainer under a config, all flags of cct_tf.train included. Trains and writes nothing.

  input   images per second that the input pipeline prepares, and the time of each of its stages"""

_OWN = [
    flags.command_field("what", str, "input", "what is measured", choices=("input",)),
    flags.command_field("repeats", int, 5, "measurements, of which the median counts", minimum=1),
    flags.command_field("seconds", float, 1.0, "length of one measurement", minimum=0.01),
    flags.command_field("json", bool, False, "print one JSON object on one line, last on stdout"),
]
_FIELDS = [*_OWN, *config.FIELDS.values()]


def _show(console, found):
    """The result as a table."""
    console.say(f"input pipeline: {found['images_per_second']:,.0f} images/s ({found['lowest']:,.0f} to "
                f"{found['highest']:,.0f}), {found['cores']} cores, {found['image_size']} x {found['image_size']}, "
                f"batch {found['batch_size']}")
    total = sum(found["stages"].values())
    for stage, microseconds in found["stages"].items():
        console.say(f"  {stage:<8} {microseconds:9.2f} us an image  {100 * microseconds / total:5.1f}%")


def main(given):
    """Measure as the flags say."""
    from cct_tf.training.console import Console
    own = {field.name: given.pop(field.name, field.default) for field in _OWN}
    settings = config.from_dict(given)
    runtime.check_backend()
    checks.check_inputs(settings)
    console = Console(quiet=own["json"])
    with console.phase("starting TensorFlow"):
        runtime.start_tensorflow()
        from cct_tf.benchmarks import input as input_benchmark
    found = input_benchmark.measure(settings, console, own["repeats"], own["seconds"])
    if own["json"]:
        print(json.dumps(found))
        return
    _show(console, found)


def run():
    """Entry point of `cct-benchmark`."""
    command.run(main, sys.argv[1:], _USAGE, _FIELDS)


if __name__ == "__main__":
    run()
