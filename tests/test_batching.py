from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stenopool.audio import SAMPLE_RATE
from stenopool.audio.windows import Piece, Window
from stenopool.decoding.batching import (
    JOB,
    LONG,
    Batcher,
    Claim,
    Readings,
    in_order,
    side_by_side,
)
from stenopool.decoding.quality import Figures
from stenopool.decoding.readings import Reading
from stenopool.errors import EngineFailed

T = TypeVar("T")

PATIENCE = 10.0  # seconds until a test gives up waiting
BRIEF = 0.05  # seconds in which something that must not happen would have happened


class Source:
    """Numbers from 0, counting how many were taken."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.taken = 0

    def __iter__(self) -> Iterator[int]:
        for number in range(self.count):
            self.taken += 1
            yield number


def window(number: int) -> Window:
    """One sample; it ends as many seconds into the recording as its number says."""
    end = number * SAMPLE_RATE
    return Window((Piece(np.zeros(1, dtype=np.float32), end - 1, end, end - 1, end),))


def reading(number: int) -> Readings:
    return [Reading((), Figures(-0.2, 0.01, 1.0, ()), 0.0, float(number))]


class Echo:
    """Reads each window as its number, and remembers which were read together."""

    def __init__(
        self, batch_size: int = 4, work: Callable[[list[int]], object] = lambda numbers: None
    ) -> None:
        self.batch_size = batch_size
        self.work = work
        self.batches: list[list[int]] = []

    def read(self, windows: list[Window]) -> list[Readings]:
        numbers = [round(one.end) for one in windows]
        self.batches.append(numbers)
        self.work(numbers)
        return [reading(number) for number in numbers]


class Gate(Echo):
    """Keeps a worker until it is opened."""

    def __init__(self) -> None:
        super().__init__(1, self._wait)
        self.entered = threading.Event()
        self.opened = threading.Event()

    def _wait(self, numbers: list[int]) -> None:
        self.entered.set()
        assert self.opened.wait(PATIENCE)

    def keep(self, batcher: Batcher) -> None:
        batcher.submit(self, window(0))
        assert self.entered.wait(PATIENCE)


def numbers_of(futures: list[Future[Readings]]) -> list[float]:
    return [future.result(PATIENCE)[0].end for future in futures]


def flat(lists: Iterable[list[T]]) -> list[T]:
    return list(chain.from_iterable(lists))


def threads(name: str) -> int:
    return sum(thread.name.startswith(name) for thread in threading.enumerate())


def soon(true: Callable[[], bool]) -> bool:
    """Whether something becomes true."""
    until = time.monotonic() + PATIENCE
    while not true() and time.monotonic() < until:
        time.sleep(0.001)
    return true()


def all_ended() -> bool:
    """Whether the threads of batchers end soon."""
    until = time.monotonic() + PATIENCE
    while threads("steno-batch") and time.monotonic() < until:
        time.sleep(0.001)
    return not threads("steno-batch")


# --- in order ---------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(), max_size=30), st.integers(1, 4), st.integers(0, 6))
def test_results_are_in_order_and_whole(items: list[int], workers: int, ahead: int) -> None:
    def work(item: int) -> int:
        time.sleep(0.001 if item % 3 == 0 else 0.0)
        return item

    with ThreadPoolExecutor(workers) as pool:
        found = in_order(lambda item: pool.submit(work, item), items, ahead=ahead)
        assert list(found) == items


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_no_more_items_are_taken_than_are_needed(ahead: int) -> None:
    source = Source(100)
    with ThreadPoolExecutor(1) as pool:
        results = in_order(lambda item: pool.submit(int, item), source, ahead=ahead)
        assert source.taken == 0
        for number in range(10):
            assert next(results) == number
            assert source.taken == number + 1 + ahead
        results.close()


def test_error_of_the_work_reaches_the_caller_in_its_turn() -> None:
    def fails_at_3(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return number

    source = Source(100)
    with ThreadPoolExecutor(2) as pool:
        results = in_order(lambda item: pool.submit(fails_at_3, item), source, ahead=2)
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ValueError, match="three"):
            next(results)
    assert source.taken == 6


def test_error_of_the_source_reaches_the_caller() -> None:
    begun: list[Future[int]] = []

    def broken() -> Iterator[int]:
        yield 1
        raise OSError("disk")

    def begin(item: int) -> Future[int]:
        begun.append(Future())
        return begun[-1]

    with pytest.raises(OSError, match="disk"):
        list(in_order(begin, broken(), ahead=2))
    assert [future.cancelled() for future in begun] == [True]


def test_early_stop_cancels_what_waits_and_waits_for_what_began() -> None:
    futures: list[Future[int]] = [Future() for _ in range(4)]
    told: list[bool] = []
    results = in_order(
        lambda number: futures[number],
        range(4),
        ahead=3,
        stop=lambda: told.append(futures[1].running()),
    )
    futures[0].set_result(10)
    assert next(results) == 10
    futures[1].set_running_or_notify_cancel()
    closing = threading.Thread(target=results.close)
    closing.start()
    closing.join(BRIEF)
    assert closing.is_alive()
    assert [future.cancelled() for future in futures] == [False, False, True, True]
    assert told == [True]
    futures[1].set_result(11)
    closing.join(PATIENCE)
    assert not closing.is_alive()


# --- one recording ----------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.integers(0, 25), min_size=1, max_size=5),
    st.integers(1, 8),
    st.integers(1, 4),
)
def test_no_window_is_lost_or_doubled_and_each_recording_is_in_order(
    counts: list[int], batch_size: int, workers: int
) -> None:
    batcher, reader = Batcher(workers), Echo(batch_size)

    def read(recording: int) -> list[float]:
        numbers = range(100 * recording + 1, 100 * recording + 1 + counts[recording])
        return [one.end for (one,) in batcher.readings(reader, map(window, numbers))]

    with ThreadPoolExecutor(len(counts)) as pool:
        found = list(pool.map(read, range(len(counts))))
    expected = [[100 * n + 1 + at for at in range(count)] for n, count in enumerate(counts)]
    assert found == expected
    assert sorted(flat(reader.batches)) == flat(expected)
    assert all(1 <= len(batch) <= batch_size for batch in reader.batches)


@pytest.mark.parametrize(("workers", "batch_size"), [(1, 1), (1, 4), (3, 2)])
def test_two_batches_for_each_worker_are_taken_ahead(workers: int, batch_size: int) -> None:
    source, opened = Source(200), threading.Event()
    reader = Echo(batch_size, lambda numbers: opened.wait(PATIENCE))
    results = Batcher(workers).readings(reader, map(window, source))
    assert source.taken == 0
    first = threading.Thread(target=next, args=[results])
    first.start()
    needed = 1 + 2 * workers * batch_size
    assert soon(lambda: source.taken == needed)
    first.join(BRIEF)
    assert source.taken == needed
    opened.set()
    first.join(PATIENCE)
    results.close()


def test_reading_that_is_there_does_not_wait_for_more_windows() -> None:
    reader = Echo(4)
    taken: list[int] = []

    def slow() -> Iterator[int]:
        for number in range(3):
            assert soon(lambda: len(taken) == len(flat(reader.batches)))
            time.sleep(BRIEF)
            taken.append(number)
            yield number

    results = Batcher(1).readings(reader, map(window, slow()))
    for number in range(3):
        assert next(results)[0].end == number
        assert len(taken) <= number + 2


def test_together_no_more_windows_wait_than_for_one_but_for_the_next_of_each() -> None:
    batcher, gate, reader = Batcher(1), Gate(), Echo(4)
    gate.keep(batcher)
    expected = [list(range(10 * n, 10 * n + 20)) for n in range(3)]
    with ThreadPoolExecutor(3) as pool:
        found = []
        for numbers, waiting in zip(expected, (8, 10, 12), strict=True):
            found.append(pool.submit(list, batcher.readings(reader, map(window, numbers))))
            assert soon(lambda waiting=waiting: len(batcher._waiting) == waiting)  # type: ignore[misc]
            time.sleep(BRIEF)
            assert len(batcher._waiting) == waiting
        gate.opened.set()
        assert [[one[0].end for one in part.result(PATIENCE)] for part in found] == expected


def test_urgent_windows_and_those_of_another_reader_are_not_kept_back() -> None:
    batcher, gate, usual, other = Batcher(1), Gate(), Echo(4), Echo(4)
    gate.keep(batcher)
    background, urgent = Claim(JOB), Claim(LONG)
    with ThreadPoolExecutor(4) as pool:
        found = []
        for reader, claim, waiting in (
            (usual, background, 8),
            (usual, background, 10),
            (usual, urgent, 18),
            (other, background, 26),
        ):
            windows = map(window, range(20))
            found.append(pool.submit(list, batcher.readings(reader, windows, claim)))
            assert soon(lambda waiting=waiting: len(batcher._waiting) == waiting)  # type: ignore[misc]
            time.sleep(BRIEF)
            assert len(batcher._waiting) == waiting
        gate.opened.set()
        assert {len(part.result(PATIENCE)) for part in found} == {20}


def test_recording_that_is_left_gives_up_what_waits_and_waits_for_what_began() -> None:
    entered, opened, more = (threading.Event() for _ in range(3))

    def work(numbers: list[int]) -> None:
        if numbers == [0]:
            assert more.wait(PATIENCE)
        if numbers == [1]:
            entered.set()
            assert opened.wait(PATIENCE)

    def source() -> Iterator[int]:
        yield from (0, 1)
        more.set()
        yield from range(2, 100)

    reader = Echo(1, work)
    results = Batcher(1).readings(reader, map(window, source()))
    assert next(results)[0].end == 0
    assert entered.wait(PATIENCE)
    closing = threading.Thread(target=results.close)
    closing.start()
    closing.join(BRIEF)
    assert closing.is_alive()
    opened.set()
    closing.join(PATIENCE)
    assert not closing.is_alive()
    assert all_ended()
    assert reader.batches == [[0], [1]]


# --- batches ----------------------------------------------------------------------------------


def test_windows_of_several_recordings_share_batches() -> None:
    batcher, gate, reader = Batcher(1), Gate(), Echo(4)
    gate.keep(batcher)
    with ThreadPoolExecutor(3) as pool:
        found = [
            pool.submit(list, batcher.readings(reader, map(window, numbers)))
            for numbers in ([1, 2], [3, 4], [5])
        ]
        until = time.monotonic() + PATIENCE
        while len(batcher._waiting) < 5 and time.monotonic() < until:
            time.sleep(0.001)
        gate.opened.set()
        ends = [[one.end for (one,) in each.result(PATIENCE)] for each in found]
    assert ends == [[1, 2], [3, 4], [5]]
    assert [len(batch) for batch in reader.batches] == [4, 1]


def test_two_readers_never_share_a_batch_and_take_turns() -> None:
    batcher, gate, order = Batcher(1), Gate(), list[list[int]]()
    first, second = Echo(2, order.append), Echo(2, order.append)
    gate.keep(batcher)
    readers = [first, second, second, first, second, first]
    futures = [batcher.submit(one, window(n)) for n, one in enumerate(readers)]
    gate.opened.set()
    assert numbers_of(futures) == [0, 1, 2, 3, 4, 5]
    assert order == [[0, 3], [1, 2], [4], [5]]
    assert first.batches == [[0, 3], [5]]
    assert second.batches == [[1, 2], [4]]


class Starting(Batcher):
    """Its workers all begin at the same time, when the gate is opened."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self.opened = threading.Event()

    def _work(self) -> None:
        assert self.opened.wait(PATIENCE)
        super()._work()


