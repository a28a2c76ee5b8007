"""Audio is decoded ahead on threads, in order, and what fits stays in memory."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import TypeVar

import numpy as np

from stenopool.audio import SAMPLE_RATE, Samples, media
from stenopool.decoding.batching import in_order

Item = TypeVar("Item")
Made = TypeVar("Made")

AHEAD = 4  # pieces of work that wait decoded, for each thread


def ahead(
    items: Iterable[Item], make: Callable[[Item], Made], *, workers: int
) -> Generator[Made, None, None]:
    """`make` of each item, in their order, worked on before it is asked for.

    What an item raises is raised when its turn comes.
    """
    with ThreadPoolExecutor(workers, thread_name_prefix="stenopool-loading") as pool:
        yield from in_order(lambda item: pool.submit(make, item), items, ahead=workers * AHEAD)


class Audio:
    """Samples of recordings; the first that are heard are kept, up to a number of bytes.

    To keep the latest instead would be of no use: an epoch hears each recording once.

    Args:
        bytes: of samples that are kept.
        longest: seconds; a recording that claims less and decodes to more is refused.
    """

    def __init__(self, *, bytes: int, longest: float) -> None:
        self._room = bytes
        self._hours = longest / 3600
        self._kept: dict[Path, Samples] = {}
        self._lock = Lock()

    def samples(self, path: Path) -> Samples:
        """(samples,) float32 at 16 kHz; not to be written to.

        Raises:
            InputError: it cannot be decoded, or is longer than permitted.
        """
        kept = self._kept.get(path)
        if kept is not None:
            return kept
        decoded = _decoded(path, self._hours)
        with self._lock:
            if path not in self._kept and decoded.nbytes <= self._room:
                self._room -= decoded.nbytes
                self._kept[path] = decoded
        return decoded


def with_pauses(parts: Iterable[Samples], pauses: Iterable[float]) -> Samples:
    """Recordings one after another with silence of so many seconds between them."""
    pieces: list[Samples] = []
    silences = iter(pauses)
    for part in parts:
        if pieces:
            pieces.append(np.zeros(round(next(silences) * SAMPLE_RATE), dtype=np.float32))
        pieces.append(part)
    return np.concatenate(pieces) if len(pieces) > 1 else pieces[0]


def at_speed(sound: Samples, speed: float) -> Samples:
    """The sound so many times as fast, and as high: as a tape would play it.

    Between two samples lies a line; what that adds of noise is far below that of a microphone.
    """
    if speed == 1.0:
        return sound
    count = max(1, round(len(sound) / speed))
    places = np.arange(count) * speed
    found: Samples = np.interp(places, np.arange(len(sound)), sound).astype(np.float32)
    return found


def _decoded(path: Path, hours: float) -> Samples:
    with media.Recording(path, max_hours=hours) as sound:
        samples = np.concatenate(list(sound))
    samples.flags.writeable = False
    return samples
