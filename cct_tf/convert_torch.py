"""Convert PyTorch weights to ours, or ours to PyTorch: `python -m cct_tf.convert_torch --input=X.pth --output=DIR`."""

import dataclasses
import os
import pathlib
import sys

from cct_tf.assembly import checks, selection
from cct_tf.convert import matching, names, state
from cct_tf.errors import UserError
from cct_tf.machine import files, gpus, runtime
from cct_tf.machine.console import Console
from cct_tf.models import variants
from cct_tf.settings import averages, command, config, flags

USAGE = """usage: python -m cct_tf.convert_torch --input=X.pth --model=NAME --output=DIR|X.keras [--dataset=NAME ...]
       python -m cct_tf.convert_torch --to_torch --input=DIR|X.keras --output=X.safetensors

Reads a checkpoint of the authors' code (.pth, .safetensors; a state dict, or a file with one) without PyTorch and
without running anything in it, and writes a work folder or a Keras file; or writes a state dict that their code loads.
With a data set, cct_tf.evaluate reads the work folder; a recipe's --flagfile names it, and how its images are prepared.
"""

_OWN = [
    flags.command_field("input", str, None, "file of weights; with --to_torch: work folder or .keras file", path=True,
                        remote=True),
    flags.command_field("output", str, None, "a new work folder, or a .keras file; with --to_torch: .safetensors file",
                        path=True),
    flags.command_field("infer_model", bool, False, "find --model among the published networks by the shapes (and for "
                        "sine positions by the values)"),
    flags.command_field("state", str, "auto", "which state dict of the file: model; ema, its average; or auto, the "
                        "only one", choices=state.STATES),
    flags.command_field("to_torch", bool, False, "the way back"),
    *(dataclasses.replace(field, help=f"with --to_torch: {field.help}")
      for field in (command.CHECKPOINT, command.WEIGHTS)),
]
FIELDS = [*_OWN, *(field for name, field in config.FIELDS.items() if name != "workdir")]


def _check_output(name, kinds):
    """Raise UserError if --output can't be written: a file that ends in one of `kinds`, or a new folder ("")."""
    text = " or ".join(f"a file that ends in {kind}" if kind else "a new or empty folder" for kind in kinds)
    suffix = pathlib.Path(name or "").suffix
    kind = suffix if suffix in (".keras", ".safetensors", ".pth") else ""
    if not name or kind not in kinds:
        raise UserError(f"--output: expected {text}, found {name!r}")
    if kind:
        checks.check_output("--output", name, kind)
    else:
        checks.check_new_folder("--output", name)


def _settings(given, output):
    """The `Config` of the network and its data set, in the new work folder."""
    own = {field.name for field in _OWN}
    chosen = {name: value for name, value in given.items() if name not in own}
    # A recipe's flagfile may ask for an average and for initial weights; converted weights have neither.
    without = {"ema_decay": 0.0, "average_last": 0.0, "init_from": None, "freeze": None}
    if chosen.get("optimizer") == averages.SCHEDULE_FREE:
        without["optimizer"] = "adamw"
    settings = config.from_dict(chosen | {"workdir": output} | without)
    if "dataset" in given:
        checks.check_inputs(settings)
    checks.require_ours("--model", settings.model.model, "for which the authors' code has weights")
    checks.check_model(settings.model, settings.augment.image_size)
    return settings


def _variant(values, given, settings, found):
    """The network that the state dict `found` belongs to, by the flags or by its shapes."""
    model, size = settings.model, settings.augment.image_size
    if not values["infer_model"]:
        name, positions = model.model, model.positional_embedding
    else:
        inferred = matching.infer(found)
        name, positions = inferred.name, inferred.positional_embedding
    return variants.resolve(name, size, positions, model.norm_order, model.dropout_rate, model.attention_dropout_rate,
                            model.drop_path_rate, settings.data.channels, model.qk_norm, model.zero_init_outputs)


