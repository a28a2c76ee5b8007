"""The compiled `kernels/`: the variant for the best instructions that this CPU has."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from ctypes import Structure, c_bool, c_int, c_long, c_void_p
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stenopool.engines.openvino.processor import flags
from stenopool.errors import EngineFailed, EngineMissing, ModelDamaged
from stenopool.models.weights import HEAD_WIDTH, Tensors, WhisperWeights, inner_width

# The best first, each with the CPU's features that setup.py lets its compiler use.
_AVX2 = frozenset({"abm", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"})
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512_vnni"}
_AMX = _AVX512 | {"amx_bf16", "amx_int8", "amx_tile", "avx512_bf16"}
VARIANTS = {
    "_kernels_amx": _AMX,
    "_kernels_avx512": _AVX512,
    "_kernels_avxvnni": _AVX2 | {"avx_vnni"},
    "_kernels_avx2": _AVX2,
    "_kernels": frozenset[str](),
}
_LINE = 64  # bytes of the CPU's cache: what is read in a row begins at one

_SIGNATURES: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "team_begin": (c_void_p, (c_int,)),
    "team_end": (None, (c_void_p,)),
    "kernels_begin": (c_bool, ()),
    "encoder_kind": (c_int, ()),
    "encoder_matrix_bytes": (c_long, (c_int, c_int, c_int)),
    "encoder_pack": (None, (c_void_p, c_int, c_void_p, c_int, c_int, c_void_p)),
    "encoder_run": (c_bool, (c_void_p, c_void_p, c_void_p, c_int, c_void_p)),
    "decoder_has_int8": (c_bool, ()),
    "decoder_matrix_bytes": (c_long, (c_int, c_int, c_bool)),
    "decoder_pack": (None, (c_void_p, c_void_p, c_int, c_int, c_bool, c_void_p)),
    "decoder_window_bytes": (c_long, (c_void_p, c_int)),
    "decoder_hear": (None, (c_void_p, c_void_p, c_void_p, c_bool, c_int, c_void_p)),
    "decoder_step": (c_bool, (c_void_p, c_void_p, c_void_p)),
}


@cache
def library() -> ctypes.CDLL:
    """The functions of `kernels/`. They run without Python's lock.

    Raises:
        EngineMissing: they were not compiled when Stenopool was installed.
    """
    for name, needed in VARIANTS.items():
        found = find_spec(f"{__package__}.{name}")
        if found and found.origin and needed <= flags():
            kernels = opened(found.origin)
            if kernels.kernels_begin():
                return kernels
    raise EngineMissing(
        "the kernels for this CPU were not compiled when Stenopool was installed",
        do="Install a C compiler (`apt install gcc`; GCC 11 or Clang 14, or later) and Stenopool "
        "again with `--no-binary stenopool`, or use `--engine ctranslate2`",
    )


def opened(path: str) -> ctypes.CDLL:
    """One variant."""
    found = ctypes.CDLL(path)
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found


class Linear(Structure):
    """Packed weights (outputs, inputs) and float32 biases (outputs,)."""

    _fields_ = (("weight", c_void_p), ("bias", c_void_p))


class Norm(Structure):
    """Of layer normalisation, float32."""

    _fields_ = (("weight", c_void_p), ("bias", c_void_p))


class Team:
    """Threads that share the work of a call, and memory for it. One call at a time."""

    def __init__(self, threads: int) -> None:
        self.handle = library().team_begin(threads)
        if not self.handle:
            raise EngineFailed(f"The system gives no {threads} threads", do="Use fewer `--threads`")
        # Not when the process ends: a step may still run on a thread that nobody waits for.
        weakref.finalize(self, library().team_end, self.handle).atexit = False


class Given:
    """A model's tensors as the kernels take them. It keeps the arrays that structures point to."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors
        self._arrays: list[NDArray[Any]] = []

    def floats(self, name: str) -> NDArray[np.float32]:
        return np.ascontiguousarray(self._tensors[name], dtype=np.float32)

    def linear(self, names: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Weights and biases of layers that read the same, their outputs one after the other."""
        weights = [self.floats(f"{name}.weight") for name in names]
        biases = [
            self.floats(f"{name}.bias")
            if f"{name}.bias" in self._tensors
            else np.zeros(len(weight), np.float32)  # keys have none
            for name, weight in zip(names, weights, strict=True)
        ]
        whole = weights[0] if len(weights) == 1 else np.concatenate(weights)  # no needless copy
        return whole, np.concatenate(biases)

    def at(self, array: NDArray[Any]) -> int:
        """Its address."""
        self._arrays.append(array)
        return address(array)

    def norm(self, name: str) -> Norm:
        return Norm(self.at(self.floats(f"{name}.weight")), self.at(self.floats(f"{name}.bias")))


def checked_inner(weights: WhisperWeights) -> int:
    """Width of the feed-forward layers.

    Raises:
        ModelDamaged: it is not one that the kernels take.
    """
    inner = inner_width(weights)
    if inner % HEAD_WIDTH:
        raise odd_sizes()
    return inner


def odd_sizes() -> ModelDamaged:
    return ModelDamaged(
        "its sizes are not those of a Whisper model",
        do="Pull the model again with `steno models pull NAME --force`",
    )


def address(array: NDArray[Any]) -> int:
    """Of the first number of an array."""
    return int(array.ctypes.data)


def addresses(arrays: Sequence[NDArray[Any]]) -> ctypes.Array[c_void_p]:
    """Of several arrays."""
    return (c_void_p * len(arrays))(*map(address, arrays))


def aligned(size: int) -> NDArray[np.uint8]:
    """So many bytes that begin at a line of the CPU's cache."""
    block = np.empty(size + _LINE, np.uint8)
    start = -address(block) % _LINE
    return block[start : start + size]