@pytest.mark.parametrize(
    ("workers", "count", "batch_size", "expected"),
    [
        (2, 6, 8, [3, 3]),
        (2, 5, 8, [2, 3]),
        (4, 3, 8, [1, 1, 1]),
        (3, 8, 8, [2, 3, 3]),
        (2, 16, 8, [8, 8]),
    ],
)
def test_free_workers_share_what_waits_evenly(
    workers: int, count: int, batch_size: int, expected: list[int]
) -> None:
    together = threading.Barrier(len(expected), timeout=PATIENCE)
    batcher, reader = Starting(workers), Echo(batch_size, lambda numbers: together.wait())
    futures = [batcher.submit(reader, window(number)) for number in range(count)]
    batcher.opened.set()
    assert numbers_of(futures) == list(range(count))
    assert sorted(len(batch) for batch in reader.batches) == expected


def test_worker_that_is_free_takes_all_that_waits_while_the_others_read() -> None:
    batcher, slow, quick, reader = Batcher(2), Gate(), Gate(), Echo(8)
    slow.keep(batcher)
    quick.keep(batcher)
    futures = [batcher.submit(reader, window(number)) for number in range(6)]
    quick.opened.set()
    assert numbers_of(futures) == list(range(6))
    assert reader.batches == [list(range(6))]
    slow.opened.set()


