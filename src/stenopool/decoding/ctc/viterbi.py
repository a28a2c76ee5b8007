"""A given text along the emissions: the most probable times of its symbols (Viterbi).

The states are the symbols of the text with a blank before, between and after them, so an hour of
speech has some 100,000 states and 180,000 frames. Two habits keep that in memory: of long texts
only a band of states around the most probable one is looked at, and what came from where is not
kept but found again, block by block, from the end to the beginning.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stenopool.decoding.ctc.path import Spoken
from stenopool.engines.ctc import Emissions
from stenopool.errors import TextDoesNotFit

BAND = 4096  # states: with its blanks a text of 2,048 symbols, some two minutes of speech
BLOCK = 256  # frames

_Scores = NDArray[np.float32]


def aligned(
    emissions: Emissions,
    symbols: Sequence[int],
    blank: int,
    *,
    optional: int | None = None,
    band: int = BAND,
) -> list[Spoken]:
    """When each symbol of a text is spoken.

    Args:
        symbols: ids of the text, delimiters included; none is the blank.
        optional: a symbol that may be left out, such as the delimiter: between words that follow
            one another quickly, many models write none. One that is left out has no frames.
        band: states that are looked at, more than eight times `BLOCK`.

    Raises:
        TextDoesNotFit: there are fewer frames than the text needs.
    """
    if not symbols:
        return []
    ids = np.array(symbols, dtype=np.int64)
    spoken = ids[ids != optional] if optional is not None else ids
    needed = len(spoken) + int(np.count_nonzero(spoken[1:] == spoken[:-1]))
    if len(emissions) < needed:
        raise TextDoesNotFit(
            f"the text has {len(ids)} symbols and needs {needed} frames; the sound has "
            f"{len(emissions)}",
            do="Give the text of this recording, or all of the recording",
        )
    states = _Lattice(emissions, ids, blank, optional, band).path()
    numbers = np.arange(len(ids))
    firsts = np.searchsorted(states, 2 * numbers + 1).tolist()
    afters = np.searchsorted(states, 2 * numbers + 2).tolist()
    found: list[Spoken] = []
    for symbol, first, after in zip(ids.tolist(), firsts, afters, strict=True):
        surest = float(emissions[first:after, symbol].max(initial=-np.inf))
        found.append(Spoken(symbol, first, after, surest))
    return found


class _Lattice:
    """States by frames."""

    def __init__(
        self,
        emissions: Emissions,
        ids: NDArray[np.int64],
        blank: int,
        optional: int | None,
        band: int,
    ) -> None:
        self._emissions = emissions
        self._labels = np.full(2 * len(ids) + 1, blank, dtype=np.int64)
        self._labels[1::2] = ids
        self._width = min(band, len(self._labels))
        # How many states on one may come, and to which states; one on to any.
        skips = np.zeros(len(self._labels), dtype=bool)
        skips[3::2] = ids[1:] != ids[:-1]  # without a blank, unless two symbols are equal
        self._jumps = [(2, skips)]
        if optional is not None and (ids[1:-1] == optional).any():
            past = np.zeros(len(self._labels), dtype=bool)
            past[5::2] = ids[1:-1] == optional  # from the blank before it to the symbol after it
            over = np.zeros(len(self._labels), dtype=bool)
            over[5::2] = (ids[1:-1] == optional) & (ids[2:] != ids[:-2])
            self._jumps += [(3, past), (4, over)]

    def path(self) -> NDArray[np.int64]:
        """(frames,) the state of each frame on the most probable path; it never falls."""
        frames, last = len(self._emissions), len(self._labels) - 1
        low = 0
        scores = np.full(self._width, -np.inf, dtype=np.float32)
        scores[0] = 0.0  # before the first frame; from here also to the first symbol
        begins: list[tuple[int, _Scores]] = []
        for at in range(0, frames, BLOCK):
            moved = self._moved(low, scores, frames - at)
            # So that sums stay small, and float32 exact enough.
            scores, low = _shifted(scores - scores.max(), moved - low), moved
            begins.append((low, scores))
            for frame in range(at, min(at + BLOCK, frames)):
                scores = self._step(scores, low, frame)[0]
        ends = [one for one in (last, last - 1) if low <= one < low + self._width]
        state = max(ends, key=lambda one: scores[one - low], default=-1)
        if state < 0 or not np.isfinite(scores[state - low]):
            raise TextDoesNotFit(
                "the text cannot be followed to its end", do="Give the text of this recording"
            )
        return self._traced(begins, state)

    def _moved(self, low: int, scores: _Scores, left: int) -> int:
        """Where the band begins now: around the best state, and so that the end can be reached."""
        centred = low + int(np.argmax(scores)) - self._width // 2
        needed = len(self._labels) - self._width - 2 * max(0, left - BLOCK)
        most = len(self._labels) - self._width
        return min(max(low, centred, needed), most)

    def _step(self, scores: _Scores, low: int, frame: int) -> tuple[_Scores, NDArray[np.uint8]]:
        """The scores after a frame, and how many states each came on: 0 to 4."""
        high = low + self._width
        best = scores.copy()
        steps = np.zeros(self._width, dtype=np.uint8)
        better = scores[:-1] > best[1:]
        np.copyto(best[1:], scores[:-1], where=better)
        steps[1:][better] = 1
        for count, allowed in self._jumps:
            better = (scores[:-count] > best[count:]) & allowed[low + count : high]
            np.copyto(best[count:], scores[:-count], where=better)
            steps[count:][better] = count
        return best + self._emissions[frame, self._labels[low:high]], steps

    def _traced(self, begins: list[tuple[int, _Scores]], state: int) -> NDArray[np.int64]:
        frames = len(self._emissions)
        path = np.zeros(frames, dtype=np.int64)
        for number in range(len(begins) - 1, -1, -1):
            low, scores = begins[number]
            at = number * BLOCK
            origins = []
            for frame in range(at, min(at + BLOCK, frames)):
                scores, steps = self._step(scores, low, frame)
                origins.append(steps)
            for frame in range(at + len(origins) - 1, at - 1, -1):
                path[frame] = state
                state -= int(origins[frame - at][state - low])
        return path


def _shifted(scores: _Scores, by: int) -> _Scores:
    if by == 0:
        return scores
    moved = np.full_like(scores, -np.inf)
    moved[: len(scores) - by] = scores[by:]
    return moved
