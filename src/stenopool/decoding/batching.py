"""Windows of all recordings that are being transcribed meet here, and are decoded in batches.

A model is fastest with full batches, but a recording may be one short clip, and its windows come
one after the other. So windows wait in one queue, whosever they are; a worker that is free takes
its share of those that wait, up to a batch. A window's text does not depend on its neighbours.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

from stenopool.audio.windows import Window
from stenopool.decoding.readings import Reading
from stenopool.errors import StenoError

T = TypeVar("T")
R = TypeVar("R")

Readings = list[Reading]


class Reader(Protocol):
    """What reads windows: see `recognise.Recogniser`. Windows of one reader share batches."""

    @property
    def batch_size(self) -> int: ...
    def read(self, windows: list[Window]) -> list[Readings]: ...


@dataclass(frozen=True, slots=True)
class Claim:
    """Whose windows these are, and how urgent.

    Attributes:
        priority: lower ones are read first.
        owner: those of one priority are served in turn, a window each.
        taken: is told of each window when a worker begins to read it.
    """

    priority: int = 3
    owner: str = ""
    taken: Callable[[Window], None] = lambda window: None


REALTIME, SHORT, LONG, JOB = range(4)  # priorities
USUAL = Claim()
REMEMBERED = 1000  # owners
LEAST_WAITING = 2  # windows of a recording, however many others wait


@dataclass(frozen=True, slots=True)
class _Waiting:
    reader: Reader
    window: Window
    future: Future[Readings]
    rank: tuple[int, int]  # priority, then turn; the lowest is next
    taken: Callable[[Window], None]


class _Turns:
    """Ranks of windows: fair queuing by virtual time (Demers et al. 1989), all windows alike."""

    def __init__(self) -> None:
        self._now = 0  # turn of the last window that was taken
        self._last: dict[str, int] = {}  # turn of each owner's last window

    def rank(self, claim: Claim) -> tuple[int, int]:
        """Of one more window."""
        turn = max(self._now, self._last.get(claim.owner, 0)) + 1
        self._last[claim.owner] = turn
        return claim.priority, turn

    def taken(self, rank: tuple[int, int]) -> None:
        """A window is read now."""
        self._now = max(self._now, rank[1])
        if len(self._last) > REMEMBERED:
            self._last = {one: turn for one, turn in self._last.items() if turn > self._now}


class Batcher:
    """Decodes windows on `workers` threads, which end when nothing waits.

    Args:
        workers: batches decoded side by side.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._lock = threading.Lock()
        self._waiting: deque[_Waiting] = deque()
        self._turns = _Turns()
        self._busy = 0  # workers
        self._reading = 0  # of them, those with a batch

    def submit(self, reader: Reader, window: Window, claim: Claim = USUAL) -> Future[Readings]:
        """Let a window wait for its batch."""
        future: Future[Readings] = Future()
        with self._lock:
            rank = self._turns.rank(claim)
            self._waiting.append(_Waiting(reader, window, future, rank, claim.taken))
            idle = self._busy < self.workers
            self._busy += idle
        if idle:
            threading.Thread(target=self._work, name="steno-batch", daemon=True).start()
        return future

    def readings(
        self, reader: Reader, windows: Iterable[Window], claim: Claim = USUAL
    ) -> Generator[Readings, None, None]:
        """The readings of each window, in order.

        Windows are taken when they are needed: so many that two batches wait for each worker. All
        callers of a reader together take no more, but for the next ones of each, and for those that
        are more urgent: a window takes megabytes. When the caller stops early, those that wait are
        given up, those that have begun waited for.
        """
        most = 2 * self.workers * reader.batch_size

        def begin(window: Window) -> Future[Readings]:
            return self.submit(reader, window, claim)

        def are_enough(begun: Sequence[Future[Readings]]) -> bool:
            if begun[0].done():
                return True
            with self._lock:  # those that go before it, or would share batches with it
                rivals = [one for one in self._waiting if one.rank[0] <= claim.priority]
            waits = sum(not (one.running() or one.done()) for one in begun)
            return waits >= LEAST_WAITING and sum(one.reader is reader for one in rivals) >= most

        return in_order(begin, windows, ahead=most, are_enough=are_enough)

    def _work(self) -> None:
        while batch := self._taken():
            for one in batch:
                one.taken(one.window)
            _read(batch)
            with self._lock:
                self._reading -= 1

    def _taken(self) -> list[_Waiting]:
        """A batch; none when nothing waits, and this worker ends."""
        with self._lock:
            while self._waiting:
                if batch := self._share():
                    self._reading += 1
                    return batch
            self._busy -= 1
            return []

    def _share(self) -> list[_Waiting]:
        """Windows of the reader whose turn it is, shared among the workers that do not read.

        None where all of them were given up meanwhile.
        """
        self._waiting = deque(one for one in self._waiting if not one.future.cancelled())
        if not self._waiting:
            return []
        in_turn = sorted(self._waiting, key=lambda one: one.rank)
        reader = in_turn[0].reader
        alike = [one for one in in_turn if one.reader is reader]
        free = self.workers - self._reading
        share = alike[: min(reader.batch_size, -(-len(alike) // free))]
        self._turns.taken(share[-1].rank)
        taken = set(map(id, share))
        self._waiting = deque(one for one in self._waiting if id(one) not in taken)
        return [one for one in share if one.future.set_running_or_notify_cancel()]


def _read(batch: list[_Waiting]) -> None:
    """Decode a batch; where that fails, each of its windows alone, so that only one is to blame."""
    try:
        found = batch[0].reader.read([one.window for one in batch])
        answers = list(zip(batch, found, strict=True))
    except StenoError as error:
        if len(batch) == 1:
            batch[0].future.set_exception(error)
            return
        for one in batch:
            _read([one])
    except BaseException as error:  # noqa: BLE001  it reaches whoever waits for the window
        for one in batch:
            one.future.set_exception(error)
    else:
        for one, readings in answers:
            one.future.set_result(readings)


def in_order(
    begin: Callable[[T], Future[R]],
    items: Iterable[T],
    *,
    ahead: int,
    are_enough: Callable[[Sequence[Future[R]]], bool] = lambda begun: False,
    stop: Callable[[], None] = lambda: None,
) -> Generator[R, None, None]:
    """The results of what is begun for each item, in order, with `ahead` more begun than given.

    Fewer are begun while what has begun is enough by another measure. When the caller stops early
    or something fails, what waits is cancelled, `stop` is called, and what has begun is waited for.
    So a caller that may fail must close it: left to the end of the process, it would wait for
    threads that no longer run.
    """
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(begin(item))
            while len(pending) > ahead or (pending and are_enough(pending)):
                yield _first_of(pending)
        while pending:
            yield _first_of(pending)
    finally:
        begun = [future for future in pending if not future.cancel()]
        stop()
        for future in begun:
            future.exception()  # wait


def _first_of(pending: deque[Future[R]]) -> R:
    """Wait for the first; an interrupt leaves it there, to be waited for."""
    result = pending[0].result()
    pending.popleft()
    return result


def side_by_side(
    work: Callable[[T], R],
    items: Iterable[T],
    *,
    threads: int,
    stop: Callable[[], None] = lambda: None,
) -> Iterator[R]:
    """`map` on threads, in order; `stop` tells the work that nobody waits for it any more."""
    with ThreadPoolExecutor(threads, thread_name_prefix="steno-file") as pool:
        yield from in_order(lambda item: pool.submit(work, item), items, ahead=threads, stop=stop)
