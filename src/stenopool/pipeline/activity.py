"""What a worker process is doing at this moment, and how it is told to stop."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from stenopool.audio.windows import Window
from stenopool.errors import StenoError

FIRST_WAIT = 0.5  # seconds before something is tried again
LONGEST_WAIT = 60.0


class Stopped(BaseException):
    """The work on a job is to end; no error of the job."""


class Meter:
    """Shares the time of a process equally among those who use it at the same moment.

    The shares of all add up to the time in which anything was computed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._share = 0.0  # seconds that somebody has who was there from the beginning
        self._since = time.monotonic()

    def enter(self) -> float:
        """One more uses the process; gives the share so far."""
        with self._lock:
            self._go_on()
            self._users += 1
            return self._share

    def leave(self) -> None:
        """One fewer does."""
        with self._lock:
            self._go_on()
            self._users -= 1

    def share(self) -> float:
        """Seconds; what has come since `enter` or an earlier call is the caller's own."""
        with self._lock:
            self._go_on()
            return self._share

    def _go_on(self) -> None:
        now = time.monotonic()
        if self._users:
            self._share += (now - self._since) / self._users
        self._since = now


class Activity:
    """One job in the hands of this process; implements `recording.Watch`.

    Args:
        changed: called when the process must tell its parent what it is computing.
        notes: what the database says of the job.
    """

    def __init__(
        self, id: str, meter: Meter, changed: Callable[[], None], notes: dict[str, Any]
    ) -> None:
        self.id = id
        self.notes: dict[str, Any] = {}
        self.computing_since: float | None = None  # or since it last got on
        self.reading_seconds = 0.0  # of audio that is being read
        self.keeping = False  # what was read is about to be kept
        self.windows = 0  # that were read and kept
        self.writing = threading.Lock()  # held while notes are on their way to the database
        self._meter = meter
        self._changed = changed
        self._stop: threading.Event = threading.Event()
        self._park = False
        self._lock = threading.Lock()
        self._charged = 0.0  # of the meter's share
        self._compute = float(notes.get("compute", 0.0))

    def stop(self, *, park: bool = False) -> None:
        """Let the work end at the next chance.

        Args:
            park: the process is about to end: its threads wait for that, and conclude nothing.
        """
        self._park |= park
        self._stop.set()

    def phase(self, name: str) -> None:
        self.note(phase=name)

    @contextmanager
    def computing(self) -> Iterator[None]:
        self.check()
        self._charged = self._meter.enter()
        self.computing_since = time.monotonic()
        self._changed()
        try:
            yield
        finally:
            self.computing_since = None
            self.reading_seconds, self.keeping = 0.0, False
            self._meter.leave()
            self._changed()

    def begun(self, window: Window) -> None:
        self._got_on()
        with self._lock:
            self.reading_seconds += window.seconds
        self._changed()

    def read(self, window: Window) -> float:
        self._got_on()
        self.keeping = True
        with self._lock:
            self.reading_seconds = max(0.0, self.reading_seconds - window.seconds)
        share = self._meter.share()
        seconds, self._charged = share - self._charged, share
        self._compute += seconds
        self.note(compute=self._compute)
        self._changed()
        return seconds

    def kept(self) -> None:
        self.windows += 1

    def progress(self, done_seconds: float, total_seconds: float | None) -> None:
        self._got_on()
        self.keeping = False
        self.note(done=done_seconds, total=total_seconds)

    def is_ending(self) -> bool:
        return self._park

    def check(self) -> None:
        self._got_on()
        self.keeping = False
        if self._stop.is_set():
            while self._park:
                time.sleep(1)  # the process ends
            raise Stopped

    def wait(self, seconds: float) -> None:
        """Sleep, but not longer than until the work is to stop."""
        self._stop.wait(seconds)
        self.check()

    def note(self, **notes: Any) -> None:  # noqa: ANN401
        """Keep what the database is to be told."""
        with self._lock:
            self.notes.update(notes)

    def take_notes(self) -> dict[str, Any]:
        """What is new since the last call."""
        with self._lock:
            notes, self.notes = self.notes, {}
        return notes

    def retrying(self, error: StenoError, attempt: int) -> None:
        """Something will be tried again: say so, and wait."""
        self.note(phase="retrying", error=error.record())
        doubled = min(attempt, 16)  # a float overflows after a night of trouble
        longest = min(LONGEST_WAIT, FIRST_WAIT * 2**doubled)
        # Jitter: what failed for all at the same time is not tried by all at the same time.
        self.wait(longest * random.uniform(0.5, 1.0))  # noqa: S311

    def _got_on(self) -> None:
        if self.computing_since is not None:
            self.computing_since = time.monotonic()
