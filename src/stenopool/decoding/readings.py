"""What decoding makes of windows: words with times, and figures that say how far to trust them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from stenopool.decoding.quality import Figures
from stenopool.transcript import Word


@dataclass(frozen=True, slots=True)
class Reading:
    """The words of one stretch of a recording.

    Attributes:
        words: in order, with times in the recording; none where nothing was understood.
        figures: of the decoding that gave the words.
        dropped_seconds: speech in this stretch for which there are no words.
        end: seconds in the recording up to which the stretch reaches.
    """

    words: tuple[Word, ...]
    figures: Figures
    dropped_seconds: float
    end: float


def whole(readings: Sequence[Reading]) -> Reading:
    """The readings of one window as one: the figures of the most doubtful, the flags of all."""
    figures = min((one.figures for one in readings), key=lambda one: one.avg_logprob)
    flags = dict.fromkeys(flag for one in readings for flag in one.figures.flags)
    return Reading(
        words=tuple(word for reading in readings for word in reading.words),
        figures=replace(figures, flags=tuple(flags)),
        dropped_seconds=sum(reading.dropped_seconds for reading in readings),
        end=readings[-1].end,
    )


def in_order(readings: Iterable[Reading]) -> Iterator[Reading]:
    """The same readings, no word beginning before the one before it has ended.

    Inside a reading that is so already; where two windows meet, both may claim a few milliseconds.
    """
    floor = 0.0
    for reading in readings:
        words = tuple(following(reading.words, floor))
        floor = words[-1].end if words else floor
        yield replace(reading, words=words)


def following(words: Iterable[Word], floor: float = 0.0) -> Iterator[Word]:
    """The same words, none beginning before a time or before the one before it has ended."""
    for word in words:
        start = max(word.start, floor)
        floor = max(word.end, start)
        yield replace(word, start=start, end=floor)
