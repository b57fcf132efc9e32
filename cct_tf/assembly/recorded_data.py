"""Whether a data set is the one that a run was started on, and what to do where it is not."""

from cct_tf.datasets import tree
from cct_tf.errors import UserError
from cct_tf.machine.console import listed
from cct_tf.runs import file_list
from cct_tf.runs.workdir import Workdir
from cct_tf.settings import class_weights

_GO_ON = "--accept_config_change goes on with them, another --workdir starts anew"
_LOOK = ("cct_tf.train goes on with them under --accept_config_change, and --data_dir=DIR names a folder as it was for "
         "this command alone")


def part_of(resolved, config, splits):
    """The `tree.Part` of a run's image folder or table for a command that needs some splits; None: it has to open all.

    Args:
        resolved: `resolved.Resolved` of the run, which knows since when `folder` was recorded how a split is told.
        config: `config.Config` of the run.
        splits: sequence of names of splits that the run has.
    """
    if config.data.dataset not in ("folder", "table") or resolved.folder is None:
        return None
    return tree.Part(tuple(splits), resolved.classes, resolved.folder["held"])


def check_data(images, resolved, changes=None, accept=False, way_out=_GO_ON):
    """Refuse other data than a run was started on, or went on with.

    Args:
        images: Images.
        resolved: `resolved.Resolved` of the run's checkpoint.
        changes: what is different, for images that may be taken instead, see `file_list.changes`; None where none may.
        accept: bool, whether --accept_config_change takes them.
        way_out: what to do about changed images, text.

    Raises:
        UserError: the fingerprints differ, and it doesn't; or the classes do.
    """
    found = images.source.fingerprint
    if resolved.fingerprint == found:
        return
    classes = images.source.class_names
    if changes and resolved.classes != tuple(classes):
        raise UserError(f"--data_dir: expected the classes of this run, {listed(resolved.classes)}, found "
                        f"{listed(classes)}; other classes are another run: give it a --workdir of its own")
    if not accept or not changes:
        then = "other data, or another split of it, is another run: give it a --workdir of its own"
        if changes:
            then = f"{changes}; {way_out}"
        raise UserError(f"--data_dir: expected the images and splits this run was started on (fingerprint "
                        f"{resolved.fingerprint[:12]}), found others ({found[:12]}); {then}")


def check_recorded_data(images, record, config):
    """As `check_data`, for a command that looks at a run; `config` is its `config.Config`, with the work folder.

    Where it has opened some of the splits, these alone are judged.
    """
    changes, source = None, images.source
    if source.is_part:
        _check_part(source, record.resolved, Workdir(config.run.workdir))
        return
    if source.has_files and record.resolved.fingerprint != source.fingerprint:
        changes = file_list.changes(Workdir(config.run.workdir), record.resolved, source)
    check_data(images, record.resolved, changes, way_out=_LOOK)


def _check_part(source, resolved, workdir):
    for name in source.splits:
        expected, found = resolved.folder["fingerprints"][name], source.split_fingerprint(name)
        if found != expected:
            raise UserError(f"--data_dir: expected the images of the {name} split that this run was started on "
                            f"(fingerprint {expected[:12]}), found others ({found[:12]}); in this split: "
                            f"{file_list.changes(workdir, resolved, source, (name,))}; {_LOOK}")


def check_images(images, start, config, workdir, console, peers):
    """As `check_data`, of the run that goes on from `start`; worker 0 knows what changed.

    Raises:
        UserError: other images than the run's, and --accept_config_change was not given or can't take them.
    """
    resolved, source = start.resolved, images.source
    if resolved is None or resolved.fingerprint == source.fingerprint:
        return
    changes = None
    if source.has_files and start.record.config["dataset"] == config.data.dataset:
        changes = peers.exchange(file_list.changes(workdir, resolved, source) if peers.is_chief else None)[0]
    check_data(images, resolved, changes, config.run.accept_config_change)
    if peers.is_chief:
        console.say(f"going on with other images: {changes}")


def check_class_weights(config, class_names, resolved, peers, console):
    """Refuse a file of --class_weights that says other than when the run began, or on another worker.

    Args:
        config: `config.Config`; class_names: sequence of K strings; resolved: `resolved.Resolved` of the run's
        checkpoint, or None; peers: `peers.Peers`; console: `console.Console`.
    """
    flag = config.optim.class_weights
    if not class_weights.is_file(flag):
        return
    now = class_weights.of_classes(flag, class_names)
    if any(tuple(found) != now for found in peers.exchange(now)):
        raise UserError(f"--class_weights: expected the same weights on every worker, found others in {flag}")
    before = resolved and resolved.class_weights
    if not before or before == now:
        return
    changed = [f"{name} ({old:g}, now {new:g})" for name, old, new in zip(class_names, before, now, strict=True)
               if old != new]
    if not config.run.accept_config_change:
        raise UserError(f"--class_weights: expected the weights of this run in {flag}, found others of "
                        f"{listed(changed)}; --accept_config_change goes on under the new ones")
    console.say(f"going on under other class weights: {listed(changed)}")
