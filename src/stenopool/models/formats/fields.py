"""Reads a binary file field by field."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

import numpy as np

from stenopool.errors import ModelDamaged
from stenopool.models.weights import Tensor


class Fields:
    """The fields of a file, one after the other, never beyond its end; arrays stay on the disk.

    Args:
        advice: what to do with a damaged file.

    Raises:
        ModelDamaged: it cannot be read.
    """

    def __init__(self, file: Path, advice: str) -> None:
        self.name, self._advice, self._at = file.name, advice, 0
        try:
            with file.open("rb") as opened:
                self._data = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise self.damaged(f"cannot be read: {error}") from error

    @property
    def left(self) -> int:
        """Bytes that were not read yet."""
        return len(self._data) - self._at

    def number(self, layout: str = "<I") -> int:
        """An integer, laid out as `struct` says it."""
        return int(struct.unpack(layout, self.take(struct.calcsize(layout)))[0])

    def size(self, most: int, what: str, layout: str = "<I") -> int:
        """A number that can be at most so large, or the file is damaged."""
        size = self.number(layout)
        if size > most:
            raise self.damaged(f"holds {what} of {size}: it is damaged")
        return size

    def take(self, count: int) -> bytes:
        """So many bytes."""
        return self._data[self._passed(count) : self._at]

    def array(self, kind: np.dtype[Any], count: int) -> Tensor:
        """So many numbers of a type."""
        begin = self._passed(count * kind.itemsize)
        return np.frombuffer(self._data, kind, count, begin)

    def damaged(self, what: str) -> ModelDamaged:
        """The error that says what is wrong with the file."""
        return ModelDamaged(f"`{self.name}` {what}", do=self._advice)

    def _passed(self, count: int) -> int:
        """Where the next bytes begin; they are all there."""
        if count > self.left:
            raise self.damaged("is cut off")
        self._at += count
        return self._at - count
