from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fakes import PACE, Asked, FakeEngine, said, settled, spoken, story, text_of
from stenopool.audio import SAMPLE_RATE
from stenopool.audio.windows import Piece
from stenopool.decoding.batching import Batcher
from stenopool.decoding.chunked import (
    OVERLAP,
    chunk_samples,
    overlapping,
    parted,
    without_overlaps,
)
from stenopool.decoding.quality import Figures
from stenopool.decoding.readings import Reading, whole
from stenopool.decoding.recognise import Recogniser
from stenopool.decoding.tokens import Vocabulary
from stenopool.transcript import Word

FIGURES = Figures(-0.3, 0.1, 1.5, ())


@pytest.fixture(scope="module")
def vocabulary(models_dir: Path) -> Vocabulary:
    return Vocabulary(models_dir / "tiny.en" / "tokenizer.json")


# --- windows ----------------------------------------------------------------------------------


def numbered(start: int, length: int) -> Piece:
    """A piece whose samples are their own positions in the recording."""
    samples = np.arange(start, start + length).astype(np.float32)
    return Piece(samples, start, start + length, start, start + length)


@given(st.lists(st.integers(1, 300_000), max_size=6), st.integers(5, 10))
def test_windows_cover_every_sample_with_the_overlap(lengths: list[int], seconds: int) -> None:
    pieces, at = [], 0
    for length in lengths:
        pieces.append(numbered(at, length))
        at += length + 1000
    size = seconds * SAMPLE_RATE
    windows = list(overlapping(pieces, size))
    everything = np.concatenate([piece.samples for piece in pieces]) if pieces else np.zeros(0)
    shared = round(size * OVERLAP)
    assert [window.length for window in windows[:-1]] == [size] * (len(windows) - 1)
    for index, window in enumerate(windows):
        first = index * (size - shared)
        np.testing.assert_array_equal(window.samples, everything[first : first + size])
    assert sum(window.length for window in windows) == len(everything) + shared * max(
        len(windows) - 1, 0
    )


def test_speech_of_exactly_one_window_is_one_window() -> None:
    assert len(list(overlapping([numbered(0, 160_000)], 160_000))) == 1
    assert len(list(overlapping([numbered(0, 160_001)], 160_000))) == 2


def test_windows_are_given_before_all_pieces_are_taken() -> None:
    pieces = (numbered(at * 200_000, 200_000) for at in range(100))
    next(overlapping(pieces, 160_000))
    assert len(list(pieces)) == 99


# --- joints -----------------------------------------------------------------------------------


def reading(text: str, *, at: float, each: float = 1.0) -> Reading:
    words = tuple(
        Word(f" {word}", at + number * each, at + (number + 1) * each, 0.9)
        for number, word in enumerate(text.split())
    )
    return Reading(words, FIGURES, 0.0, at + len(words) * each)


def joined_text(left: Reading, right: Reading) -> str:
    return " ".join(text_of(parted(left, right)))


def test_agreeing_overlap_is_kept_once() -> None:
    left, right = reading("a b c d e f", at=0), reading("d e f g h", at=3)
    assert joined_text(left, right) == "a b c d e f g h"


def test_agreeing_overlap_is_parted_in_its_middle_far_from_both_borders() -> None:
    first, second = parted(reading("a b c d e f", at=0), reading("c d e f g h", at=2))
    assert text_of([first]) == ["a", "b", "c", "d"]
    assert text_of([second]) == ["e", "f", "g", "h"]


def test_case_and_punctuation_do_not_matter_for_agreement() -> None:
    left, right = reading("it was the end.", at=0), reading('"The End of it', at=0.9)
    assert joined_text(left, right).lower().replace('"', "").replace(".", "") == (
        "it was the end of it"
    )


def test_word_cut_at_the_border_of_either_window_is_left_out() -> None:
    left = reading("one two three four five si", at=0)
    right = reading("ree four five six seven", at=2)
    assert joined_text(left, right) == "one two three four five six seven"


def test_disagreeing_overlap_is_cut_in_its_middle() -> None:
    left, right = reading("a b c d p q", at=0), reading("x y z w e f", at=2)
    assert joined_text(left, right) == "a b c d z w e f"


