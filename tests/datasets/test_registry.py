"""Names of data sets: what is judged, and that TensorFlow is not needed for it."""

import subprocess
import sys

import pytest

from cct_tf.datasets import registry
from cct_tf.errors import UserError
from cct_tf.settings.config import DataConfig


@pytest.mark.parametrize("name, suggestion", [("digit", "'digits'"), ("foldr", "'folder'"), ("cifar-10", "'cifar10'"),
                                              ("fashion_mnst", "'fashion_mnist'")])
def test_an_unknown_name_gets_its_nearest(name, suggestion):
    with pytest.raises(UserError) as caught:
        registry.check_name(DataConfig(dataset=name))
    message = str(caught.value)
    assert message.startswith("--dataset: expected digits, folder, npz") and suggestion in message


@pytest.mark.parametrize("name", ["digits", "cifar10", "imagenet2012", "mnist:3.0.1", "mnist_corrupted/fog"])
def test_known_names_pass(name):
    assert registry.check_name(DataConfig(dataset=name)) is None


@pytest.mark.parametrize("flag", ["train_split", "test_split"])
def test_split_flags_are_refused_where_splits_are_fixed(flag):
    with pytest.raises(UserError, match=f"^--{flag}: "):
        registry.check_name(DataConfig(dataset="digits", **{flag: "other"}))


def test_checks_need_no_tensorflow(tmp_path):
    script = f"""
import sys
from cct_tf.settings.config import DataConfig
from cct_tf.datasets import registry
from cct_tf.errors import UserError
for fields in (dict(dataset="folder", data_dir={str(tmp_path)!r}), dict(dataset="npz", data_dir={str(tmp_path)!r}),
               dict(dataset="digitz"), dict(dataset="cifar10"), dict(dataset="digits")):
    try:
        registry.check_name(DataConfig(**fields))
    except UserError:
        pass
assert "tensorflow" not in sys.modules
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
