"""What `auto` chooses follows from the config and the devices."""

import pytest

from cct_tf.assembly import tuning
from cct_tf.machine import processor, runtime
from cct_tf.models import cost, variants
from cct_tf.settings import config

CCT_7, CCT_2 = variants.resolve("cct_7_3x1_32"), variants.resolve("cct_2_3x2_32")


@pytest.mark.parametrize(("flag", "kind", "macs", "recorded", "value"), [
    ("on", "CPU", 0, "off", "encoder"), ("on", "GPU", 0, None, "all"), ("off", "CPU", 1e20, "all", "off"),
    ("auto", "CPU", 1e12, None, "off"), ("auto", "CPU", 1e13, None, "encoder"), ("auto", "CPU", 1e13, "off", "off"),
    ("auto", "GPU", 1e20, None, "all"), ("auto", "GPU", 1e13, None, "off"), ("auto", "GPU", 1e20, "off", "off"),
    ("encoder", "GPU", 0, "all", "encoder"), ("all", "CPU", 0, None, "all")])
def test_jit(flag, kind, macs, recorded, value):
    choice = tuning.choose_jit(flag, kind, macs, recorded)
    assert choice.value == value in tuning.JIT and choice.reason


def test_in_bfloat16_xla_is_for_cpus_whose_programs_multiply_it_fast():
    for fast, value in ((False, "off"), (True, "encoder")):
        assert tuning.choose_jit("auto", "CPU", 1e13, precision="bfloat16", compiles_bfloat16=fast).value == value
        assert tuning.choose_jit("auto", "CPU", 1e12, precision="bfloat16", compiles_bfloat16=fast).value == "off"
        assert tuning.choose_jit("on", "CPU", 1e13, precision="bfloat16", compiles_bfloat16=fast).value == "encoder"


@pytest.mark.parametrize(("flags", "instructions", "value"), [
    ({"precision": "bfloat16"}, "AVX512_BF16", True), ({"precision": "auto"}, "AMX", True),
    ({"precision": "bfloat16"}, None, False), ({}, "AMX", False),
    ({"precision": "bfloat16", "jit": "off"}, "AMX", False),
    ({"precision": "bfloat16", "fast_forms": False}, "AMX", False),
    ({"precision": "auto", "model": "net.py:build"}, "AMX", False)])
def test_what_may_compile_bfloat16_is_known_without_tensorflow(flags, instructions, value, monkeypatch):
    monkeypatch.setattr(processor, "bfloat16_sets", lambda: (instructions,) if instructions else ())
    assert tuning.may_compile_bfloat16(config.from_dict(flags)) is value


def test_a_network_has_its_plain_forms_where_the_fast_ones_are_switched_off():
    devices, variant = runtime.Devices(None, "CPU", 1), CCT_7
    for fast_forms, value in ((True, "encoder"), (False, "off")):
        settings = config.from_dict({"precision": "bfloat16", "fast_forms": fast_forms, "batch_size": 64})
        chosen = tuning.choose(settings, tuning.Choice("bfloat16", ""), devices, variant, 10, 1000,
                               compiles_bfloat16=True)
        assert chosen.jit.value == value


AMX, AVX512 = ("AMX", "AVX512_BF16"), ("AVX512_BF16",)


def _precision(kind="CPU", instructions=AMX, recorded=None, jit="auto", **flags):
    """The value that `choose_precision` chooses."""
    model = config.from_dict({"precision": "auto"} | flags).model
    choice = tuning.choose_precision(model, jit, kind, instructions, recorded)
    assert choice.reason
    return choice.value


@pytest.mark.parametrize(("instructions", "model", "value"), [
    (AMX, "cct_2_3x2_32", "bfloat16"), (AMX, "cct_7_3x1_32", "float32"),  # 1.12, 1.04
    (AMX, "cct_14_7x2_224", "float32"), (AVX512, "cct_7_3x1_32", "bfloat16"), (AVX512, "cct_14_7x2_224", "bfloat16"),
    (AVX512, "cct_2_3x2_32", "bfloat16"), ((), "cct_7_3x1_32", "float32")])
def test_auto_takes_bfloat16_where_a_row_says_that_it_pays(instructions, model, value):
    assert _precision(instructions=instructions, model=model) == value


def test_auto_takes_float32_where_only_wider_networks_were_measured(monkeypatch):
    monkeypatch.setattr(tuning, "BFLOAT16", tuple(row for row in tuning.BFLOAT16 if row.width > 128))
    assert _precision(instructions=AVX512, model="cct_2_3x2_32") == "float32"
    assert _precision(instructions=AVX512, model="cct_7_3x1_32") == "bfloat16"


def test_auto_keeps_the_precision_of_a_run_and_leaves_what_was_not_measured_in_float32():
    for recorded in ("float32", "bfloat16", "float16"):
        for kind, instructions in (("CPU", AMX), ("CPU", ()), ("GPU", ())):
            assert _precision(kind, instructions, recorded, model="cct_2_3x2_32") == recorded
    assert _precision("GPU", AMX, model="cct_2_3x2_32") == "float32"
    assert _precision(model="networks.py:make") == "float32"
    for jit in ("on", "off"):
        assert _precision(model="cct_2_3x2_32", jit=jit) == "bfloat16"
    assert _precision(recorded="float32", precision="bfloat16") == "bfloat16"
    assert config.Config().model.precision == "float32"


def test_every_row_names_an_instruction_set_that_is_looked_for_and_a_reason_names_the_row():
    assert {row.instructions for row in tuning.BFLOAT16} <= {name for _, name in processor.BFLOAT16}
    choice = tuning.choose_precision(config.from_dict({"precision": "auto"}).model, "auto", "CPU", AMX)
    assert "AMX" in choice.reason and "CCT-2/3x2" in choice.reason and "1.12 times" in choice.reason


def test_the_instruction_sets_are_those_of_the_processor(tmp_path, monkeypatch):
    monkeypatch.setattr(processor, "_CPUINFO", tmp_path / "cpuinfo")
    assert processor.bfloat16_sets() == ()  # no such file
    for flags, found in (("avx2", ()), ("avx512f avx512_bf16", AVX512), ("amx_bf16 avx512_bf16", AMX),
                         ("amx_tile amx_int8", ())):
        (tmp_path / "cpuinfo").write_text(f"flags\t: fpu {flags}\n")
        assert processor.bfloat16_sets() == found


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