def test_no_more_batches_are_read_side_by_side_than_there_are_workers() -> None:
    reading_now, most = 0, 0
    lock = threading.Lock()
    together = threading.Barrier(3, timeout=PATIENCE)

    def work(numbers: list[int]) -> None:
        nonlocal reading_now, most
        with lock:
            reading_now += 1
            most = max(most, reading_now)
        together.wait()
        time.sleep(0.002)
        with lock:
            reading_now -= 1

    batcher, reader = Batcher(3), Echo(1, work)
    assert numbers_of([batcher.submit(reader, window(n)) for n in range(12)]) == list(range(12))
    assert most == 3


# --- failures ---------------------------------------------------------------------------------


def test_failure_of_a_batch_blames_only_the_window_that_fails() -> None:
    def fails_with_2(numbers: list[int]) -> None:
        if 2 in numbers:
            raise EngineFailed(f"failed: {numbers}", do="Try again")

    batcher, gate, reader = Batcher(1), Gate(), Echo(8, fails_with_2)
    gate.keep(batcher)
    futures = [batcher.submit(reader, window(number)) for number in range(5)]
    gate.opened.set()
    with pytest.raises(EngineFailed, match=r"failed: \[2\]"):
        futures[2].result(PATIENCE)
    assert numbers_of([*futures[:2], *futures[3:]]) == [0, 1, 3, 4]
    assert reader.batches == [[0, 1, 2, 3, 4], [0], [1], [2], [3], [4]]


