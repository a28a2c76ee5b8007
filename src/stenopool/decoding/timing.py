"""Word times: from token alignments to words that lie where speech was heard."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from stenopool.audio import SAMPLE_RATE
from stenopool.audio.windows import Window
from stenopool.engines.base import Alignment
from stenopool.transcript import Word

SHORTEST_WORD = 0.02  # seconds: one position of the encoder


def timed_words(
    words: Sequence[tuple[str, int]], alignment: Alignment, window: Window
) -> tuple[Word, ...]:
    """Words with times in the recording.

    Args:
        words: text and number of tokens of each word, as `Vocabulary.words` gives them.
        alignment: of the same tokens, in seconds of the window.
        window: knows where its speech stands in the recording.

    Returns:
        In order; each ends after it starts and no later than the next one starts.
    """
    timed: list[Word] = []
    earliest = 0.0
    borders = [0, *accumulate(count for _, count in words)]
    for (text, _), first, after in zip(words, borders, borders[1:], strict=False):
        start, end = _in_speech(
            float(alignment.starts[first]), float(alignment.starts[after]), window
        )
        start = max(start, earliest)
        end = max(end, start)
        probability = float(alignment.probabilities[first:after].mean())
        timed.append(Word(text, start, end, probability))
        earliest = end
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
    low, high = piece.voice_start, piece.voice_end
    begin = min(max(piece.start + first - offset, low), high - SHORTEST_WORD * SAMPLE_RATE)
    finish = min(max(piece.start + after - offset, begin + SHORTEST_WORD * SAMPLE_RATE), high)
    return max(begin, low) / SAMPLE_RATE, max(finish, low) / SAMPLE_RATE
