"""Readable subtitles: at most two lines of 42 columns and seven seconds, cut where speech pauses.

The cuts of a segment are chosen together, as a paragraph's line breaks are in Knuth and Plass,
"Breaking Paragraphs into Lines" (1981), so that no cue is left with a single stray word. Times
are whole milliseconds from the first step on: an order once made cannot be undone by rounding.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from math import inf

from rich.cells import cell_len

from stenopool.transcript import Segment, Transcript
from stenopool.writers.breaks import LINE_COLUMNS, SENTENCE, Unit, cut_cost, join, units
from stenopool.writers.plain import milliseconds, one_line

CUE_COLUMNS = 2 * LINE_COLUMNS
CUE_LONGEST = 7_000  # ms; longer ones are read twice
CUE_SHORTEST = 800  # ms; shorter ones flash

_STRAY_COST = 5.0  # more than any cut
_STRAY_COLUMNS = 8
_BALANCE_COST = 2.5  # of two lines, the one full and the other empty

_Span = tuple[int, int]  # ms, from and to


@dataclass(frozen=True, slots=True)
class Cue:
    """One subtitle: `0 <= start_ms < end_ms`, and one or two lines, not escaped for any format."""

    start_ms: int
    end_ms: int
    text: str


def cues(transcript: Transcript) -> list[Cue]:
    """The subtitles of a transcript, in the order of its text, none overlapping the next.

    A segment too short to be read borrows from the silence after it; two that claim the same time
    share it.

    Raises:
        ValueError: a time is not finite.
    """
    spoken = [segment for segment in transcript.segments if one_line(segment.text)]
    made: list[Cue] = []
    for segment, following in zip(spoken, [*spoken[1:], None], strict=False):
        free_from = made[-1].end_ms if made else 0
        made += _segment_cues(segment, _window(segment, following, free_from))
    return made


def _window(segment: Segment, following: Segment | None, free_from: int) -> _Span:
    """When a segment may show its text."""
    start = max(milliseconds(segment.start), free_from)
    needed = CUE_SHORTEST * -(-cell_len(one_line(segment.text)) // CUE_COLUMNS)
    end = max(milliseconds(segment.end), start + needed)
    if following is None:
        return start, end
    border = milliseconds(following.start)
    if border > start:
        return start, min(end, border)
    shared = milliseconds(following.end) > start
    return start, (start + end) // 2 if shared else end


def _segment_cues(segment: Segment, window: _Span) -> list[Cue]:
    text = one_line(segment.text)
    parts = units(text)
    times = _unit_times(parts, _character_times(segment, text, window))
    runs = _cut(parts, times)
    spans = _spread([(times[first][0], times[after - 1][1]) for first, after in runs], window)
    return [
        Cue(start, end, _lines(parts[first:after]))
        for (start, end), (first, after) in zip(spans, runs, strict=True)
    ]


def _character_times(segment: Segment, text: str, window: _Span) -> list[_Span]:
    """When each character but the spaces is spoken.

    Words are believed where they spell the text. Else the text is spread evenly, but no slower
    than one full line in the longest cue: a long segment of little text ends in silence.
    """
    pieces = [one_line(word.word).replace(" ", "") for word in segment.words]
    solid = text.replace(" ", "")
    if "".join(pieces) != solid:
        slowest = max(CUE_LONGEST, CUE_LONGEST * cell_len(text) // LINE_COLUMNS)
        return _evenly((window[0], min(window[1], window[0] + slowest)), len(solid))

    def placed(seconds: float) -> int:
        return min(max(milliseconds(seconds), window[0]), window[1])

    starts = [*accumulate((placed(word.start) for word in segment.words), max), window[1]]
    spans = [
        (start, min(max(placed(word.end), start), border))
        for word, (start, border) in zip(segment.words, pairwise(starts), strict=True)
    ]
    return list(chain.from_iterable(map(_evenly, spans, map(len, pieces))))


def _evenly(span: _Span, count: int) -> list[_Span]:
    start, end = span
    edges = [start + (end - start) * done // count for done in range(count + 1)] if count else []
    return list(pairwise(edges))


def _unit_times(parts: Sequence[Unit], characters: Sequence[_Span]) -> list[_Span]:
    lengths = (len(part.text.replace(" ", "")) for part in parts)
    edges = accumulate(lengths, initial=0)
    return [(characters[first][0], characters[after - 1][1]) for first, after in pairwise(edges)]


def _cut(parts: Sequence[Unit], times: Sequence[_Span]) -> list[_Span]:
    """The best cues: for each the position of its first unit, and that after its last."""
    count = len(parts)
    edges = _edges(parts)
    line_ends = [
        bisect_right(edges, edges[first] + part.spaced + LINE_COLUMNS) - 1
        for first, part in enumerate(parts)
    ] + [count]
    cuts = [cut_cost(*pair) for pair in pairwise(parts)] + [SENTENCE]  # after each unit
    costs = [0.0] + [inf] * count  # of all up to a position
    origins = [0] * (count + 1)  # where the last cue of these begins
    for first, part in enumerate(parts):
        for after in range(first + 1, line_ends[line_ends[first]] + 1):
            alone = after == first + 1
            if not alone and times[after - 1][1] - times[first][0] > CUE_LONGEST:
                break
            width = edges[after] - edges[first] - part.spaced
            # Squares make two halves cheaper than a long and a short cue.
            cost = costs[first] + cuts[after - 1] + (1 - width / CUE_COLUMNS) ** 2 / 2
            is_sentence = SENTENCE == cuts[after - 1] == (cuts[first - 1] if first else SENTENCE)
            if (alone or width <= _STRAY_COLUMNS) and not is_sentence:
                cost += _STRAY_COST
            if cost < costs[after]:
                costs[after], origins[after] = cost, first
    bounds = [count]
    while bounds[-1]:
        bounds.append(origins[bounds[-1]])
    return list(pairwise(reversed(bounds)))


def _edges(parts: Sequence[Unit]) -> list[int]:
    """The columns before each unit, and at last those of all, were the text one line."""
    return list(accumulate((part.spaced + part.columns for part in parts), initial=0))


def _spread(spans: Sequence[_Span], window: _Span) -> list[_Span]:
    """Cues of one segment, moved as little as gives each the shortest time that one can read.

    Where the window is too small for that, all get the same least share of it, 1 ms at the least:
    a cue without length is invalid WebVTT.
    """
    count = len(spans)
    limit = max(window[1], window[0] + count)
    least = min(CUE_SHORTEST, (limit - window[0]) // count)
    starts: list[int] = []
    earliest = window[0]
    for index, (start, _) in enumerate(spans):
        starts.append(min(max(start, earliest), limit - (count - index) * least))
        earliest = starts[-1] + least
    return [
        (start, min(max(end, start + least), start + CUE_LONGEST, border))
        for start, (_, end), border in zip(starts, spans, [*starts[1:], limit], strict=True)
    ]


def _lines(run: Sequence[Unit]) -> str:
    """One line where that is enough, else the two that read best."""
    edges = _edges(run)
    lead = run[0].spaced
    if edges[-1] - lead <= LINE_COLUMNS:
        return join(run)

    def cost(cut: int) -> float:
        above, below = edges[cut] - lead, edges[-1] - edges[cut] - run[cut].spaced
        if max(above, below) > LINE_COLUMNS:
            return inf
        return cut_cost(run[cut - 1], run[cut]) + _BALANCE_COST * abs(above - below) / LINE_COLUMNS

    middle = min(range(1, len(run)), key=cost)
    return join(run[:middle]) + "\n" + join(run[middle:])
