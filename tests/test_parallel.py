from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stenopool.decoding.parallel import even_batches, ordered


class Source:
    """Numbers from 0, counting how many were taken."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.taken = 0

    def __iter__(self) -> Iterator[int]:
        for number in range(self.count):
            self.taken += 1
            yield number


def batch_threads() -> int:
    return sum(thread.name.startswith("steno-batch") for thread in threading.enumerate())


# --- ordered ----------------------------------------------------------------------------------


def test_results_are_in_order_however_long_each_takes() -> None:
    def slow_first(number: int) -> int:
        time.sleep(0.02 if number % 3 == 0 else 0.0)
        return number * 10

    assert list(ordered(slow_first, range(12), workers=3)) == [n * 10 for n in range(12)]


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(), max_size=30), st.integers(1, 4))
def test_nothing_is_lost_or_doubled(items: list[int], workers: int) -> None:
    assert list(ordered(lambda item: item, items, workers=workers)) == items


def test_work_is_done_side_by_side() -> None:
    together = threading.Barrier(3, timeout=10)
    assert list(ordered(lambda _: together.wait() < 3, range(6), workers=3)) == [True] * 6


@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_items_are_taken_than_are_needed(workers: int) -> None:
    source = Source(100)
    results = ordered(lambda number: number, source, workers=workers)
    assert source.taken == 0
    for number in range(10):
        assert next(results) == number
        assert source.taken == number + 1 + workers
    results.close()  # type: ignore[attr-defined]


def test_error_of_the_work_reaches_the_caller_in_its_turn() -> None:
    def fails_at_3(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return number

    source = Source(100)
    results = ordered(fails_at_3, source, workers=2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)
    assert source.taken <= 6
    assert batch_threads() == 0


def test_error_of_the_source_reaches_the_caller() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        list(ordered(lambda number: number, broken(), workers=2))
    assert batch_threads() == 0


def test_early_stop_waits_for_what_has_begun_and_leaves_the_rest() -> None:
    begun: list[int] = []
    ended: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        time.sleep(0.01)
        ended.append(number)
        return number

    results = ordered(work, range(1000), workers=2)
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
    assert sorted(ended) == sorted(begun)
    assert len(begun) <= 4
    assert batch_threads() == 0


# --- even batches -----------------------------------------------------------------------------


def test_last_windows_are_shared_evenly_among_the_workers() -> None:
    assert [len(b) for b in even_batches(range(19), size=8, workers=2)] == [8, 8, 1, 2]
    assert [len(b) for b in even_batches(range(6), size=8, workers=2)] == [3, 3]
    assert [len(b) for b in even_batches(range(9), size=8, workers=1)] == [8, 1]


def test_no_window_gives_no_batch() -> None:
    assert list(even_batches([], size=8, workers=2)) == []


def test_batches_are_given_before_everything_is_read() -> None:
    source = Source(100)
    assert next(even_batches(source, size=4, workers=2)) == [0, 1, 2, 3]
    assert source.taken == 8


@given(st.integers(0, 200), st.integers(1, 64), st.integers(1, 8))
def test_batches_hold_everything_in_order_and_are_balanced(
    count: int, size: int, workers: int
) -> None:
    batches = list(even_batches(range(count), size=size, workers=workers))
    assert [item for batch in batches for item in batch] == list(range(count))
    assert all(1 <= len(batch) <= size for batch in batches)
    full, rest = divmod(count, size * workers)
    assert all(len(batch) == size for batch in batches[: full * workers])
    last = [len(batch) for batch in batches[full * workers :]]
    assert sum(last) == rest
    assert len(last) == min(rest, workers) or len(last) == -(-rest // size)
    assert not last or max(last) - min(last) <= 1
