"""The chunked algorithm: overlapping windows, decoded in batches, joined where their words agree.

After "chunked long-form" of Distil-Whisper (Gandhi et al. 2023, section 3.3), for models trained on
windows shorter than 30 s. The joint is found by words and their times, not by tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from difflib import SequenceMatcher

from stenopool.audio import SAMPLE_RATE
from stenopool.audio.windows import Piece, Window, joined
from stenopool.decoding.options import Options
from stenopool.decoding.readings import Reading, whole
from stenopool.transcript import Word

OVERLAP = 1 / 3  # of a window that it has in common with the next one
PUNCTUATION = ".,;:!?\"'()[]-–—…"


def chunk_samples(options: Options) -> int:
    """Length of a window in samples."""
    return round((options.chunk_seconds or 0) * SAMPLE_RATE)


def without_overlaps(read: Iterable[Sequence[Reading]]) -> Iterator[Reading]:
    """The readings of overlapping windows, in order, as one reading a window without overlaps."""
    held: Reading | None = None
    for readings in read:
        if held is None:
            held = whole(readings)
            continue
        first, held = parted(held, whole(readings))
        yield first
    if held is not None:
        yield held


def overlapping(pieces: Iterable[Piece], length: int) -> Iterator[Window]:
    """Windows of `length` samples (the last one shorter), each beginning in the one before."""
    step = (length - round(length * OVERLAP)) / SAMPLE_RATE
    window: Window | None = None
    for piece in pieces:
        window = joined(window, piece)
        while window is not None and window.length > length:
            yield window.up_to(length)
            window = window.from_time(step)
    if window is not None:
        yield window


def parted(left: Reading, right: Reading) -> tuple[Reading, Reading]:
    """The same readings, with the words that both have kept in one only."""
    left = _credited(left, right)
    if not left.words or not right.words or right.words[0].start >= left.words[-1].end:
        return left, right
    keep, skip = _joint(left.words, right.words)
    return replace(left, words=left.words[:keep]), replace(right, words=right.words[skip:])


def _credited(left: Reading, right: Reading) -> Reading:
    """The left one, without counting as dropped what it left out at its end and the right has."""
    if not right.words:
        return left
    since = max(left.words[-1].end if left.words else 0.0, right.words[0].start)
    heard = max(0.0, min(left.end, right.words[-1].end) - since)
    return replace(left, dropped_seconds=max(0.0, left.dropped_seconds - heard))


def _joint(left: tuple[Word, ...], right: tuple[Word, ...]) -> tuple[int, int]:
    """How many words to keep of the left, how many to leave out of the right."""
    since, until = max(left[0].start, right[0].start), min(left[-1].end, right[-1].end)
    first = sum(1 for word in left if word.end <= since)
    last = sum(1 for word in right if word.start < until)
    ours, theirs = left[first:], right[:last]
    match = SequenceMatcher(None, _plain(ours), _plain(theirs), autojunk=False).find_longest_match()
    if match.size:
        middle = match.size // 2
        return first + match.a + middle, match.b + middle
    border = (since + until) / 2
    return (
        first + sum(1 for word in ours if (word.start + word.end) / 2 < border),
        sum(1 for word in theirs if (word.start + word.end) / 2 < border),
    )


def _plain(words: tuple[Word, ...]) -> list[str]:
    return [word.word.strip().strip(PUNCTUATION).lower() for word in words]
