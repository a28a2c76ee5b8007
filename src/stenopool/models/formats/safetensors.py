"""Writes `safetensors` files; `models.safetensors` reads them and says what they are."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from math import prod
from typing import IO

import numpy as np

from stenopool.models.weights import Tensor

_TYPES = {"float16": "F16", "float32": "F32"}
_ALIGNED = 8  # the header ends at a multiple of so many bytes


def write_safetensors(file: IO[bytes], tensors: Mapping[str, Tensor]) -> None:
    """Write tensors of floating point, one after the other: no two are in memory at once."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name in sorted(tensors):
        shape, kind = _described(tensors, name)
        size = prod(shape) * np.dtype(kind).itemsize
        header[name] = {
            "dtype": _TYPES[kind],
            "shape": list(shape),
            "data_offsets": [at, at + size],
        }
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNED)
    file.write(struct.pack("<Q", len(text)) + text)
    for name in sorted(tensors):
        file.write(np.ascontiguousarray(tensors[name]).data)


def _described(tensors: Mapping[str, Tensor], name: str) -> tuple[tuple[int, ...], str]:
    tensor = tensors[name]
    return tensor.shape, tensor.dtype.name
