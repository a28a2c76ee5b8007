"""Reads `safetensors` files: a header of names, types and shapes, then the numbers, end to end.

The format is described at https://github.com/huggingface/safetensors. Files are mapped into memory,
not read, and nothing in them is ever run; a header that lies is refused before a number is touched.
"""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Mapping
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from stenopool.models.files import damaged
from stenopool.models.weights import Tensor, from_bfloat16

MOST_HEADER_BYTES = 20_000_000  # a tenth of a megabyte for Whisper; the format allows 100
MOST_DIMENSIONS = 8

_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4"}


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a file by name; bfloat16 as float32. Those of other types are left out.

    Raises:
        ModelDamaged: the file is missing, cut off or no such file.
    """
    try:
        with file.open("rb") as opened:
            data = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise damaged(f"`{file.name}` cannot be read: {error}") from error
    header, begin = _header(data, file.name)
    header = {name: said for name, said in header.items() if name != "__metadata__"}
    tensors = {}
    for name, said in header.items():
        found = _tensor(data, begin, said, f"`{name}` in `{file.name}`")
        if found is not None:
            tensors[name] = found
    _refuse_overlaps(header, file.name)
    return tensors


def _refuse_overlaps(header: Mapping[str, Any], name: str) -> None:
    """The format has each byte belong to one tensor; else a small file could be many large ones."""
    ranges = [said["data_offsets"] for said in header.values() if said["dtype"] in _TYPES]
    ranges = sorted((first, after) for first, after in ranges if after > first)
    if any(later < after for (_, after), (later, _) in pairwise(ranges)):
        raise damaged(f"tensors in `{name}` overlap")


def _header(data: mmap.mmap, name: str) -> tuple[Mapping[str, Any], int]:
    """The header, and where the numbers begin."""
    if len(data) < 8:
        raise damaged(f"`{name}` is cut off")
    (length,) = struct.unpack("<Q", data[:8])
    if length > min(MOST_HEADER_BYTES, len(data) - 8):
        raise damaged(f"`{name}` is cut off, or is no safetensors file")
    try:
        header = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError) as error:
        raise damaged(f"`{name}` is no safetensors file: its header is not JSON") from error
    if not isinstance(header, dict):
        raise damaged(f"`{name}` is no safetensors file: its header is no object")
    return header, 8 + length


def _tensor(data: mmap.mmap, begin: int, said: object, name: str) -> Tensor | None:
    try:
        kind, shape, (first, after) = said["dtype"], said["shape"], said["data_offsets"]  # type: ignore[index]
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(f"{name} is not described as a tensor") from error
    if kind not in _TYPES:
        return None
    if not isinstance(shape, list) or not _are_sizes([*shape, first, after]):
        raise damaged(f"{name} has sizes that are none")
    item = np.dtype(_TYPES[kind])
    if len(shape) > MOST_DIMENSIONS or after - first != prod(shape) * item.itemsize:
        raise damaged(f"{name} has a type, a shape and a length that do not agree")
    if begin + after > len(data):
        raise damaged(f"{name} is cut off")
    numbers = np.frombuffer(data, item, prod(shape), offset=begin + first).reshape(shape)
    if kind == "BF16":
        return from_bfloat16(numbers)
    return numbers


def _are_sizes(values: list[object]) -> bool:
    return all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in values)
