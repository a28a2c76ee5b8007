"""Which symbol is spoken when: the best path through the emissions, and words out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stenopool.decoding.ctc.alphabet import Alphabet
from stenopool.engines.ctc import Emissions


@dataclass(frozen=True, slots=True)
class Spoken:
    """A symbol in time.

    Attributes:
        symbol: its id.
        first, after: frames from the first to behind the last one that it takes.
        logprob: in its surest frame.
    """

    symbol: int
    first: int
    after: int
    logprob: float


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """A word in time: its symbols, of which it has at least one."""

    symbols: tuple[Spoken, ...]

    @property
    def first(self) -> int:
        return self.symbols[0].first

    @property
    def after(self) -> int:
        return self.symbols[-1].after

    @property
    def probability(self) -> float:
        """Geometric mean of its symbols' probabilities, in [0, 1]."""
        return float(np.exp(np.mean([one.logprob for one in self.symbols])))


def best_path(emissions: Emissions, blank: int) -> list[Spoken]:
    """The symbols of the most probable path: greedy decoding (Graves et al. 2006, section 3.2)."""
    if not len(emissions):
        return []
    return runs(emissions, emissions.argmax(axis=1).tolist(), blank)


def runs(emissions: Emissions, path: Sequence[int], blank: int) -> list[Spoken]:
    """The symbols of a path: equal neighbours are one, blanks are none."""
    found: list[Spoken] = []
    begin = 0
    for end in range(1, len(path) + 1):
        if end < len(path) and path[end] == path[begin]:
            continue
        symbol = path[begin]
        if symbol != blank:
            surest = float(emissions[begin:end, symbol].max())
            found.append(Spoken(symbol, begin, end, surest))
        begin = end
    return found


def words_of(spoken: Sequence[Spoken], alphabet: Alphabet) -> list[SpokenWord]:
    """Words, parted by the delimiter; without one in the alphabet, each symbol is a word."""
    words: list[list[Spoken]] = [[]]
    for one in spoken:
        if one.symbol == alphabet.delimiter or (alphabet.delimiter is None and words[-1]):
            words.append([])
        if alphabet.symbols[one.symbol]:
            words[-1].append(one)
    return [SpokenWord(tuple(word)) for word in words if word]


def no_speech_probability(emissions: Emissions, alphabet: Alphabet) -> float:
    """The probability that nothing is written, in the frame where that is least probable."""
    if not len(emissions):
        return 1.0
    written = [number for number, symbol in enumerate(alphabet.symbols) if symbol]
    something = np.exp(emissions[:, written]).sum(axis=1)
    return float(np.clip(1.0 - something.max(), 0.0, 1.0))
