"""Every flag of every command as a Markdown page: `python -m cct_tf.reference > docs/flags.md`.

A test compares the page with what this module prints. Needs no TensorFlow.
"""

import sys

from cct_tf import checkpoints, compare, convert_torch, evaluate, inspect_data, predict, preview, tabulate, train
from cct_tf.benchmark import __main__ as benchmark
from cct_tf.export import __main__ as export
from cct_tf.models import __main__ as models
from cct_tf.settings import config
from cct_tf.sweep import __main__ as sweep

_HEAD = """# All flags

    python -m cct_tf.train --help

This page is made by `python -m cct_tf.reference > docs/flags.md` from the declarations in `cct_tf/settings/config.py`
and in the commands. A flag is written `--name=value`; a switch also `--name` and `--noname`. `--flagfile=FILE` reads
flags from a file; see [training](training.md#flagfiles).

## cct_tf.train

The column "kind" says what a resumed run does with another value:

* `result`: the flag defines the result. Another value is refused, unless `--accept_config_change` is given.
* `how`: the flag only says how the run is computed. Another value is noted.
* `call`: the flag belongs to this call of the command. It is not recorded.
"""
_OTHERS = (evaluate, compare, predict, export, preview, inspect_data, tabulate, checkpoints, benchmark, sweep,
           convert_torch)


def _default(value):
    """A default as it would be written on a command line."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(f"{number:.6g}" for number in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _values(field):
    """What a flag takes, in words."""
    if field.choices:
        return ", ".join(f"`{choice}`" for choice in field.choices)
    if field.remote:
        return "a path, also [elsewhere](remote_files.md)"
    return "a path" if field.path else field.expectation()


def _kind(field):
    return "call" if field.transient else "how" if field.how else "result"


def _table(fields, with_kind=False):
    """Lines of a table of flags, a row for each of `fields`."""
    titles = ["flag", "default", "values", *["kind"] * with_kind, "what"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for field in fields:
        default = _default(field.default)
        name = f"--{field.name}" + (f"[={field.bare}]" if field.bare else "")
        default = f"`{default}`" if default else ""
        cells = [f"`{name}`", default, _values(field), *[_kind(field)] * with_kind, field.help]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines


def _name(module):
    return module.__name__.removesuffix(".__main__")


def _training():
    lines = []
    for group in dict.fromkeys(field.group for field in config.FIELDS.values()):
        fields = [field for field in config.FIELDS.values() if field.group == group]
        lines += [f"### {group.rstrip('.')}", "", *_table(fields, with_kind=True), ""]
    return lines


def _command(module):
    """The section of another command: its usage, its own flags, and which of those of cct_tf.train it takes."""
    own = [field for field in module.FIELDS if config.FIELDS.get(field.name) is not field]
    shared = [field.name for field in module.FIELDS if config.FIELDS.get(field.name) is field]
    lines = [f"## {_name(module)}", "", "```text", module.USAGE.strip(), "```", "", *_table(own), ""]
    missing = [name for name in config.FIELDS if name not in shared]
    if len(missing) < len(shared):
        but = " but " + ", ".join(f"`--{name}`" for name in missing) if missing else ""
        return [*lines, f"All flags of `cct_tf.train`{but} as well.", ""]
    return [*lines, "As in `cct_tf.train`: " + ", ".join(f"`--{name}`" for name in shared) + ".", ""]


def page():
    """The text of docs/flags.md."""
    lines = [_HEAD, "```text", train.USAGE, "```", "", *_training()]
    for module in _OTHERS:
        lines += _command(module)
    return "\n".join([*lines, f"## {_name(models)}", "", models.__doc__.strip().partition("\n")[0], ""])


def run():
    """Entry point of `python -m cct_tf.reference`."""
    sys.stdout.write(page())


if __name__ == "__main__":
    run()
