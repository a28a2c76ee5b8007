"""The members of a ZIP archive that nothing is compressed in, as views of the file.

That is how PyTorch writes; and an archive without compression can be no bomb. The directory at its
end is read here, and not by `zipfile`, which would make an object of each of any number of entries.
"""

from __future__ import annotations

import mmap
import struct
from itertools import pairwise
from pathlib import Path

from stenopool.errors import ModelDamaged

MOST_RECORDS = 20_000
_MOST_DIRECTORY_BYTES = 8_000_000
_END, _END_64, _LOCATOR_64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_ENTRY, _LOCAL = b"PK\x01\x02", b"PK\x03\x04"
_LONGEST_COMMENT = 65_535
_FULL_16, _FULL_32 = 0xFFFF, 0xFFFFFFFF
_DO = "Save the model again with `torch.save`, or download it again"


def stored_records(file: Path) -> dict[str, memoryview]:
    """The bytes of each member by name, mapped into memory.

    Raises:
        ModelDamaged: the file is no such archive, is cut off, or two members overlap.
    """
    try:
        with file.open("rb") as opened:
            data = memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        raise refused(file.name, f"it cannot be read: {error}") from error
    try:
        return _records(data, file.name)
    except (struct.error, OverflowError) as error:
        raise refused(file.name, "it is cut off") from error


def refused(name: str, why: str) -> ModelDamaged:
    """The error of an archive that is not PyTorch's."""
    return ModelDamaged(f"`{name}` is not a checkpoint of PyTorch: {why}", do=_DO)


def _records(data: memoryview, name: str) -> dict[str, memoryview]:
    count, size, at = _directory(data, name)
    if count > MOST_RECORDS or size > _MOST_DIRECTORY_BYTES:
        raise refused(name, "it holds more files than a model has")
    if at + size > len(data):
        raise refused(name, "it is cut off")
    found: dict[str, memoryview] = {}
    ranges: list[tuple[int, int]] = []
    for _ in range(count):
        if data[at : at + 4] != _ENTRY:
            raise refused(name, "its directory is damaged")
        flags, method = struct.unpack_from("<HH", data, at + 8)
        packed, whole, text, extra, comment = struct.unpack_from("<IIHHH", data, at + 20)
        (local,) = struct.unpack_from("<I", data, at + 42)
        member = bytes(data[at + 46 : at + 46 + text]).decode("utf-8", "replace")
        more = data[at + 46 + text : at + 46 + text + extra]
        whole, packed, local = _wide(more, whole, packed, local)
        if method or packed != whole or flags & 1:
            raise refused(name, f"`{member[:80]}` in it is compressed or encrypted")
        if member in found:
            raise refused(name, f"it holds `{member[:80]}` twice")
        begin = _begin(data, local, name)
        if begin + whole > len(data):
            raise refused(name, "it is cut off")
        found[member] = data[begin : begin + whole]
        ranges.append((local, begin + whole))
        at += 46 + text + extra + comment
    ranges.sort()
    if any(after < end for (_, end), (after, _) in pairwise(ranges)):
        raise refused(name, "files in it overlap")
    return found


def _directory(data: memoryview, name: str) -> tuple[int, int, int]:
    """Entries, bytes and place of the directory."""
    tail = bytes(data[-(22 + _LONGEST_COMMENT) :])
    at = tail.rfind(_END)
    if at < 0:
        raise refused(name, "it is cut off, or older than PyTorch 1.6")
    count, size, begin, comment = struct.unpack_from("<HIIH", tail, at + 10)
    if at + 22 + comment != len(tail):
        raise refused(name, "it is cut off, or something follows it")
    if count != _FULL_16 and _FULL_32 not in (size, begin):
        return count, size, begin
    if tail[at - 20 : at - 16] != _LOCATOR_64:
        raise refused(name, "its directory is damaged")
    (end,) = struct.unpack_from("<Q", tail, at - 12)
    if end + 56 > len(data) or data[end : end + 4] != _END_64:
        raise refused(name, "its directory is damaged")
    count, size, begin = struct.unpack_from("<QQQ", data, end + 32)
    return count, size, begin


def _wide(more: memoryview, *values: int) -> list[int]:
    """Sizes and place, of 64 bits where the entry has no room for them."""
    at, wide = 0, memoryview(b"")
    while at + 4 <= len(more):
        kind, length = struct.unpack_from("<HH", more, at)
        if kind == 1:
            wide = more[at + 4 : at + 4 + length]
        at += 4 + length
    found, place = [], 0
    for value in values:
        if value == _FULL_32 and place + 8 <= len(wide):
            found.append(struct.unpack_from("<Q", wide, place)[0])
            place += 8
        else:
            found.append(value)
    return found


def _begin(data: memoryview, local: int, name: str) -> int:
    """Where the bytes of a member begin."""
    if local + 30 > len(data) or data[local : local + 4] != _LOCAL:
        raise refused(name, "its directory is damaged")
    text, extra = struct.unpack_from("<HH", data, local + 26)
    return local + 30 + int(text) + int(extra)