@pytest.mark.parametrize("error", [ZeroDivisionError, MemoryError, SystemExit])
def test_worker_outlives_any_error(error: type[BaseException]) -> None:
    def fails_with_0(numbers: list[int]) -> None:
        if 0 in numbers:
            raise error("in the model")

    batcher, reader = Batcher(1), Echo(1, fails_with_0)
    with pytest.raises(error, match="in the model"):
        batcher.submit(reader, window(0)).result(PATIENCE)
    assert numbers_of([batcher.submit(reader, window(1))]) == [1]


def test_failure_of_one_recording_leaves_the_others() -> None:
    def fails_with_12(numbers: list[int]) -> None:
        if 12 in numbers:
            raise EngineFailed("failed", do="Try again")

    batcher, reader = Batcher(2), Echo(4, fails_with_12)

    def read(first: int) -> list[float]:
        numbers = range(first, first + 6)
        return [one.end for (one,) in batcher.readings(reader, map(window, numbers))]

    with ThreadPoolExecutor(3) as pool:
        before, failed, after = (pool.submit(read, first) for first in (0, 10, 20))
        assert before.result(PATIENCE) == list(range(6))
        assert after.result(PATIENCE) == list(range(20, 26))
        with pytest.raises(EngineFailed):
            failed.result(PATIENCE)


# --- given up ---------------------------------------------------------------------------------


def test_windows_that_were_given_up_are_not_read() -> None:
    batcher, gate, reader = Batcher(1), Gate(), Echo(3)
    gate.keep(batcher)
    futures = [batcher.submit(reader, window(number)) for number in range(6)]
    assert futures[0].cancel()
    assert futures[3].cancel()
    gate.opened.set()
    assert numbers_of([one for one in futures if not one.cancelled()]) == [1, 2, 4, 5]
    assert sorted(flat(reader.batches)) == [1, 2, 4, 5]


class Fickle(Echo):
    """Its window is given up at the very moment in which it is taken."""

    given_up: Future[Readings] | None = None

    @property
    def batch_size(self) -> int:
        if self.given_up:
            self.given_up.cancel()
        return 1

    @batch_size.setter
    def batch_size(self, value: int) -> None:
        pass


def test_worker_is_not_lost_where_all_that_it_takes_is_given_up_meanwhile() -> None:
    batcher, gate, reader, fickle = Batcher(1), Gate(), Echo(1), Fickle()
    gate.keep(batcher)
    fickle.given_up = batcher.submit(fickle, window(1))
    after = batcher.submit(reader, window(2))
    gate.opened.set()
    assert numbers_of([after]) == [2]
    assert fickle.given_up.cancelled()
    assert fickle.batches == []
    assert all_ended()
    assert numbers_of([batcher.submit(reader, window(3))]) == [3]


