"""Word times: from token alignments to words that lie where speech was heard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from stenopool.audio import SAMPLE_RATE
from stenopool.audio.windows import Window
from stenopool.engines.base import Alignment
from stenopool.transcript import Word

SHORTEST_WORD = 0.02  # seconds: one position of the encoder
LEAD = 0.05  # seconds before speech is heard: a cut at a word's start must not clip its consonant
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


def placed_words(words: Sequence[tuple[str, int]], alignment: Alignment) -> list[PlacedWord]:
    """Words with times in the window, none longer than anybody speaks it.

    Where the model passed over speech, the word before it is aligned to all of that speech, at the
    beginning of a window the word after it; so a word ends where the next one starts only where
    that is plausible.

    Args:
        words: text and number of tokens of each word, as `Vocabulary.words` gives them.
        alignment: of the same tokens.
    """
    placed = []
    borders = [0, *accumulate(count for _, count in words)]
    for (text, _), first, after in zip(words, borders, borders[1:], strict=False):
        start, end = float(alignment.starts[first]), float(alignment.starts[after])
        if first == 0 < len(words) - 1:
            start = max(start, end - _longest(text))
        end = min(end, start + _longest(text))
        probability = float(alignment.probabilities[first:after].mean())
        placed.append(PlacedWord(text, start, end, probability))
    return placed


def _longest(text: str) -> float:
    bare = text.strip()
    digits = sum(character.isdigit() for character in bare)
    return SLOW_WORD + SLOW_LETTER * (len(bare) - digits) + SLOW_DIGIT * digits


def timed_words(words: Sequence[PlacedWord], window: Window) -> tuple[Word, ...]:
    """Words with times in the recording, in order, none ending before it starts or overlapping."""
    timed: list[Word] = []
    earliest = 0.0
    for word in words:
        start, end = _in_speech(word.start, word.end, window)
        start = max(start, earliest)
        earliest = max(end, start)
        timed.append(Word(word.text, start, earliest, word.probability))
    return tuple(timed)


def _in_speech(start: float, end: float, window: Window) -> tuple[float, float]:
    """A word's time in the recording, drawn into the speech that it overlaps most.

    Cross-attention places borders next to a pause anywhere inside the pause; voice activity knows
    better where sound begins and ends.
    """
    first, after = start * SAMPLE_RATE, end * SAMPLE_RATE
    best, most = 0, float("-inf")
    for index, (piece, offset) in enumerate(zip(window.pieces, window.offsets, strict=False)):
        voice_from = offset + piece.voice_start - piece.start
        overlap = min(after, voice_from + piece.voiced) - max(first, voice_from)
        if overlap > most:
            best, most = index, overlap
    piece, offset = window.pieces[best], window.offsets[best]
    low = max(piece.start, piece.voice_start - LEAD * SAMPLE_RATE)
    high = piece.voice_end
    begin = min(max(piece.start + first - offset, low), high - SHORTEST_WORD * SAMPLE_RATE)
    finish = min(max(piece.start + after - offset, begin + SHORTEST_WORD * SAMPLE_RATE), high)
    return max(begin, low) / SAMPLE_RATE, max(finish, low) / SAMPLE_RATE
