"""The compiled `kernels/decoder.c`: the variant for the best instructions that this CPU has."""

from __future__ import annotations

import ctypes
from ctypes import c_bool, c_int, c_long, c_void_p
from functools import cache
from importlib.util import find_spec

from stenopool.engines.openvino.processor import flags
from stenopool.errors import EngineMissing

# The best first, each with the CPU's features that pyproject.toml lets its compiler use.
_AVX2 = frozenset({"abm", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"})
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512_vnni"}
VARIANTS = {"_decoder_avx512": _AVX512, "_decoder_avx2": _AVX2, "_decoder": frozenset[str]()}

_SIGNATURES: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "decoder_team": (c_void_p, (c_int,)),
    "decoder_team_end": (None, (c_void_p,)),
    "decoder_has_int8": (c_bool, ()),
    "decoder_matrix_bytes": (c_long, (c_int, c_int, c_bool)),
    "decoder_pack": (None, (c_void_p, c_void_p, c_int, c_int, c_bool, c_void_p)),
    "decoder_window_bytes": (c_long, (c_void_p, c_int)),
    "decoder_hear": (None, (c_void_p, c_void_p, c_void_p, c_bool, c_int, c_void_p)),
    "decoder_step": (c_bool, (c_void_p, c_void_p, c_void_p)),
}


@cache
def library() -> ctypes.CDLL:
    """The functions of `kernels/decoder.c`. They run without Python's lock.

    Raises:
        EngineMissing: it was not compiled when Stenopool was installed.
    """
    for name, needed in VARIANTS.items():
        found = find_spec(f"{__package__}.{name}")
        if found and found.origin and needed <= flags():
            return opened(found.origin)
    raise EngineMissing(
        "the decoder for this CPU was not compiled when Stenopool was installed",
        do="Install a C compiler (`apt install gcc`) and Stenopool again with `--no-binary "
        "stenopool`, or use `--engine ctranslate2`",
    )


def opened(path: str) -> ctypes.CDLL:
    """One variant."""
    found = ctypes.CDLL(path)
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found
