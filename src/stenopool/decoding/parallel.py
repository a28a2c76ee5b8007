"""Work on batches side by side, results in order, with a bounded number in flight."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def even_batches(items: Iterable[T], *, size: int, workers: int) -> Iterator[list[T]]:
    """Consecutive batches of at most `size`, the last ones shared evenly among the workers."""
    source = iter(items)
    while group := list(islice(source, size * workers)):
        count = min(len(group), max(workers, -(-len(group) // size)))
        for index in range(count):
            yield group[index * len(group) // count : (index + 1) * len(group) // count]


def ordered(work: Callable[[T], R], items: Iterable[T], *, workers: int) -> Iterator[R]:
    """`map` on threads. Items are taken when they are needed: one more than there are workers.

    When the caller stops early or the work fails, what has begun is waited for, the rest is not.
    """
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="steno-batch") as pool:
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) > workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
