"""A work folder for weights that come from elsewhere: the network as its best checkpoint, of step 0.

    best/step_00000000/    as `checkpoint` writes them; run.json knows the data set only if one was named

`evaluate` reads it like a run's, with a data set; a run that takes the weights from it needs none.
"""

import dataclasses

from cct_tf.assembly import inputs
from cct_tf.errors import UserError
from cct_tf.runs import checkpoint
from cct_tf.runs.run_record import Record
from cct_tf.runs.workdir import Workdir
from cct_tf.training import saver


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
    resolved = {"image_size": model.image_size, "num_classes": model.num_classes, "num_examples": {}, "classes": []}
    if with_data:
        resolved |= _data(config, model.num_classes, console)
    workdir = Workdir(config.run.workdir)
    workdir.create()
    if resolved["classes"]:
        workdir.classes.write_text("".join(f"{name}\n" for name in resolved["classes"]), encoding="utf-8")
    record = Record(config=config.as_dict(), resolved=resolved, step=0, last_evaluated_step=0, best=None,
                    finished=False, versions=saver.versions())
    return checkpoint.save(workdir.best, checkpoint.make_trackable(model), record)


def _data(config, num_classes, console):
    """What `evaluate` has to know of the data set, as `saver.resolve` says it."""
    images = inputs.open_images(config, console)
    source = images.source
    if source.num_classes != num_classes:
        raise UserError(f"--dataset: expected one of {num_classes} classes, as the weights have, found "
                        f"{config.data.dataset} with {source.num_classes}")
    return {"mean": list(images.mean), "std": list(images.std),
            "statistics_computed": config.augment.mean is None and source.mean is None,
            "classes": list(source.class_names), "fingerprint": source.fingerprint, "order": source.order,
            "data_rules": dataclasses.asdict(source.rules),
            "num_examples": {name: split.num_examples for name, split in source.splits.items()}}
