"""Whisper's word times, found again by a CTC model where one is configured (`STENO_ALIGNER`).

Cross-attention knows roughly when a word was said; a model that says something for each 20 ms knows
it better. What it cannot follow (digits, words of another script, what nobody said) keeps its time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from math import inf
from pathlib import Path

from stenopool import engines
from stenopool.audio.windows import Window
from stenopool.decoding.batching import Reader
from stenopool.decoding.ctc.align import AlignedWord, Aligner
from stenopool.decoding.readings import Reading, following
from stenopool.decoding.timing import PlacedWord, timed_words
from stenopool.engines.ctc import Emissions
from stenopool.errors import TextDoesNotFit, UsageError
from stenopool.models import Store
from stenopool.settings import settings
from stenopool.transcript import Word

LEAST_PROBABILITY = 0.05  # of a word's symbols, for its new time to be believed
FARTHEST_SECONDS = 2.0  # that a word may move


def configured() -> Aligner | None:
    """The aligner of the settings.

    Raises:
        EngineMissing, ModelError, UsageError: it cannot be loaded.
    """
    folder = settings().aligner
    return _loaded(Path(folder).expanduser()) if folder else None


@cache
def _loaded(folder: Path) -> Aligner:
    model = Store().resolve(folder)
    if model.kind != "ctc":
        raise UsageError(
            f"`STENO_ALIGNER` is `{folder}`, which is no CTC model",
            do="Name the folder of a wav2vec 2.0 model with a CTC head, or unset it",
        )
    return Aligner.load(model.folder, engines.choose("openvino"))


class Refined:
    """Reads like another reader, with better times."""

    def __init__(self, reader: Reader, aligner: Aligner) -> None:
        self._reader = reader
        self._aligner = aligner

    @property
    def batch_size(self) -> int:
        return self._reader.batch_size

    def read(self, windows: list[Window]) -> list[list[Reading]]:
        found = self._reader.read(windows)
        heard = self._aligner.engine.emissions([window.samples for window in windows])
        return [list(self._refined(*each)) for each in zip(found, windows, heard, strict=True)]

    def _refined(
        self, readings: Sequence[Reading], window: Window, emissions: Emissions
    ) -> Iterator[Reading]:
        words = [word for reading in readings for word in reading.words]
        better = iter(self._timed(words, window, emissions))
        for reading in readings:
            yield replace(reading, words=tuple(next(better) for _ in reading.words))

    def _timed(self, words: Sequence[Word], window: Window, emissions: Emissions) -> list[Word]:
        try:
            aligned = self._aligner.words(emissions, [word.word for word in words])
        except (TextDoesNotFit, UsageError):  # it is not the user who gave this text
            return list(words)
        placed = [PlacedWord(one.text, one.start, one.end, one.probability) for one in aligned]
        timed = timed_words(placed, window)
        better = [_believed(*each) for each in zip(words, timed, aligned, strict=True)]
        return list(following(_between(words, better)))


def _believed(before: Word, found: Word, aligned: AlignedWord) -> Word | None:
    """A word with its new time, if that can be right."""
    far = max(abs(found.start - before.start), abs(found.end - before.end))
    if aligned.probability < LEAST_PROBABILITY or far > FARTHEST_SECONDS:
        return None
    return replace(before, start=found.start, end=found.end)


def _between(words: Sequence[Word], better: Sequence[Word | None]) -> Iterator[Word]:
    """The better ones; others keep their time as far as a better one does not need it."""
    ceilings: list[float] = []
    ceiling = inf
    for one in reversed(better):
        ceilings.insert(0, ceiling)
        ceiling = one.start if one else ceiling
    for word, found, ceiling in zip(words, better, ceilings, strict=True):
        end = min(word.end, ceiling)
        yield found or replace(word, start=min(word.start, end), end=end)
