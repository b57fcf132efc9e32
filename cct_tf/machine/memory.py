"""The error that a user reads when memory runs out. No TensorFlow is imported with this module."""

import contextlib
import re

from cct_tf.errors import UserError, files_fault, storage_fault

# (flag, what is expected, what to try)
DATA = ("in_memory_gib", "images that fit in memory",
        "a lower --in_memory_gib, with which they are read as they are needed")
# An archive is always held.
ARCHIVE = ("dataset", "images that fit in memory", "the same images as a folder, which need not be held")
TRAINING = ("batch_size", "a batch that fits in memory",
            "a higher --accumulate_steps, --recompute or a smaller --batch_size")
EVALUATION = ("eval_batch_size", "a batch that fits in memory", "a smaller --eval_batch_size")
PREDICTION = ("batch_size", "a batch that fits in memory", "a smaller --batch_size")


def is_out(error):
    """Whether an error says that memory ran out. TensorFlow raises the same type for a full disk and for too many open
    files, which are excluded.
    """
    if isinstance(error, MemoryError):
        return True
    return (type(error).__name__ == "ResourceExhaustedError" and storage_fault(error) is None
            and files_fault(error) is None)


def data_named_when_out(config):
    """`named_when_out` for a block that opens or prepares the whole data set; `config` is `config.DataConfig`."""
    if config.dataset == "npz":
        return named_when_out(ARCHIVE, "npz")
    return named_when_out(DATA, f"{config.in_memory_gib:g}")


@contextlib.contextmanager
def named_when_out(part, found):
    """If memory runs out in the block, raise an error that names the flags to change.

    Of nested blocks the innermost raises. Linux promises more memory than there is, so a process may also be killed
    without a message (status 137).

    Args:
        part: DATA, ARCHIVE, TRAINING, EVALUATION or PREDICTION.
        found: the flag's value.

    Raises:
        UserError: memory ran out.
    """
    try:
        yield
    except Exception as error:
        if not is_out(error):
            raise
        flag, expected, remedy = part
        shape = re.search(r"shape ?\[([\d,]+)\]", str(error))
        what = f", which needs a tensor of shape [{shape.group(1)}]" if shape else ""
        raise UserError(f"--{flag}: expected {expected}, found {found}{what}; try {remedy}") from None
