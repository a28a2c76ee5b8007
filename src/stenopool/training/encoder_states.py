"""What a frozen encoder makes of each sound, computed once and kept on the disk in bfloat16.

`states.bf16` has one row a sound, (1500, width) each; `states.jsonl` says whose row it is. Rows of
another encoder are another folder's. A sound has the same states in every run that hears it, so
runs may share a folder. A window is one sound, or as many as it is augmented in.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stenopool.errors import StorageFull
from stenopool.files import make_folder, output_error
from stenopool.training.augment import Change
from stenopool.training.labels import LabelledWindow
from stenopool.training.ledger import Ledger

if TYPE_CHECKING:
    import torch

STATES, INDEX = "states.bf16", "states.jsonl"
GIGABYTE = 1_000_000_000
LEFT_FREE = 1 * GIGABYTE  # of the disk, for all that is written besides
ITEM = 2  # bytes of a number


class EncoderStates:
    """Rows on the disk, memory-mapped for reading.

    Args:
        folder: holds the states of one encoder; made if it is missing.
        shape: (positions, width) of a row.
        most: bytes that may be kept.

    Raises:
        OutputError: the folder cannot be written.
        InputUnreadable: its index is damaged.
    """

    def __init__(self, folder: Path, shape: tuple[int, int], most: int) -> None:
        self._shape, self._most = shape, most
        self.row_bytes = shape[0] * shape[1] * ITEM
        make_folder(folder)
        self._path = folder / STATES
        self._index = Ledger(folder / INDEX)
        try:
            self._path.touch()
        except OSError as error:
            raise output_error(self._path, error) from error
        self._rows: dict[str, int] = {}
        self._count = 0
        self._map: NDArray[np.uint16] | None = None
        self.refresh()

    def refresh(self) -> None:
        """Take note of what other processes have added."""
        self._index.refresh()
        size = self._path.stat().st_size
        found = {key: int(line["row"]) for key, line in self._index.done.items()}
        # Of a machine that went down, the index may know more than the file has.
        self._rows = {k: row for k, row in found.items() if (row + 1) * self.row_bytes <= size}
        self._count = max(self._rows.values(), default=-1) + 1
        self._map = None

    def wanted(self, keys: Iterable[str]) -> list[str]:
        """Which of these are to be computed: as many as may be kept, the first ones."""
        missing = [key for key in dict.fromkeys(keys) if key not in self._rows]
        room = self._most // self.row_bytes - self._count
        return missing[: max(0, room)]

    def held(self, keys: Iterable[str]) -> int:
        """How many of these are there."""
        return sum(key in self._rows for key in set(keys))

    def check_room(self, rows: int) -> None:
        """Refuse before any work what the disk has no room for.

        Raises:
            StorageFull: says how much is needed and how much there is.
        """
        needed, free = rows * self.row_bytes, shutil.disk_usage(self._path.parent).free
        if needed + LEFT_FREE > free and rows:
            raise StorageFull(
                f"the encoder's states of {rows} windows need {needed / GIGABYTE:.1f} GB in "
                f"`{self._path.parent}`, where {free / GIGABYTE:.1f} GB are free",
                do="Free some space, or give `--cache-gb 0` to compute them anew in every epoch",
            )

    def fill(
        self,
        keys: Sequence[str],
        compute: Callable[[str], torch.Tensor | None],
        report: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Compute rows and keep them; of several processes one does, and the others wait.

        Args:
            compute: the states of a window, (positions, width); `None` where it cannot be heard.
            report: called with how many are done.

        Raises:
            OutputError: the disk is full; what is there stays valid.
        """
        import torch

        try:
            with self._path.open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                self.refresh()
                file.truncate(self._count * self.row_bytes)
                file.seek(0, os.SEEK_END)
                for done, key in enumerate(keys, start=1):
                    found = None if key in self._rows else compute(key)
                    if found is not None:
                        bits = found.to(torch.bfloat16).contiguous().view(torch.uint16)
                        file.write(bits.cpu().numpy().tobytes())
                        file.flush()
                        self._index.add(key, {"row": self._count})
                        self._rows[key] = self._count
                        self._count += 1
                    report(done)
                os.fsync(file.fileno())
        except OSError as error:
            raise output_error(self._path, error) from error
        self._map = None

    def read(self, key: str) -> torch.Tensor | None:
        """(positions, width) bfloat16; `None` where they are not kept."""
        import torch

        row = self._rows.get(key)
        if row is None:
            return None
        if self._map is None or row >= len(self._map):
            shape = (self._count, *self._shape)
            self._map = np.memmap(self._path, dtype=np.uint16, mode="r", shape=shape)
        return torch.from_numpy(np.array(self._map[row])).view(torch.bfloat16)

    def close(self) -> None:
        """Let go of the files."""
        self._map = None
        self._index.close()


def key_of(window: LabelledWindow, change: Change | None = None) -> str:
    """What states depend on: files, their sizes, what is taken of them, and how it is changed."""
    parts = []
    for one in window.stretches:
        try:
            size = one.audio.stat().st_size
        except OSError:
            size = -1
        parts.append([str(one.audio.resolve()), size, round(one.start, 4), round(one.end, 4)])
    known = parts if change in (None, Change()) else [parts, asdict(change)]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:32]
