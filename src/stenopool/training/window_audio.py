"""The sound of labelled windows, from the files that they are stretches of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from threading import Lock

import numpy as np

from stenopool.audio import SAMPLE_RATE, Samples, media
from stenopool.audio.features import WINDOW_SAMPLES
from stenopool.errors import NoSamples
from stenopool.settings import settings
from stenopool.training.labels import LabelledWindow, Stretch

# A manifest's durations are rounded.
SLACK = round(0.25 * SAMPLE_RATE)


class WindowAudio:
    """Decodes windows; those of a long file cost least in their order, one after the other."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._tape: _Tape | None = None

    def samples(self, window: LabelledWindow) -> Samples:
        """(samples,) float32 at 16 kHz, at most 30 s.

        Raises:
            InputError: a file cannot be decoded, or ends before the window does.
        """
        parts = [self._stretch(one) for one in window.stretches]
        whole = np.concatenate(parts) if len(parts) > 1 else parts[0]
        return whole[:WINDOW_SAMPLES]

    def _stretch(self, one: Stretch) -> Samples:
        with self._lock:
            tape, self._tape = self._tape, None  # nobody else winds it meanwhile
        if tape is not None and not tape.has(one):
            tape.close()
            tape = None
        tape = tape or _Tape(one.audio)
        try:
            found = tape.read(one)
        except BaseException:
            tape.close()
            raise
        with self._lock:
            before, self._tape = self._tape, tape
        if before is not None:
            before.close()
        return found

    def close(self) -> None:
        """Close the file that is open."""
        with self._lock:
            tape, self._tape = self._tape, None
        if tape is not None:
            tape.close()


class _Tape:
    """A file that is decoded from its beginning on; it can be wound forward only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._recording = media.Recording(path, max_hours=settings().max_hours)
        self._blocks: Iterator[Samples] = iter(self._recording)
        self._held: Sequence[Samples] = []
        self._first = 0  # sample number of the first that is held

    def has(self, one: Stretch) -> bool:
        """Whether the stretch is still to come."""
        return one.audio == self._path and round(one.start * SAMPLE_RATE) >= self._first

    def read(self, one: Stretch) -> Samples:
        start, end = (round(time * SAMPLE_RATE) for time in (one.start, one.end))
        held: list[Samples] = []
        at = self._first
        for block in chain(self._held, self._blocks):
            if at + len(block) > start:
                held.append(block)
            else:
                self._first = at + len(block)
            at += len(block)
            if at >= end:
                break
        self._held = held
        if not held or at < end - SLACK:
            raise NoSamples(
                f"`{self._path}` has {at / SAMPLE_RATE:.2f} s, and its window ends at "
                f"{one.end:.2f} s",
                do="Make the manifest again",
            )
        whole = np.concatenate(held)
        return whole[start - self._first : end - self._first].copy()

    def close(self) -> None:
        self._recording.close()
