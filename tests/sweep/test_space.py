import pytest

from cct_tf.settings import config
from cct_tf.sweep import space


def _read(tmp_path, text):
    path = tmp_path / "space.cfg"
    path.write_text(text)
    return space.read(path)


def test_ranges_are_read_as_written(tmp_path):
    found = _read(tmp_path, "--learning_rate=log:1e-4:1e-2  # a comment\n--drop_path_rate=0:0.3:0.05\n"
                            "--batch_size=32:128\n--auto_augment=none|cifar10\n--random_resized_crop=|0.5,1\n")
    rate, depth, batch, policy, crop = found
    assert (rate.low, rate.high, rate.log, rate.step, rate.whole) == (1e-4, 1e-2, True, None, False)
    assert (depth.low, depth.high, depth.log, depth.step) == (0.0, 0.3, False, 0.05)
    assert (batch.low, batch.high, batch.whole) == (32, 128, True)
    assert policy.choices == ("none", "cifar10") and crop.choices == ("", "0.5,1")


def test_values_become_the_config_of_a_trial_to_the_last_bit(tmp_path):
    ranges = _read(tmp_path, "--learning_rate=0:1\n--batch_size=32:128\n--random_resized_crop=|0.5,1\n")
    base = config.from_dict({"workdir": "x", "crop_padding": 0, "epochs": 3.0}).as_dict()
    found = space.with_values(base, ranges, {"learning_rate": 0.1 + 0.2, "batch_size": 96,
                                             "random_resized_crop": "0.5,1"})
    assert (found.optim.learning_rate, found.optim.batch_size) == (0.1 + 0.2, 96)
    assert found.augment.random_resized_crop == (0.5, 1.0) and found.optim.epochs == 3.0
    assert space.with_values(base, ranges, {"random_resized_crop": ""}).augment.random_resized_crop is None


@pytest.mark.parametrize("base", [{}, {"crop_padding": 4}])
def test_choices_that_disagree_with_the_base_are_left_to_the_trials(tmp_path, base):
    ranges = _read(tmp_path, "--random_resized_crop=0.5,1|0.8,1\n--crop_padding=0:4\n")
    space.check(config.from_dict({"workdir": "x"} | base).as_dict(), ranges)
