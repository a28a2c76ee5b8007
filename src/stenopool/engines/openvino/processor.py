"""What this machine's CPU multiplies fastest."""

from __future__ import annotations

from functools import cache
from pathlib import Path

INT8, FLOAT32 = "int8", "float32"


def precision() -> str:
    """`int8` where the kernels have it (AVX2), else `float32`."""
    return INT8 if "avx2" in flags() else FLOAT32


@cache
def flags() -> frozenset[str]:
    """The CPU's features as Linux names them; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())
