"""Scalars for TensorBoard, in its own format: records of TFRecord with a protobuf `Event` each.

Few fields of few messages are needed, so they are encoded here; the package `tensorboard` would
bring a server along.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from stenopool.files import output_error

PREFIX = "events.out.tfevents."
_POLYNOMIAL = 0x82F63B78  # CRC-32C, reflected
_MASK = 0xA282EAD8
_BYTES, _FIXED64, _FIXED32, _VARINT = 2, 1, 5, 0  # wire types of protobuf


class Events:
    """A file of events that TensorBoard reads while it grows.

    Raises:
        OutputError: it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        host = "".join(one if one.isalnum() else "-" for one in socket.gethostname())
        self._path = folder / f"{PREFIX}{int(time.time())}.{host}.{os.getpid()}.0"
        self._file: IO[bytes]
        try:
            self._file = self._path.open("wb")
        except OSError as error:
            raise output_error(self._path, error) from error
        self._record(_event(3, _BYTES, b"brain.Event:2"))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """One event with all these values."""
        if not scalars:
            return
        values = b"".join(
            _field(1, _BYTES, _field(1, _BYTES, name.encode()) + _field(2, _FIXED32, float(value)))
            for name, value in scalars.items()
        )
        self._record(_event(5, _BYTES, values, step=step))

    def flush(self) -> None:
        self._guarded(self._file.flush)

    def close(self) -> None:
        self._guarded(self._file.close)

    def _record(self, data: bytes) -> None:
        length = struct.pack("<Q", len(data))
        parts = (length, _masked_crc(length), data, _masked_crc(data))
        self._guarded(lambda: self._file.write(b"".join(parts)))

    def _guarded(self, act: object) -> None:
        try:
            act()  # type: ignore[operator]
        except OSError as error:
            raise output_error(self._path, error) from error


def _event(number: int, kind: int, content: bytes, *, step: int = 0) -> bytes:
    return (
        _field(1, _FIXED64, time.time()) + _field(2, _VARINT, step) + _field(number, kind, content)
    )


def _field(number: int, kind: int, value: bytes | float) -> bytes:
    key = bytes([number << 3 | kind])
    if isinstance(value, bytes):
        return key + _varint(len(value)) + value
    if kind == _VARINT:
        return key + _varint(int(value))
    return key + struct.pack("<d" if kind == _FIXED64 else "<f", value)


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _masked_crc(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for one in data:
        crc = _TABLE[(crc ^ one) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF)


def _entry(index: int) -> int:
    for _ in range(8):
        index = index >> 1 ^ (_POLYNOMIAL if index & 1 else 0)
    return index


_TABLE = [_entry(index) for index in range(256)]
