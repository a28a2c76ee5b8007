"""Memory for the keys and values of windows, used again: fresh pages cost a tenth of encoding."""

from __future__ import annotations

import ctypes
import weakref
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from stenopool.models.weights import HEAD_WIDTH, WhisperShape

_M_MMAP_THRESHOLD = -3  # of glibc's <malloc.h>
_LARGE_BYTES = 1 << 20
_KEPT_ROOMS = 4  # that nobody uses: windows on their way into a batch and out of it

Bits = NDArray[Any]  # uint16 or float32; NumPy has no bfloat16: its bits as numbers


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Room:
    """The keys and values of some windows.

    Attributes:
        audio: by the name of the graphs' input, (windows, heads, …); empty while they lie in a
            place of another room.
        stored: the type that the arrays stand for.
    """

    audio: dict[str, Bits]
    stored: ov.Type

    def tensors(self, windows: int) -> dict[str, ov.Tensor]:
        """Of the first windows, where they lie: OpenVINO would copy a view of its own tensor."""
        return {
            name: ov.Tensor(bits[:windows], ov.Shape(bits[:windows].shape), self.stored)
            for name, bits in self.audio.items()
        }

    def put(self, place: int, other: Room) -> None:
        """Copy the only window of another room to a place."""
        for name, bits in self.audio.items():
            bits[place] = other.audio[name][0]

    def move(self, source: int, target: int) -> None:
        """Copy what lies in a place to another one."""
        for bits in self.audio.values():
            bits[target] = bits[source]


class Rooms:
    """Builds rooms, and keeps some of those for one window that nobody holds any more.

    Args:
        positions: of a window.
    """

    def __init__(self, shape: WhisperShape, positions: int, stored: ov.Type) -> None:
        self._shape, self._positions, self._stored = shape, positions, stored
        self._free: deque[dict[str, Bits]] = deque(maxlen=_KEPT_ROOMS)

    @property
    def window_bytes(self) -> int:
        """What one window takes."""
        numbers = self._shape.decoder_layers * self._shape.heads * self._positions * HEAD_WIDTH
        return 2 * numbers * int(self._stored.size)

    def take(self) -> Room:
        """A room for one window; others may have it when the caller has let go of it."""
        audio = self._some()
        room = Room(audio, self._stored)
        weakref.finalize(room, self._give_back, audio)
        return room

    def empty(self, room: Room) -> None:
        """Let others have the memory of a room whose window lies elsewhere now."""
        self._give_back(room.audio)

    def fill(self, room: Room, source: Room, place: int) -> None:
        """Copy to an empty room what lies in a place of another one."""
        audio = self._some()
        for name, bits in audio.items():
            bits[0] = source.audio[name][place]
        room.audio.update(audio)

    def _some(self) -> dict[str, Bits]:
        try:
            return self._free.pop()
        except IndexError:
            return self.built(1).audio

    def _give_back(self, audio: dict[str, Bits]) -> None:
        if audio:
            self._free.append(dict(audio))
            audio.clear()

    def built(self, windows: int) -> Room:
        """A new room."""
        kind: type[np.uint16 | np.float32] = (
            np.uint16 if self._stored == ov.Type.bf16 else np.float32
        )
        keys = (windows, self._shape.heads, self._positions, HEAD_WIDTH)
        values = (*keys[:2], HEAD_WIDTH, self._positions)
        audio: dict[str, Bits] = {}
        for layer in range(self._shape.decoder_layers):
            audio[f"{layer}.keys"] = np.empty(keys, kind)
            audio[f"{layer}.values"] = np.empty(values, kind)
        return Room(audio, self._stored)


def give_back_freed_memory() -> None:
    """Let this process return large blocks to the system as they are freed.

    By itself glibc keeps them for the next time, and many threads with blocks of many sizes leave
    holes that nobody uses: a gigabyte after half an hour of audio. Other C libraries do without.
    """
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
