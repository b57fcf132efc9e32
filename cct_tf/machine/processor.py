"""The processor as Linux tells it: its name and its instruction sets. No TensorFlow here."""

import pathlib

_CPUINFO = "/proc/cpuinfo"
_VECTORS = (("avx512f", "AVX-512"), ("avx2", "AVX2"))  # flag of Linux, name; the widest first
# What multiplies in bfloat16, the fastest first. AMX has tiles for int8 too: amx_tile alone says nothing of bfloat16.
BFLOAT16 = (("amx_bf16", "AMX"), ("avx512_bf16", "AVX512_BF16"))


def lines(path):
    """The first value of each `name : value` of a file of the kernel, {} where there is none."""
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    return found


def name():
    """Of the processor; "unknown" where Linux doesn't tell."""
    return lines(_CPUINFO).get("model name", "unknown")


def bfloat16_sets():
    """Names of the instruction sets that multiply in bfloat16, a tuple in the order of `BFLOAT16`."""
    flags = lines(_CPUINFO).get("flags", "").split()
    return tuple(name for flag, name in BFLOAT16 if flag in flags)


def instruction_sets():
    """The widest vectors and what multiplies in bfloat16: `AVX-512, AMX, AVX512_BF16`, `AVX2`, or `unknown`."""
    flags = lines(_CPUINFO).get("flags", "").split()
    vectors = next((name for flag, name in _VECTORS if flag in flags), "unknown")
    return ", ".join((vectors, *bfloat16_sets()))