# --- threads ----------------------------------------------------------------------------------


def test_threads_begin_with_work_and_end_when_nothing_waits() -> None:
    assert all_ended()
    batcher, reader = Batcher(3), Echo(2)
    assert threads("steno-batch") == 0
    for _ in range(3):
        gates = [Gate() for _ in range(3)]
        for gate in gates:
            gate.keep(batcher)
        futures = [batcher.submit(reader, window(number)) for number in range(20)]
        assert threads("steno-batch") == 3
        for gate in gates:
            gate.opened.set()
        assert numbers_of(futures) == list(range(20))
        assert all_ended()


@pytest.mark.parametrize("workers", [1, 2])
def test_no_wake_up_is_lost_when_many_threads_submit_at_once(workers: int) -> None:
    """Each submits and waits, so that workers end and begin all the time."""
    batcher, reader = Batcher(workers), Echo(4)

    def submit_one_by_one(first: int) -> list[float]:
        return [
            numbers_of([batcher.submit(reader, window(number))])[0]
            for number in range(first, first + 100)
        ]

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(submit_one_by_one, range(0, 800, 100)))
    finally:
        sys.setswitchinterval(before)
    assert flat(found) == list(range(800))
    assert sorted(flat(reader.batches)) == list(range(800))
    assert all_ended()


# --- side by side -----------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(), max_size=30), st.integers(1, 4))
def test_work_side_by_side_is_in_order_and_whole(items: list[int], count: int) -> None:
    assert list(side_by_side(lambda item: item, items, threads=count)) == items
    assert threads("steno-file") == 0


def test_work_is_done_side_by_side() -> None:
    together = threading.Barrier(3, timeout=PATIENCE)
    found = side_by_side(lambda _: together.wait() < 3, range(6), threads=3)
    assert list(found) == [True] * 6


def test_items_are_taken_as_they_are_needed() -> None:
    source = Source(100)
    results = side_by_side(lambda number: number, source, threads=3)
    assert source.taken == 0
    assert next(results) == 0
    assert source.taken == 4
    results.close()  # type: ignore[attr-defined]


def test_early_stop_tells_the_work_and_begins_nothing_more() -> None:
    stopped = threading.Event()
    begun: list[int] = []
    ended: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        if number:
            assert stopped.wait(PATIENCE)
        ended.append(number)
        return number

    results = side_by_side(work, range(1000), threads=2, stop=stopped.set)
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
    assert sorted(ended) == sorted(begun)
    assert len(begun) <= 3
    assert threads("steno-file") == 0


# --- whose turn it is ------------------------------------------------------------------------


class Held:
    """A reader whose first batch waits, so that the order of all others can be seen."""

    batch_size = 1

    def __init__(self) -> None:
        self.free = threading.Event()
        self.order: list[float] = []

    def read(self, windows: list[Window]) -> list[list[Reading]]:
        self.order += [one.end for one in windows]
        self.free.wait(10)
        return [[] for _ in windows]


def served(*claims: Claim) -> list[int]:
    """The order in which windows are read that wait at the same time."""
    reader, batcher = Held(), Batcher(1)
    first = batcher.submit(reader, window(0))
    while not reader.order:
        time.sleep(0.001)
    waiting = [batcher.submit(reader, window(n), claim) for n, claim in enumerate(claims, 1)]
    reader.free.set()
    for one in (first, *waiting):
        one.result(10)
    ends = [window(n).end for n in range(len(claims) + 1)]
    return [ends.index(end) for end in reader.order[1:]]


def test_urgent_windows_are_read_first() -> None:
    assert served(Claim(2), Claim(0), Claim(1), Claim(0)) == [2, 4, 3, 1]


def test_owners_take_turns_however_much_one_of_them_has() -> None:
    many = [Claim(1, "a")] * 4
    assert served(*many, Claim(1, "b"), Claim(1, "b")) == [1, 5, 2, 6, 3, 4]


def test_windows_of_one_owner_keep_their_order() -> None:
    assert served(*[Claim(1, "a")] * 5) == [1, 2, 3, 4, 5]
