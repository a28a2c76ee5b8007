"""Segments out of words: one a sentence, or a stretch between long pauses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from stenopool.decoding.quality import Figures
from stenopool.decoding.readings import Reading
from stenopool.transcript import Segment, Word

SENTENCE_END = tuple(".?!…。？！")
CLAUSE_END = tuple(",;:，、；：")
CLOSING = "\"'”’)]»」』"
ABBREVIATIONS = frozenset({"mr.", "mrs.", "ms.", "dr.", "st.", "prof.", "vs.", "e.g.", "i.e."})
PAUSE_SECONDS = 1.0  # between words: a new segment, whatever the punctuation
LONG_SECONDS = 10.0  # after this, a segment ends at the next clause
LONGEST_SECONDS = 20.0  # after this, at the next word


def segments(readings: Iterable[Reading], *, keep_words: bool) -> Iterator[Segment]:
    """Segments as they are complete, numbered; a sentence may reach over readings.

    A segment has the figures of its most doubtful reading and the flags of all.
    """
    for number, group in enumerate(_sentences(readings)):
        words = [word for word, _ in group]
        figures = min((figures for _, figures in group), key=lambda one: one.avg_logprob)
        flags = dict.fromkeys(flag for _, one in group for flag in one.flags)
        yield Segment(
            id=number,
            start=words[0].start,
            end=words[-1].end,
            text="".join(word.word for word in words).strip(),
            avg_logprob=figures.avg_logprob,
            no_speech_prob=figures.no_speech_prob,
            compression_ratio=figures.compression_ratio,
            words=tuple(words) if keep_words else (),
            flags=tuple(flags),
        )


_Group = list[tuple[Word, Figures]]


def _sentences(readings: Iterable[Reading]) -> Iterator[_Group]:
    group: _Group = []
    for reading in readings:
        for word in reading.words:
            if group and _ends(group, word):
                yield group
                group = []
            group.append((word, reading.figures))
    if group:
        yield group


def _ends(group: _Group, following: Word) -> bool:
    last = group[-1][0]
    bare = last.word.strip().rstrip(CLOSING)
    seconds = last.end - group[0][0].start
    return (
        following.start - last.end >= PAUSE_SECONDS
        or (bare.endswith(SENTENCE_END) and bare.lower() not in ABBREVIATIONS)
        or (seconds >= LONG_SECONDS and bare.endswith(CLAUSE_END))
        or seconds >= LONGEST_SECONDS
    )
