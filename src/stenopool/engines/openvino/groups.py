"""Cores in groups, each of which runs one batch at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Generic, TypeVar

CORES_OF_A_GROUP = 4  # with fewer, one batch at a time is the fastest and needs half the memory
MOST_GROUPS = 4

Group = TypeVar("Group")


def groups_of(threads: int) -> int:
    """How many groups so many cores make."""
    return min(max(1, threads // CORES_OF_A_GROUP), MOST_GROUPS)


class Groups(Generic[Group]):
    """What each group of cores holds."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self._groups = groups
        self._callers = Counter[int]()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, number: int) -> Group:
        return self._groups[number]

    @contextmanager
    def one(self) -> Iterator[Group]:
        """The group with the fewest callers."""
        with self._lock:
            chosen = min(range(len(self._groups)), key=lambda number: self._callers[number])
            self._callers[chosen] += 1
        try:
            yield self._groups[chosen]
        finally:
            with self._lock:
                self._callers[chosen] -= 1
