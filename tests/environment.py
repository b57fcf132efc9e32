"""The environment of the tests and of every process that they start. To be prepared before TensorFlow is imported."""

import os
import shutil
import tempfile

GIVEN = os.environ.get("CUDA_VISIBLE_DEVICES")


def wants_gpus(expression):
    """Whether the expression of pytest's -m asks for tests of a GPU: `gpu`, or `gpu and ...`."""
    return expression.split()[:1] == ["gpu"]


def show_gpus():
    """Undo that `prepare` hides them, before TensorFlow is imported."""
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    if GIVEN is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = GIVEN


def prepare():
    """Returns the folder that `clear` takes."""
    # The tests ask for more replicas than a machine may have GPUs, whatever the user's variable says.
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    # pytest alone stays in the machine's temporary folder: there it keeps the folders of failed tests.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    folder = tempfile.mkdtemp(prefix="cct_tf_tests_")
    os.chmod(folder, 0o755)  # some tests look at it as another user
    # Processes that are killed leave files behind, such as autograph's; this one may be, by pytest-xdist.
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    # Commands compile too; what they keep must not go to the user's cache.
    os.environ["XDG_CACHE_HOME"] = os.path.join(folder, "cache")
    return folder


def clear(folder):
    """Remove what the processes of the tests have left."""
    shutil.rmtree(folder, ignore_errors=True)
