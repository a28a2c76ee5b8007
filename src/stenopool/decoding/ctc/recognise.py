"""Windows in, readings out, with a CTC model. See `batching.Reader`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from stenopool.audio import SAMPLE_RATE
from stenopool.audio.windows import Piece, Window
from stenopool.decoding.ctc.alphabet import Alphabet
from stenopool.decoding.ctc.context import own_end, own_start
from stenopool.decoding.ctc.hotwords import HotWords
from stenopool.decoding.ctc.options import GREEDY
from stenopool.decoding.ctc.path import (
    Spoken,
    SpokenWord,
    best_path,
    no_speech_probability,
    words_of,
)
from stenopool.decoding.ctc.scorer import Scorer
from stenopool.decoding.ctc.search import BeamSearch
from stenopool.decoding.ctc.viterbi import aligned
from stenopool.decoding.family import Candidate
from stenopool.decoding.options import Options
from stenopool.decoding.quality import judge
from stenopool.decoding.readings import Reading
from stenopool.decoding.recognise import UNHEARD_SECONDS
from stenopool.engines.base import Hypothesis
from stenopool.engines.ctc import CtcEngine, Emissions
from stenopool.transcript import Word


@dataclass(frozen=True)
class CtcModel:
    """A model with all that decoding needs of it."""

    engine: CtcEngine
    alphabet: Alphabet
    scorer: Scorer | None


class CtcRecogniser:
    """One model with the options of one transcription. Safe to use from `engine.workers` threads.

    Each piece of a window is read on its own, as the utterances were that the model has learnt.

    Args:
        options: resolved for the model.
    """

    def __init__(self, model: CtcModel, options: Options) -> None:
        self.options = options
        self._model = model
        hot = HotWords.of(options.hotwords, model.alphabet)
        self._search = (
            BeamSearch(
                model.alphabet,
                beam_size=options.beam_size or GREEDY,
                scorer=model.scorer,
                hot=hot,
            )
            if options.beam_size != GREEDY
            else None
        )

    @property
    def batch_size(self) -> int:
        """Windows that are read together, at most."""
        return self.options.batch_size or 1

    def read(self, windows: Sequence[Window]) -> list[list[Reading]]:
        """The readings of each window of a batch, one a piece."""
        pieces = [piece for window in windows for piece in window.pieces]
        emissions = self._model.engine.emissions([piece.samples for piece in pieces])
        readings = iter([self._reading(*pair) for pair in zip(pieces, emissions, strict=True)])
        return [[next(readings) for _ in window.pieces] for window in windows]

    def candidates(self, window: Window, most: int) -> list[list[Candidate]]:
        """For each piece the texts that may have been said in it, the best first.

        Without a search there is one: what the best path says.
        """
        emissions = self._model.engine.emissions([piece.samples for piece in window.pieces])
        if self._search is not None:
            return [self._search.candidates(one, most) for one in emissions]
        return [[self._greedy(one)] for one in emissions]

    def _greedy(self, emissions: Emissions) -> Candidate:
        alphabet = self._model.alphabet
        words = words_of(best_path(emissions, alphabet.blank), alphabet)
        symbols = [[one.symbol for one in word.symbols] for word in words]
        between = [] if alphabet.delimiter is None else [alphabet.delimiter]
        joined: list[int] = []
        for word in symbols:
            joined += [*(between if joined else ()), *word]
        chance = float(emissions.max(axis=1).sum()) if len(emissions) else 0.0
        text = (" " if between else "").join(map(alphabet.text, symbols))
        return Candidate(tuple(joined), text, chance, chance)

    def _spoken(self, emissions: Emissions) -> list[Spoken]:
        blank = self._model.alphabet.blank
        if self._search is None or not len(emissions):
            return best_path(emissions, blank)  # the best path is the best alignment of its text
        best = self._search.candidates(emissions)[0]
        return aligned(emissions, best.symbols, blank)

    def _reading(self, piece: Piece, emissions: Emissions) -> Reading:
        alphabet = self._model.alphabet
        found = words_of(self._spoken(emissions), alphabet)
        own = [word for word in found if self._is_own(word, piece)]
        words = tuple(self._placed(own, piece))
        speech = piece.voiced / SAMPLE_RATE
        logprobs = [one.logprob for word in own for one in word.symbols]
        hypothesis = Hypothesis(
            tokens=(),
            avg_logprob=float(np.mean(logprobs)) if logprobs else 0.0,
            no_speech_prob=no_speech_probability(emissions, alphabet),
        )
        text = "".join(word.word for word in words).strip()
        figures = judge(hypothesis, text, speech, self.options)
        return Reading(words, figures, _dropped(words, piece), own_end(piece) / SAMPLE_RATE)

    def _is_own(self, word: SpokenWord, piece: Piece) -> bool:
        middle = piece.start + (word.first + word.after) * self._model.engine.stride // 2
        return own_start(piece) <= middle < own_end(piece)

    def _placed(self, words: Sequence[SpokenWord], piece: Piece) -> Iterator[Word]:
        """Words with times in the recording."""
        alphabet, stride = self._model.alphabet, self._model.engine.stride
        space = "" if alphabet.delimiter is None else " "
        for word in words:
            text = alphabet.text([one.symbol for one in word.symbols])
            start = (piece.start + word.first * stride) / SAMPLE_RATE
            end = min(piece.start + word.after * stride, piece.end) / SAMPLE_RATE
            yield Word(space + text, start, max(start, end), word.probability)


def _dropped(words: Sequence[Word], piece: Piece) -> float:
    """Seconds of a piece's speech in stretches that no word comes near."""
    start, end = piece.voice_start / SAMPLE_RATE, piece.voice_end / SAMPLE_RATE
    if not words:
        return end - start
    borders = [start, *(time for word in words for time in (word.start, word.end)), end]
    holes = [after - before for before, after in list(pairwise(borders))[::2]]
    return sum(hole for hole in holes if hole >= UNHEARD_SECONDS)
