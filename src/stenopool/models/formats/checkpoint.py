"""Writes a checkpoint as `torch.save` does, so that `torch.load(weights_only=True)` reads it.

It is a ZIP archive without compression: `data.pkl` describes dictionaries and tensors, and
`data/0`, `data/1`, … hold the numbers of each. The pickle is put together here, instruction by
instruction, so that PyTorch is not needed. Source: `torch/serialization.py`.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping
from typing import IO

import numpy as np

from stenopool.models.weights import Stored

_ROOT = "model"
_DATE = (1980, 1, 1, 0, 0, 0)  # the same model gives the same bytes
_STORAGES = {"float16": "HalfStorage", "float32": "FloatStorage"}
_ORDERED = b"ccollections\nOrderedDict\n)R"  # OrderedDict()


def write_checkpoint(
    file: IO[bytes], sizes: Mapping[str, int], tensors: Mapping[str, Stored]
) -> None:
    """Write `{"dims": sizes, "model_state_dict": tensors}`; one tensor at a time is in memory."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        kinds = [one.load().dtype.name for one in tensors.values()]
        _put(archive, "data.pkl", _pickled(sizes, tensors, kinds))
        _put(archive, "byteorder", b"little")
        for number, one in enumerate(tensors.values()):
            _put(archive, f"data/{number}", np.ascontiguousarray(one.load()).data.cast("B"))
        _put(archive, "version", b"3\n")


def _put(archive: zipfile.ZipFile, name: str, content: bytes | memoryview) -> None:
    member = zipfile.ZipInfo(f"{_ROOT}/{name}", _DATE)
    with archive.open(member, "w", force_zip64=len(content) > 2**31) as opened:
        opened.write(content)


def _pickled(sizes: Mapping[str, int], tensors: Mapping[str, Stored], kinds: list[str]) -> bytes:
    """Protocol 2, whose instructions are those of the module `pickle`."""
    dims = b"}(" + b"".join(_text(name) + _number(size) for name, size in sizes.items()) + b"u"
    state = b"".join(
        _text(name) + _tensor(number, one.shape, kind)
        for number, ((name, one), kind) in enumerate(zip(tensors.items(), kinds, strict=True))
    )
    return b"".join(
        (
            *(b"\x80\x02", b"}(", _text("dims"), dims),
            *(_text("model_state_dict"), _ORDERED, b"(", state, b"u", b"u", b"."),
        )
    )


def _tensor(number: int, shape: tuple[int, ...], kind: str) -> bytes:
    """`_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)`."""
    strides = [int(np.prod(shape[place + 1 :], dtype=np.int64)) for place in range(len(shape))]
    count = int(np.prod(shape, dtype=np.int64))
    storage = b"".join(
        (
            *(b"(", _text("storage"), f"ctorch\n{_STORAGES[kind]}\n".encode()),
            *(_text(str(number)), _text("cpu"), _number(count), b"tQ"),
        )
    )
    arguments = b"".join(
        (storage, _number(0), _numbers(shape), _numbers(strides), b"\x89", _ORDERED)
    )
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def _numbers(values: tuple[int, ...] | list[int]) -> bytes:
    return b"(" + b"".join(map(_number, values)) + b"t"


def _number(value: int) -> bytes:
    if value < 2**31:
        return b"J" + struct.pack("<i", value)
    return b"\x8a\x08" + struct.pack("<q", value)


def _text(text: str) -> bytes:
    encoded = text.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded
