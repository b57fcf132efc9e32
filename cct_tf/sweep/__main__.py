"""Search for a recipe: `python -m cct_tf.sweep --flagfile=BASE.cfg --space=SPACE.cfg --trials=20 --workdir=DIR`."""

import signal
import sys

from cct_tf.assembly import checks
from cct_tf.errors import STOP_SIGNALS, Interrupted, UserError
from cct_tf.machine import compile_cache, runtime
from cct_tf.settings import command, config, flags
from cct_tf.sweep import range_test, space
from cct_tf.sweep.folder import Folder

USAGE = """usage: python -m cct_tf.sweep --flagfile=BASE.cfg --space=SPACE.cfg --trials=N --workdir=DIR [--flag=value]
       python -m cct_tf.sweep --lr_range_test --flagfile=BASE.cfg --workdir=DIR [--flag=value]

Searches for the values of flags that are best on the validation split, by runs of cct_tf.train; or finds a learning
rate by one short run. SPACE.cfg is a flagfile of ranges: --learning_rate=log:1e-4:1e-2, --drop_path_rate=0:0.3,
--auto_augment=none|cifar10|trivial. The same command goes on where it stopped; several may share the work."""

_OWN = [
    flags.command_field("space", str, None, "flagfile of the ranges: LOW:HIGH, LOW:HIGH:STEP, log:LOW:HIGH, or A|B",
                        path=True),
    flags.command_field("trials", int, 20, "number of trials; a later start may ask for more", minimum=1),
    flags.command_field("storage", str, None, "URL of Optuna's storage, such as postgresql://host/db; default: "
                        "study.db in the work folder"),
    flags.command_field("search", str, "tpe", "how values are drawn: tpe, by the trials before "
                        "(arXiv:2304.11127), or random", choices=("tpe", "random")),
    flags.command_field("search_seed", int, 0, "seed of the search; --seed is that of each training", minimum=0),
    flags.command_field("pruner", str, "halving", "what stops a trial that does badly: halving (asynchronous, "
                        "arXiv:1810.05934), median of the trials before, or none",
                        choices=("halving", "median", "none")),
    flags.command_field("prune_after", int, 3, "evaluations of the first rung, which each trial is given", minimum=1),
    flags.command_field("prune_keep", int, 3, "of how many trials halving lets one go on; a rung is this many times "
                        "as long as the one before", minimum=2),
    flags.command_field("finalists", int, 3, "number of the best trials that --seeds repeats", minimum=1),
    flags.command_field("seeds", int, 0, "trainings of each finalist under further seeds, by whose mean the winner is "
                        "chosen; 0 = none", minimum=0),
    flags.command_field("lr_range_test", str, None, "a run with a learning rate that rises exponentially from LOW to "
                        "HIGH (arXiv:1506.01186), instead of a search", bare="1e-6:1"),
    flags.command_field("range_steps", int, 200, "steps of --lr_range_test", minimum=20, maximum=100_000),
]
# What belongs to one run, or is the sweep's own.
_LEFT_OUT = ("dry_run", "profile_steps", "accept_config_change", "restart_if_unreadable", "startup_timeout")
FIELDS = [*_OWN, *(field for name, field in config.FIELDS.items() if name not in _LEFT_OUT)]


def _check_base(base):
    """Refuse a base that no trial can be made of, before the first is."""
    run = base.run
    if base.optim.on_divergence != "stop":
        raise UserError("--on_divergence: expected stop, for a trial that diverges has failed, found "
                        f"{base.optim.on_divergence!r}")
    if run.backup_dir:
        raise UserError(f"--backup_dir: expected none, for all trials would share it, found {run.backup_dir!r}")
    if run.strategy == "multi_worker":
        raise UserError("--strategy: expected single, mirrored or auto, for a trial is one process, found "
                        "'multi_worker'")


def _check_search(own, base):
    from cct_tf.sweep import study
    if not own["space"]:
        raise UserError("--space: expected a flagfile of ranges, found none; or --lr_range_test")
    found = space.read(own["space"])
    if checks.has_validation(base.data) is False:
        raise UserError("--validation_fraction: expected above 0, or --fold, for a search chooses on a validation "
                        "split and not on test images, found none")
    space.check(base.as_dict(), found)
    study.require_package()
    study.without_password(own["storage"])
    return found


def _record(own, base, ranges, storage):
    """What a later start must ask for again."""
    asked = {"base": base.as_dict(), "space": [f"--{each.name}={each.text}" for each in ranges], "storage": storage}
    return asked | {name: own[name] for name in ("search", "search_seed", "pruner", "prune_after", "prune_keep")}


def _raise(number, frame):
    raise Interrupted(number, f"{signal.Signals(number).name}: asked the training to save; the same command goes on")


def _sweep(own, base, ranges, console):
    from cct_tf.sweep import search as search_lib
    from cct_tf.sweep import study as study_lib
    folder = Folder(base.run.workdir)
    folder.create()
    for number in STOP_SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, _raise)
    search = study_lib.Search(ranges, own["search"], own["search_seed"], own["pruner"], own["prune_after"],
                              own["prune_keep"], base.measure.name != "loss")
    storage = own["storage"] or f"sqlite:///{folder.database}"
    with folder.claiming():
        asked = _record(own, base, ranges, study_lib.without_password(own["storage"]))
        name = folder.settle(asked)
        study = study_lib.Study(folder, storage, name, search)
        folder.keep(name, asked)  # not of a storage that can't be opened
        study.plan(own["trials"])
        folder.write(folder.base, flags.as_flagfile(base))
    passed = (f"--compile_cache={base.run.compile_cache}",)
    options = search_lib.Options(own["trials"], own["seeds"], own["finalists"], passed)
    console.say(f"{own['trials']} trials in {folder.path}, study {name}; {own['search']}, pruner {own['pruner']}")
    search_lib.Sweep(folder, base, search, study, options, console).run()


def main(given):
    """Search, or test a range of learning rates, as the flags say."""
    from cct_tf.machine.console import Console
    from cct_tf.workers import cluster
    own = {field.name: given.pop(field.name, field.default) for field in _OWN}
    base, console = config.from_dict(given), Console()
    runtime.check_backend()
    compile_cache.check(base.run.compile_cache)
    checks.check_workdir(base.run.workdir)
    _check_base(base)
    if cluster.from_environment(base.run.strategy) is not None:
        raise UserError("TF_CONFIG: expected none, for a trial is one process, found it set")
    Folder(base.run.workdir).check()
    if own["lr_range_test"] is not None:
        rates = range_test.parse(own["lr_range_test"])
        checks.check_training(base, stream=console.stream)
        range_test.run(base, rates, own["range_steps"], console)
        return
    ranges = _check_search(own, base)
    checks.check_training(base, stream=console.stream)
    _sweep(own, base, ranges, console)


def run():
    """Entry point of `cct-sweep`."""
    command.run(main, sys.argv[1:], USAGE, FIELDS)


if __name__ == "__main__":
    run()
