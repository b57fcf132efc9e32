"""The environment of the tests and of every process that they start. To be prepared before TensorFlow is imported."""

import os
import shutil
import tempfile


def prepare():
    """Returns the folder that `clear` takes."""
    # The tests ask for more replicas than a machine may have GPUs, whatever the user's variable says.
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    tempfile.gettempdir()  # this process keeps its own: in it pytest keeps the folders of failed tests
    folder = tempfile.mkdtemp(prefix="cct_tf_tests_")
    os.chmod(folder, 0o755)  # some tests look at it as another user
    # Processes that a test kills leave files behind, such as autograph's.
    os.environ["TMPDIR"] = folder
    # Commands compile too; what they keep must not go to the user's cache.
    os.environ["XDG_CACHE_HOME"] = os.path.join(folder, "cache")
    return folder


def clear(folder):
    """Remove what the processes of the tests have left."""
    shutil.rmtree(folder, ignore_errors=True)
