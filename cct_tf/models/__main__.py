"""`python -m cct_tf.models [NAME ...] [--num_classes=N] [--json]`: the networks and what they cost.

Needs no TensorFlow: everything is counted from the table.
"""

import argparse
import json
import sys

from cct_tf import sizes
from cct_tf.errors import FINISHED, WRONG_INPUT, UserError, nearest
from cct_tf.machine import own_code, streams
from cct_tf.models import cost, variants


class _OneLineParser(argparse.ArgumentParser):
    def error(self, message):
        unknown = message.partition("unrecognized arguments: ")[2].split()
        hint = nearest(unknown[0].partition("=")[0], ("--help", "--json", "--num_classes")) if unknown else ""
        self.exit(WRONG_INPUT, f"error: {message}{hint}\n")


def _parser():
    parser = _OneLineParser(
        prog="python -m cct_tf.models", allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="List the networks: parameters, multiply-accumulate operations (MACs) and input size.",
        epilog=f"Other combinations work too: {variants.GRAMMAR}.\nMACs count attention's products; published "
               "figures leave them out.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="networks to show; default: all in the table")
    parser.add_argument("--num_classes", type=int, default=10, help="outputs of the network; default: 10")
    parser.add_argument("--json", action="store_true", help="print one JSON object on one line")
    return parser


def describe(name, num_classes):
    """Facts about one network.

    Args:
        name: a name of the table or the grammar.
        num_classes: outputs of the head.

    Returns:
        dict: name, parameters (trainable), macs (with attention's products), macs_published (without), input_size
        ([height, width, channels]), num_tokens, positional_embedding.

    Raises:
        UserError: unknown name.
    """
    if own_code.is_named(name):
        raise UserError(f"expected names of networks of cct_tf, whose cost is counted from a table, found {name!r}")
    variant = variants.resolve(name)
    return {
        "name": name,
        "parameters": cost.count_parameters(variant, num_classes),
        "macs": cost.count_macs(variant, num_classes),
        "macs_published": cost.count_macs(variant, num_classes, attention_products=False),
        "input_size": [*sizes.sides(variant.image_size), variant.channels],
        "num_tokens": variant.num_tokens,
        "positional_embedding": variant.positional_embedding,
    }


def _table(rows, num_classes):
    lines = [f"{'name':<20} {'parameters':>11} {'MACs':>9} {'published':>10} {'input':>12}   ({num_classes} classes)"]
    for row in rows:
        size = "x".join(str(side) for side in row["input_size"])
        lines.append(f"{row['name']:<20} {row['parameters']:>11,} {row['macs'] / 1e9:>8.3f}G "
                     f"{row['macs_published'] / 1e9:>9.3f}G {size:>12}")
    return "\n".join(lines)


def main(argv=None):
    """Prints the list. Returns the exit status."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.num_classes < 1:
        parser.error(f"--num_classes: expected an integer of at least 1, found {args.num_classes}")
    try:
        rows = [describe(name, args.num_classes) for name in args.names or variants.list_models()]
    except UserError as error:
        parser.error(str(error))
    print(json.dumps({"num_classes": args.num_classes, "models": rows}) if args.json
          else _table(rows, args.num_classes))
    return FINISHED


def run():
    """The command's entry point: leaves the process with its status."""
    streams.open_closed()
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has left (`| head`)
        streams.silence(sys.stdout)
        status = 141
    sys.exit(status)


if __name__ == "__main__":
    run()