def test_readings_that_do_not_meet_stay_as_they_are() -> None:
    left, right = reading("a b", at=0), reading("b c", at=2)
    assert parted(left, right) == (left, right)


@pytest.mark.parametrize(("first", "second"), [("", "a b"), ("a b", ""), ("", "")])
def test_reading_without_words_takes_none_away(first: str, second: str) -> None:
    left, right = reading(first, at=0), reading(second, at=1)
    assert parted(left, right) == (left, right)


def test_end_of_a_window_that_the_next_one_understood_is_not_dropped() -> None:
    left = replace(reading("a b c", at=0), dropped_seconds=2.0, end=5.0)
    heard, _ = parted(left, reading("c d e f", at=2))
    assert heard.dropped_seconds == 0.0
    half_heard, _ = parted(left, reading("e f", at=4))
    assert half_heard.dropped_seconds == 1.0
    unheard, _ = parted(left, reading("", at=3))
    assert unheard.dropped_seconds == 2.0


@given(st.integers(3, 30), st.integers(0, 10), st.integers(1, 10))
def test_joint_neither_loses_nor_doubles(before: int, common: int, after: int) -> None:
    words = [f"w{number}" for number in range(before + common + after)]
    left = reading(" ".join(words[: before + common]), at=0)
    right = reading(" ".join(words[before:]), at=before)
    assert joined_text(left, right) == " ".join(words)


def test_readings_of_one_window_are_one_with_the_most_doubtful_figures() -> None:
    doubtful = Figures(-0.9, 0.5, 2.0, ("repetition",))
    first, second = reading("a b", at=0), Reading((), doubtful, 3.0, 8.0)
    assert whole([first, second]) == Reading(first.words, doubtful, 3.0, 8.0)


# --- the algorithm ----------------------------------------------------------------------------


def read(engine: FakeEngine, pieces: list[Piece], **options: object) -> list[Reading]:
    chosen = settled(algorithm="chunked", **options)
    recogniser = Recogniser(engine, engine.vocabulary, chosen, "en")
    windows = overlapping(pieces, chunk_samples(recogniser.options))
    return list(without_overlaps(Batcher(engine.workers).readings(recogniser, windows)))


@settings(
    deadline=None,
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.integers(1, 60), max_size=5), st.floats(5, 12), st.integers(0, 3))
def test_no_word_is_lost_or_doubled(
    vocabulary: Vocabulary, counts: list[int], seconds: float, gap: int
) -> None:
    words = story(sum(counts))
    pieces: list[Piece] = []
    at, done = 0.0, 0
    for count in counts:
        pieces.append(spoken(said(words[done : done + count]), at=at))
        done, at = done + count, at + count * PACE + gap
    engine = FakeEngine(vocabulary, workers=2)
    readings = read(engine, pieces, chunk_seconds=seconds, batch_size=2)
    assert text_of(readings) == words
    times = [word for one in readings for word in one.words]
    assert all(left.start < right.start for left, right in pairwise(times))


def test_windows_are_as_long_as_asked_for(vocabulary: Vocabulary) -> None:
    engine = FakeEngine(vocabulary)
    read(engine, [spoken(said(story(60)))], chunk_seconds=6)
    assert max(len(asked.words) for asked in engine.asked) == 12
    assert len(engine.asked) == 7


def test_nothing_understood_in_one_window_leaves_the_others(vocabulary: Vocabulary) -> None:
    words = story(26)

    def script(asked: Asked) -> str | None:
        return "" if words[14] in asked.words and words[18] in asked.words else None

    readings = read(FakeEngine(vocabulary, script), [spoken(said(words))], chunk_seconds=5)
    heard = text_of(readings)
    assert heard[:10] == words[:10]
    assert heard[-5:] == words[-5:]
    assert len(heard) == len(set(heard))
    assert sum(one.dropped_seconds for one in readings) > 1.6


def test_no_speech_gives_no_reading(vocabulary: Vocabulary) -> None:
    def nothing() -> Iterator[Piece]:
        yield from ()

    assert read(FakeEngine(vocabulary), list(nothing()), chunk_seconds=10) == []
