"""Look at what the network will see: `python -m cct_tf.preview --flagfile=configs/quickstart.cfg`."""

import dataclasses
import pathlib
import sys

from cct_tf.assembly import checks
from cct_tf.datasets import tree
from cct_tf.errors import UserError
from cct_tf.machine import gpus, runtime
from cct_tf.settings import command, config, consistency, flags

USAGE = """usage: python -m cct_tf.preview [--flagfile=FILE] [--flag=value ...] [--output=FILE.png] [--ops]

Draws a contact sheet of the training images as a run with these flags would see them: a row for each image, a column
for each epoch, or with --sampler for each draw of the image. With --ops, a row for each operation of the policies of
--auto_augment instead. Trains nothing and needs no --workdir; another --seed shows other images."""

_OWN = [
    flags.command_field("output", str, "preview.png", "the picture, a PNG file", path=True),
    flags.command_field("rows", int, 8, "images", minimum=1),
    flags.command_field("draws", int, 8, "draws of each image", minimum=1),
    flags.command_field("ops", bool, False, "show each operation of the policies instead"),
]
FIELDS = [*_OWN, *config.FIELDS.values()]
_MOST_CELLS = 1000
_PART = tree.Part(("train",))


def _check(values, settings, stream):
    """What can be judged without TensorFlow."""
    if (settings.data.columns or "").isdecimal():  # as the flag was called once
        raise UserError(f"--columns: expected the columns of a table; --draws={settings.data.columns} draws so many of "
                        "each image")
    if values["rows"] * values["draws"] > _MOST_CELLS:
        raise UserError(f"--rows: expected at most {_MOST_CELLS} draws in all, found {values['rows']} rows of "
                        f"{values['draws']} --draws")
    if consistency.mixes(settings.augment) and values["rows"] % 2 and not values["ops"]:
        raise UserError("--rows: expected an even number for --mixup_alpha and --cutmix_alpha, which mix neighbours, "
                        f"found {values['rows']}")
    if values["ops"] and (settings.data.channels not in (1, 3) or settings.data.bits != 8):
        raise UserError("--ops: expected colours or grey of 8 bits, which most operations are made for, found "
                        f"--channels={settings.data.channels} and --bits={settings.data.bits}")
    checks.check_inputs(settings, _PART, stream)
    checks.check_output("--output", values["output"], ".png")


def _heading(settings):
    """The flags that shape the picture, where they are not the defaults."""
    parts = [f"--dataset={settings.data.dataset}", f"--seed={settings.run.seed}"]
    parts += [f"--{name}={getattr(settings.data, name)}" for name in ("channels", "bits", "sampler")
              if getattr(settings.data, name) != config.FIELDS[name].default]
    for field in dataclasses.fields(settings.augment):
        value = getattr(settings.augment, field.name)
        if value != field.default and field.name not in ("mean", "std"):
            shown = value if isinstance(value, tuple) else (value,)
            shown = ",".join(part if isinstance(part, str) else f"{part:g}" for part in shown)
            parts.append(f"--{field.name}={shown}")
    if settings.data.channels not in (1, 3):
        parts.append("(false colours: the first channels)")
    if settings.data.bits == 16:
        parts.append("(shown from mean - 2.5 to mean + 2.5 standard deviations)")
    return " ".join(parts)


def _draw(settings, values, console):
    """The picture of the flags: a matplotlib Figure."""
    from cct_tf.assembly import inputs
    from cct_tf.augment.stages import describe
    from cct_tf.pictures import contact_sheet
    images = inputs.open_images(settings, console, part=_PART)
    source, split = images.source, images.source.splits["train"]
    if values["rows"] > split.num_examples:
        raise UserError(f"--rows: expected at most the number of training images, {split.num_examples}, found "
                        f"{values['rows']}")
    # Of the network only the size of its input is needed.
    transform = inputs.make_transform(settings, images, checks.shape_of(settings))
    sampling, stages = inputs.make_sampling(settings), inputs.training_stages(settings, images, transform)
    console.say(f"augmentation: {describe(stages)}")
    with console.phase("drawing"):
        if values["ops"]:
            image = contact_sheet.first_image(split, transform, sampling)
            return contact_sheet.figure(contact_sheet.operations(image, images.mean))
        sheet = contact_sheet.draw(split, source.class_names, transform, stages, sampling, values["rows"],
                                   values["draws"])
        return contact_sheet.figure(sheet, _heading(settings))


def main(given):
    """Draw what the flags say."""
    values = {field.name: field.default for field in _OWN} | given
    own = {field.name for field in _OWN}
    settings = config.from_dict({name: value for name, value in given.items() if name not in own})
    runtime.check_backend()
    gpus.hide()
    from cct_tf.machine.console import Console
    console = Console()
    _check(values, settings, console.stream)
    with console.phase("starting TensorFlow"):
        runtime.start_tensorflow()
        from cct_tf.pictures import plots
    plots.save(plots.as_array(_draw(settings, values, console)), pathlib.Path(values["output"]))
    console.say(f"wrote {values['output']}")


def run():
    """Entry point of `cct-preview`."""
    command.run(main, sys.argv[1:], USAGE, FIELDS)


if __name__ == "__main__":
    run()
