"""How opening a data set shows that it is at work: a bar on a terminal, one plain line elsewhere, or nothing."""

import contextlib
import time

import tqdm


def say(stream, line):
    """Write one line to `stream`, or nothing if it is None."""
    if stream is not None:
        print(line, file=stream, flush=True)


@contextlib.contextmanager
def count(total, what, stream, unit="images"):
    """Show the progress of `total` images; use as `with count(...) as advance: advance(k)`.

    Args:
        total: number of images, or of what `unit` says.
        what: what is done to them, such as "decoding DIR".
        stream: text stream; a terminal gets a bar, anything else one line at the end; None gets nothing.
    """
    if stream is None:
        yield lambda number: None
    elif stream.isatty():
        with tqdm.tqdm(total=total, desc=what, unit=f" {unit}", file=stream, leave=False) as bar:
            yield bar.update
    else:
        begin = time.monotonic()
        yield lambda number: None
        say(stream, f"{what}: {total:,} {unit} in {time.monotonic() - begin:.1f} s")
