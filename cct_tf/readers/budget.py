"""Memory of the input pipeline: --pipeline_gib, and how the stages share it.

It bounds the images that are in work at once. It changes no result, so a process has one budget, set when a data set is
opened. Whatever the budget, each stage works on one image or batch at least.

    opening a data set, its mean and deviation    half of it: no batches are made then
    training batches, evaluation batches          half of it each; of such a half
        a half       images and batches being read: decoded or gathered, cropped, resized
        a quarter    batches in the other stages of the host, such as policy and mixing
        a quarter    batches that are ready and wait
    a stream, beside this                         an eighth of it for records that are read ahead, of training and of
                                                  evaluation each

Not in it: images that are held (--in_memory_gib), the windows of a streamed set (--shuffle_window records each, which
define the order; the plan says what they take), the batch that is being put together, and what the network takes.
"""

from cct_tf.readers import tensors

DEFAULT_GIB = 2.0

_bytes = int(DEFAULT_GIB * tensors.GIB)


def use(gib):
    """Set the budget of this process, --pipeline_gib."""
    global _bytes
    _bytes = int(gib * tensors.GIB)


def describe():
    """The budget in words, for the plan."""
    return f"up to {_bytes / tensors.GIB:g} GiB of images in work, half of it for training, half for evaluation"


def opening():
    """Bytes of images being decoded, or summed up, while a data set is opened."""
    return _bytes // 2


def block():
    """Bytes of images handed over at a time then."""
    return _bytes // 32


def reading():
    """Bytes of images and batches being read, of training or of evaluation."""
    return _bytes // 4


def staging():
    """Bytes of batches in the stages of the host that take batches, of training or of evaluation."""
    return _bytes // 8


def waiting():
    """Bytes of batches that are ready and wait, of training or of evaluation."""
    return _bytes // 8


def ahead():
    """Bytes of a stream's serialized records that are read ahead, of training or of evaluation."""
    return _bytes // 8