def _say(console, found, match, variant, classes):
    """Print every tensor of the file and what it was used for."""
    where = "".join([f", {found.key}" * bool(found.key), f", less the prefix {found.prefix!r}" * bool(found.prefix)])
    console.say(f"{found.path}{where}: {variant.name}, {variant.positional_embedding} positions, {classes} classes")
    width = max(len(weight.authors) for weight, _ in match.used)
    for weight, array in match.used:
        console.say(f"  {weight.authors:<{width}}  {found.dtypes[weight.authors]} {list(weight.shape)} -> "
                    f"{weight.ours} {list(array.shape)}")
    for name in match.checked:
        console.say(f"  {name:<{width}}  a constant, equal to ours")
    for name in match.left:
        console.say(f"  {name:<{width}}  not used: a count, no weight")
    console.say(f"{len(match.used)} weights, {sum(array.size for _, array in match.used):,} values; none missing")


def _start(console):
    with console.phase("starting TensorFlow"):
        runtime.start_tensorflow()


def _from_torch(values, given):
    if values["infer_model"] == ("model" in given):
        found = "both" if values["infer_model"] else "neither"
        raise UserError(f"--model: expected it or --infer_model, found {found}")
    if values["infer_model"] and "positional_embedding" in given:
        raise UserError("--positional_embedding: expected it with --model, found it with --infer_model, which sees it")
    settings, console = _settings(given, values["output"]), Console()
    found = state.read_state(values["input"], values["state"])
    variant, classes = _variant(values, given, settings, found), matching.num_classes(found)
    match = matching.match(found, variant, classes)
    _say(console, found, match, variant, classes)
    _start(console)
    from cct_tf.assembly import converted_run, keras_file
    from cct_tf.convert import weights
    from cct_tf.models.create import build
    model = build(variant, classes)
    weights.assign(model, match)
    if values["output"].endswith(".keras"):
        keras_file.save(model, pathlib.Path(values["output"]))
    else:
        network = {"model": variant.name, "positional_embedding": variant.positional_embedding}
        settings = config.from_dict(settings.as_dict() | network)
        converted_run.write(settings, model, console, "dataset" in given)
    console.say(f"wrote {values['output']}")


def _to_torch(values):
    console, source, selected = Console(), values["input"], None
    if not source.endswith(".keras"):
        selected = selection.select(source, values["checkpoint"], values["weights"], needs_data=False,
                                    workdir_flag="--input")
        checks.check_model(selected.settings.model, selected.settings.augment.image_size)
        checks.require_ours("--to_torch", selected.settings.model.model, "for which the authors' code has weights")
        names.check_authors("--to_torch", checks.variant_of(selected.settings))
    elif not os.path.isfile(source):
        raise UserError(f"--input: expected a work folder or a .keras file, found nothing at {source!r}")
    _start(console)
    from cct_tf.assembly import keras_file, networks
    from cct_tf.convert import safetensors, weights
    if selected is None:
        model = keras_file.load(source)
    else:
        classes = selected.record.resolved.num_classes
        model = networks.load_model(selected.settings, classes, selected.find, values["weights"]).model
    arrays = weights.to_torch(model)
    safetensors.write(pathlib.Path(values["output"]), arrays)
    console.say(f"wrote {values['output']}: {model.variant.name}, {len(arrays)} tensors, "
                f"{sum(array.size for array in arrays.values()):,} values")


def main(given):
    """Convert as the flags say."""
    values = {field.name: field.default for field in FIELDS} | given
    runtime.check_backend()
    gpus.hide()
    if not values["input"]:
        raise UserError("--input: expected a file of weights (.pth, .safetensors), found none")
    _check_output(values["output"], (".safetensors",) if values["to_torch"] else ("", ".keras"))
    asked = values["input"]
    if files.is_remote(asked):
        files.check("--input", asked)
        if not files.is_file(asked):
            raise UserError("--input: expected a file, for a remote work folder has to be copied to this machine, "
                            f"found {'a folder' if files.is_dir(asked) else 'nothing'} at {asked!r}")
    copy = files.local(asked)
    with files.named(asked, copy):
        if values["to_torch"]:
            _to_torch(values | {"input": copy})
        else:
            _from_torch(values | {"input": copy}, given)


def run():
    """Entry point of `cct-convert-torch`."""
    command.run(main, sys.argv[1:], USAGE, FIELDS)


if __name__ == "__main__":
    run()
