"""Word times: from token alignments to words that lie where speech was heard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from stenopool.audio import SAMPLE_RATE
from stenopool.audio.windows import Piece, Window
from stenopool.transcript import Word

SHORTEST_WORD = 0.02  # seconds: one position of the encoder
LEAD = 0.05  # seconds before speech is heard: a cut at a word's start must not clip its consonant
ONSET_REACH = 0.4  # seconds of speech before a first word that are its own
SLOW_WORD = 1.0  # seconds that any word may take, and more by its length
SLOW_LETTER = 0.1
SLOW_DIGIT = 0.5  # `1945` is four words


@dataclass(frozen=True, slots=True)
class PlacedWord:
    """A word with its times in seconds of its window."""

    text: str
    start: float
    end: float
    probability: float


def placed_words(
    words: Sequence[tuple[str, int]],
    starts: NDArray[np.float64],
    probabilities: NDArray[np.float64],
) -> list[PlacedWord]:
    """Words with times in the window, none longer than anybody speaks it.

    Where the model passed over speech, the word before it is aligned to all of that speech, at the
    beginning of a window the word after it; so a word ends where the next one starts only where
    that is plausible.

    Args:
        words: text and number of tokens of each word, as `Vocabulary.words` gives them.
        starts: of the same tokens, and the end of the last one; see `engines.base.Alignment`.
        probabilities: of the same tokens.
    """
    placed = []
    borders = [0, *accumulate(count for _, count in words)]
    for (text, _), first, after in zip(words, borders, borders[1:], strict=False):
        start, end = float(starts[first]), float(starts[after])
        if first == 0 < len(words) - 1:
            start = max(start, end - _longest(text))
        end = min(end, start + _longest(text))
        probability = float(probabilities[first:after].mean())
        placed.append(PlacedWord(text, start, end, probability))
    return placed


def _longest(text: str) -> float:
    bare = text.strip()
    digits = sum(character.isdigit() for character in bare)
    return SLOW_WORD + SLOW_LETTER * (len(bare) - digits) + SLOW_DIGIT * digits


def timed_words(words: Sequence[PlacedWord], window: Window) -> tuple[Word, ...]:
    """Words with times in the recording, in order, none ending before it starts or overlapping.

    Cross-attention places borders next to a pause anywhere inside the pause; voice activity knows
    better where sound begins and ends. So each word is drawn into the speech that it overlaps most,
    and the first word of a stretch of speech begins with it.
    """
    timed: list[Word] = []
    earliest = 0.0
    before = -1  # index of the stretch that the word before is in
    for word in words:
        index = _most_overlapped(word, window)
        start, end = _drawn_into(word, window.pieces[index], window.offsets[index])
        if index != before:
            start = _with_onset(start, window.pieces[index])
        start = max(start, earliest)
        earliest = max(end, start)
        before = index
        timed.append(Word(word.text, start, earliest, word.probability))
    return tuple(timed)


def _most_overlapped(word: PlacedWord, window: Window) -> int:
    """Index of the piece whose speech the word overlaps most, or comes nearest to."""
    first, after = word.start * SAMPLE_RATE, word.end * SAMPLE_RATE
    overlaps = []
    for piece, offset in zip(window.pieces, window.offsets, strict=False):
        voice_from = offset + piece.voice_start - piece.start
        overlaps.append(min(after, voice_from + piece.voiced) - max(first, voice_from))
    return overlaps.index(max(overlaps))


def _drawn_into(word: PlacedWord, piece: Piece, offset: int) -> tuple[float, float]:
    """Seconds in the recording, inside a piece's speech."""
    low, high = _onset(piece), piece.voice_end
    shift = piece.start - offset
    shortest = SHORTEST_WORD * SAMPLE_RATE
    begin = min(max(word.start * SAMPLE_RATE + shift, low), high - shortest)
    finish = min(max(word.end * SAMPLE_RATE + shift, begin + shortest), high)
    return max(begin, low) / SAMPLE_RATE, max(finish, low) / SAMPLE_RATE


def _with_onset(start: float, piece: Piece) -> float:
    """The onset of a piece's speech, if a word begins little later: whose else would it be?"""
    onset = _onset(piece) / SAMPLE_RATE
    return onset if start - onset <= ONSET_REACH else start


def _onset(piece: Piece) -> float:
    """Sample at which the first word of a piece may begin."""
    return max(piece.start, piece.voice_start - LEAD * SAMPLE_RATE)
