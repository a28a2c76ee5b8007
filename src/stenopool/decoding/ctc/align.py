"""A given text and its recording: when each word is spoken, and how well it fits what is heard.

The recording is heard in windows; what is kept of it are its emissions: 32 symbols, 50 frames a
second and an hour are 23 MB.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from stenopool import engines
from stenopool.audio import SAMPLE_RATE, Samples, regrouped
from stenopool.decoding.ctc.alphabet import Alphabet
from stenopool.decoding.ctc.path import SpokenWord
from stenopool.decoding.ctc.viterbi import aligned
from stenopool.engines.ctc import CtcEngine, Emissions
from stenopool.errors import UsageError

OWN_SECONDS = 20.0  # of a window that is heard; its neighbours' sound is only context
CONTEXT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class AlignedWord:
    """A word of the text.

    Attributes:
        text: as it was given.
        start, end: seconds in the sound.
        probability: geometric mean of its symbols', in [0, 1]; 0 where it has none that the model
            knows, and its times lie evenly between those of its neighbours.
    """

    text: str
    start: float
    end: float
    probability: float


class Aligner:
    """One CTC model that follows texts. Safe to use from several threads."""

    def __init__(self, engine: CtcEngine, alphabet: Alphabet) -> None:
        self.engine = engine
        self.alphabet = alphabet

    @classmethod
    def load(cls, folder: Path, choice: engines.Choice) -> Self:
        """The model in a folder.

        Raises:
            EngineMissing, EngineFailed, ModelDamaged: by name.
        """
        engine = engines.load_ctc(folder, choice)
        return cls(engine, Alphabet.read(folder, engine.symbols, engine.blank))

    def emissions(self, blocks: Iterable[Samples]) -> Emissions:
        """Of contiguous sound of any length, heard window by window."""
        found: list[Emissions] = []
        batch: list[tuple[Samples, int, int]] = []
        for window in _windows(blocks, self.engine.stride):
            batch.append(window)
            if len(batch) == self.engine.batch_size:
                found += self._own(batch)
                batch = []
        found += self._own(batch)
        return np.concatenate([np.zeros((0, self.engine.symbols), np.float32), *found])

    def _own(self, batch: Sequence[tuple[Samples, int, int]]) -> Iterator[Emissions]:
        heard = self.engine.emissions([samples for samples, _, _ in batch])
        for emissions, (_, first, count) in zip(heard, batch, strict=True):
            yield emissions[first : first + count]

    def words(self, emissions: Emissions, words: Sequence[str]) -> list[AlignedWord]:
        """When each word is spoken.

        Args:
            emissions: of the sound.
            words: in order; white space around them is kept, and counts for nothing.

        Raises:
            UsageError: no word has a character that the model knows.
            TextDoesNotFit: they are more than the sound can hold.
        """
        spelled = [self.alphabet.spelled(word.strip()) for word in words]
        if not any(spelled):
            raise UsageError(
                "the model knows no character of the text",
                do="Give a text in the language and the script of the model",
            )
        delimiter = self.alphabet.delimiter
        symbols: list[int] = []
        borders: list[tuple[int, int]] = []
        for word in spelled:
            if word and symbols and delimiter is not None:
                symbols.append(delimiter)
            borders.append((len(symbols), len(symbols) + len(word)))
            symbols += word
        spoken = aligned(emissions, symbols, self.alphabet.blank, optional=delimiter)
        placed = [
            SpokenWord(tuple(spoken[first:after])) if after > first else None
            for first, after in borders
        ]
        total = len(emissions)
        return list(_in_seconds(words, placed, self.engine.stride / SAMPLE_RATE, total))


def _windows(blocks: Iterable[Samples], stride: int) -> Iterator[tuple[Samples, int, int]]:
    """Windows with context, the first of their own frames, and how many those are."""
    own = round(OWN_SECONDS * SAMPLE_RATE) // stride * stride
    context = round(CONTEXT_SECONDS * SAMPLE_RATE) // stride * stride
    held: Samples = np.zeros(0, dtype=np.float32)
    before = 0  # samples of `held` that are context
    for block in regrouped(blocks, own):
        held = np.concatenate([held, block])
        while len(held) >= before + own + context:
            yield held[: before + own + context], before // stride, own // stride
            kept = before + own - context if before + own > context else 0
            held, before = held[kept:], before + own - kept
    while len(held) > before:
        length = min(len(held), before + own + context)
        last = length == len(held)
        count = len(held) if last and length <= before + own else own // stride
        yield held[:length], before // stride, count
        kept = max(0, before + own - context)
        held, before = held[kept:], before + own - kept


def _in_seconds(
    words: Sequence[str], placed: Sequence[SpokenWord | None], step: float, frames: int
) -> Iterator[AlignedWord]:
    """Words that have no symbols share what lies between their neighbours evenly."""
    number = 0
    end = 0.0
    while number < len(words):
        found = placed[number]
        if found is not None:
            end = found.after * step
            yield AlignedWord(words[number], found.first * step, end, found.probability)
            number += 1
            continue
        after = number
        while after < len(words) and placed[after] is None:
            after += 1
        following = placed[after] if after < len(words) else None
        until = following.first * step if following is not None else frames * step
        times = np.linspace(end, max(end, until), after - number + 1).tolist()
        for word, first, last in zip(words[number:after], times, times[1:], strict=False):
            yield AlignedWord(word, first, last, 0.0)
        number = after
