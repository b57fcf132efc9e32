"""What `auto` chooses follows from the config and the devices."""

import pytest

from cct_tf.assembly import tuning
from cct_tf.models import cost, variants

CCT_7, CCT_2 = variants.resolve("cct_7_3x1_32"), variants.resolve("cct_2_3x2_32")


@pytest.mark.parametrize(("flag", "kind", "macs", "recorded", "value"), [
    ("on", "CPU", 0, "off", "encoder"), ("on", "GPU", 0, None, "all"), ("off", "CPU", 1e20, "all", "off"),
    ("auto", "CPU", 1e12, None, "off"), ("auto", "CPU", 1e13, None, "encoder"), ("auto", "CPU", 1e13, "off", "off"),
    ("auto", "GPU", 1e20, None, "all"), ("auto", "GPU", 1e13, None, "off"), ("auto", "GPU", 1e20, "off", "off"),
    ("encoder", "GPU", 0, "all", "encoder"), ("all", "CPU", 0, None, "all")])
def test_jit(flag, kind, macs, recorded, value):
    choice = tuning.choose_jit(flag, kind, macs, recorded)
    assert choice.value == value in tuning.JIT and choice.reason


def test_xla_is_left_out_where_it_is_slower_in_bfloat16():
    assert tuning.choose_jit("auto", "CPU", 1e13, precision="bfloat16").value == "off"
    assert tuning.choose_jit("on", "CPU", 1e13, precision="bfloat16").value == "encoder"


@pytest.mark.parametrize(("flag", "kind", "share", "variant", "recorded", "value"), [
    (None, "CPU", 64, CCT_7, None, 8),  # 8 images of 2^18 elements
    (None, "CPU", 128, CCT_2, None, 2),  # 85 images of 24,576, of which 64 divide the share
    (None, "CPU", 16, CCT_2, None, 1), (None, "CPU", 20, CCT_7, None, 4), (None, "CPU", 7, CCT_7, None, 1),
    (None, "CPU", 11, CCT_7, None, 1), (None, "CPU", 254, CCT_2, None, 2),  # not one by one, for 11 and 127 are prime
    (None, "GPU", 1024, CCT_7, None, 1), (3, "CPU", 9, CCT_7, 9, 3), (None, "CPU", 64, CCT_7, 16, 16),
    (None, "CPU", 10, CCT_7, 4, 2)])  # what was recorded does not divide another batch
def test_micro_batches_fit_into_the_cache(flag, kind, share, variant, recorded, value):
    assert tuning.choose_micro_batches(flag, kind, share, variant, recorded).value == value


def test_the_largest_activation_by_hand():
    assert cost.largest_activation(CCT_7) == 4 * 256 * 256  # 4 heads, 256 tokens
    assert cost.largest_activation(CCT_2) == 64 * 3 * 128  # 64 tokens: queries, keys and values of 128
