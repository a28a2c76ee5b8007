"""What this machine's CPU multiplies fastest."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import openvino as ov

INT8, BFLOAT16, FLOAT32 = "int8", "bfloat16", "float32"

_VNNI = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})  # in Linux's /proc/cpuinfo


def precision() -> str:
    """`int8` where the decoder's kernels have it (AVX2), else `bfloat16`, else `float32`."""
    if flags() & (_VNNI | {"avx2"}):
        return INT8
    return BFLOAT16 if has_bfloat16() else FLOAT32


def has_vnni() -> bool:
    """Whether the CPU has exact products of int8.

    Others multiply int8 too, but OpenVINO's sums of two such products saturate at 16 bits there.
    """
    return bool(flags() & _VNNI)


def processor() -> str:
    """The CPU's name and features: what is compiled for one does not run on another."""
    name = ov.Core().get_property("CPU", "FULL_DEVICE_NAME")
    return f"{name} {' '.join(sorted(flags()))}"


@cache
def has_bfloat16() -> bool:
    """Whether products of bfloat16 are in the CPU (Zen 4, Sapphire Rapids and later)."""
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@cache
def flags() -> frozenset[str]:
    """The CPU's features as Linux names them; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())
