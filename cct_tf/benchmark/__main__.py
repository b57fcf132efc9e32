"""Measure the trainer: `python -m cct_tf.benchmark --what=step --model=cct_7_3x1_32 --batch_size=64`."""

import contextlib
import importlib
import json
import sys

from cct_tf.assembly import checks
from cct_tf.benchmark import comparison, photographs, startup, tables
from cct_tf.errors import UserError
from cct_tf.machine import gpus, runtime
from cct_tf.settings import command, config, flags

USAGE = """usage: python -m cct_tf.benchmark --what=PART [--flagfile=FILE] [--flag=value ...] [--json]

Measures a part of the trainer under a config, all flags of cct_tf.train included. Leaves --workdir alone.

  step      images per second that the training step takes, one batch in memory; percent of the machine's speed
  input     images per second that the input pipeline prepares, and the time of each of its stages
  loop      real training with data, logs and checkpoints, and percent of the bare step's speed
  eval      images per second that evaluation takes
  startup   seconds from the start of cct_tf.train to its first completed step"""

_PARTS = ("step", "input", "loop", "eval", "startup")
_RANDOM_IMAGES = ("step", "eval")  # need no data set
_SYNTHETIC, _SIZE = "synthetic", "500x375"
_OF_COST = ("step", "loop", "eval")  # give the operations of the network
_OWN = [
    flags.command_field("what", str, "input", "what is measured", choices=_PARTS),
    flags.command_field("images", str, "folder", "of input, loop and startup: the run's own, of --dataset and "
                        "--data_dir (folder); or JPEGs of one size made for it, in their place (synthetic), which are "
                        "read from disk unless --in_memory_gib is given", choices=("folder", _SYNTHETIC)),
    flags.command_field("source_size", str, None, f"WIDTHxHEIGHT of synthetic images; default: {_SIZE}"),
    flags.command_field("compare", str, "none", "of step: measure the same network of stock Keras layers in turn, in "
                        "graph mode or compiled by XLA", choices=("none", "keras", "keras_jit")),
    flags.command_field("parts", bool, False, "of step, on CPUs: where its time goes, each part by itself beside its "
                        "floor"),
    flags.command_field("classes", int, 10, "classes of the network, of step and eval", minimum=1),
    flags.command_field("repeats", int, 5, "measurements, of which the median counts", minimum=1),
    flags.command_field("seconds", float, 1.0, "length of one measurement, at least", minimum=0.01),
    flags.command_field("json", bool, False, "print one JSON object on one line, last on stdout"),
]
FIELDS = [*_OWN, *config.FIELDS.values()]


def _check_images(given, own):
    """Judge --images and --source_size, before images are made."""
    if own["images"] != _SYNTHETIC:
        if own["source_size"] is not None:
            raise UserError(f"--source_size: expected none without --images={_SYNTHETIC}, found {own['source_size']}")
        return
    if own["what"] in _RANDOM_IMAGES:
        raise UserError(f"--images: expected folder with --what={own['what']}, which takes random pixels and reads no "
                        f"files, found {_SYNTHETIC}")
    if given.get("data_dir"):
        raise UserError(f"--data_dir: expected none with --images={_SYNTHETIC}, found {given['data_dir']}")
    photographs.parse_size(own["source_size"] or _SIZE)


@contextlib.contextmanager
def _data_of(own, console):
    """The flags of the data set where it is made for the benchmark: a dict, else empty."""
    if own["images"] != _SYNTHETIC:
        yield {}
        return
    with contextlib.ExitStack() as stack:
        size = own["source_size"] or _SIZE
        with console.phase(f"making JPEGs of {size}"):
            folder = stack.enter_context(photographs.folder(photographs.parse_size(size)))
        yield {"dataset": "folder", "data_dir": str(folder)}


def _described(settings, own):
    """What was read, in words."""
    if own["images"] == _SYNTHETIC:
        return f"JPEGs of {own['source_size'] or _SIZE}, made for it"
    return settings.data.data_dir if settings.data.dataset in ("folder", "table", "npz") else settings.data.dataset


def _check(settings, own):
    """What can be judged before TensorFlow is imported."""
    runtime.check_backend()
    if own["what"] in _OF_COST:
        checks.require_ours(f"--what={own['what']}", settings.model.model, "whose cost is known")
    if own["what"] in _RANDOM_IMAGES and settings.distill.teacher:
        raise UserError(f"--teacher: expected none with --what={own['what']}, for --what=loop measures it, found "
                        f"{settings.distill.teacher!r}")
    if own["what"] in _RANDOM_IMAGES:
        checks.check_model(settings.model, settings.augment.image_size)
    else:
        checks.check_inputs(settings)
    if settings.run.profile_steps is not None:
        raise UserError(f"--profile_steps: expected none, for a trace takes time, found {settings.run.profile_steps}")
    if own["compare"] != "none":
        if own["what"] != "step":
            raise UserError(f"--compare: expected none with --what={own['what']}, found {own['compare']}")
        comparison.check(settings)
    if own["parts"]:
        if own["what"] != "step":
            raise UserError(f"--parts: expected --what=step with it, found --what={own['what']}")
        comparison.check_parts(settings)


def _measure(settings, console, own):
    """What was found, a dict."""
    what, repeats, seconds = own["what"], own["repeats"], own["seconds"]
    if what == "startup":
        return startup.measure(flags.as_flagfile(settings), console, repeats, settings.run.compile_cache != "off")
    gpus.choose(settings.run.device)
    with console.phase("starting TensorFlow"):
        runtime.start_tensorflow()  # without a cache of compiled code, or the peak of memory would depend on it
        module = importlib.import_module("cct_tf.benchmark." + {"eval": "evaluate"}.get(what, what))
    if what == "step":
        return module.measure(settings, own["classes"], console, repeats, seconds, own["compare"], own["parts"])
    if what == "eval":
        return module.measure(settings, own["classes"], console, repeats, seconds)
    return module.measure(settings, console, repeats, seconds)


def main(given):
    """Measure as the flags say."""
    from cct_tf.machine import memory
    from cct_tf.machine.console import Console
    own = {field.name: given.pop(field.name, field.default) for field in _OWN}
    console = Console(quiet=own["json"])
    _check_images(given, own)
    if own["images"] == _SYNTHETIC:  # what the flags say of another data set does not count
        given = {"in_memory_gib": 0.0} | given | {"dataset": "digits", "train_split": "train", "test_split": "test"}
    _check(config.from_dict(given), own)
    with _data_of(own, console) as data:
        settings = config.from_dict(given | data)
        evaluates = own["what"] == "eval"
        with memory.named_when_out(memory.EVALUATION if evaluates else memory.TRAINING,
                                   settings.run.eval_batch_size if evaluates else settings.optim.batch_size):
            found = {"what": own["what"]} | _measure(settings, console, own)
    if own["what"] == "input":
        found["images"] = _described(settings, own)
    if own["json"]:
        print(json.dumps(found))
    else:
        console.say("\n".join(tables.lines(found)))


def run():
    """Entry point of `cct-benchmark`."""
    command.run(main, sys.argv[1:], USAGE, FIELDS)


if __name__ == "__main__":
    run()
