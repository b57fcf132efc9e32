"""A work folder for weights that come from elsewhere: the network as its best checkpoint, of step 0.

    best/step_00000000/    as `checkpoint` writes them; run.json knows the data set only if one was named

`evaluate` reads it like a run's, with a data set; a run that takes the weights from it needs none.
"""

from cct_tf.assembly import inputs, resolving
from cct_tf.errors import UserError
from cct_tf.runs import checkpoint, run_record
from cct_tf.runs.run_status import RunStatus
from cct_tf.runs.workdir import Workdir


def write(config, model, console, with_data):
    """Write a network into the work folder of a config.

    Args:
        config: `config.Config` of the network (and the data set), with the folder.
        model: keras.Model, built.
        console: `console.Console`.
        with_data: bool, whether the config's data set is the one to evaluate on.

    Returns:
        pathlib.Path of the checkpoint.

    Raises:
        UserError: the folder can't be written, or the data set has another number of classes.
    """
    images = _open(config, model.num_classes, console) if with_data else None
    resolved = resolving.resolve(config, model, images)
    workdir = Workdir(config.run.workdir)
    workdir.create()
    if resolved.classes:
        workdir.classes.write_text("".join(f"{name}\n" for name in resolved.classes), encoding="utf-8")
    record = run_record.Record(config=config.as_dict(), resolved=resolved, step=0, status=RunStatus(), finished=False,
                               versions=run_record.versions())
    return checkpoint.save(workdir.best, checkpoint.make_trackable(model), record)


def _open(config, num_classes, console):
    """The `inputs.Images` to evaluate the network on."""
    images = inputs.open_images(config, console)
    if images.source.num_classes != num_classes:
        raise UserError(f"--dataset: expected one of {num_classes} classes, as the weights have, found "
                        f"{config.data.dataset} with {images.source.num_classes}")
    return images
