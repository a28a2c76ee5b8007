from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fakes import (
    PACE,
    Asked,
    FakeEngine,
    Script,
    chance_of,
    hypothesis,
    said,
    settled,
    spoken,
    stamp,
    story,
    text_of,
    text_tokens,
)
from stenopool.audio.windows import Piece
from stenopool.decoding.readings import Reading, in_order
from stenopool.decoding.recognise import Recogniser
from stenopool.decoding.sequential import consumed, sequential_readings
from stenopool.decoding.tokens import PREVIOUS_TOKENS, Vocabulary
from stenopool.engines.base import Hypothesis

LOOP = " ".join(["stone"] * 9)


@pytest.fixture(scope="module")
def vocabulary(models_dir: Path) -> Vocabulary:
    return Vocabulary(models_dir / "tiny.en" / "tokenizer.json")


# --- how far a window is done with ------------------------------------------------------------


def stamps(vocabulary: Vocabulary, *parts: float | str) -> tuple[int, ...]:
    """Tokens of texts and of times in seconds."""
    tokens: list[int] = []
    for part in parts:
        if isinstance(part, str):
            tokens += text_tokens(vocabulary, part)
        else:
            tokens.append(stamp(vocabulary, part))
    return tuple(tokens)


def test_window_is_done_up_to_the_last_pair_of_timestamps(vocabulary: Vocabulary) -> None:
    tokens = stamps(vocabulary, 0.0, "a b", 5.0, 5.0, "c", 9.0, 9.5, "d e")
    kept = stamps(vocabulary, 0.0, "a b", 5.0, 5.0, "c", 9.0)
    assert consumed(tokens, vocabulary) == (kept, 9.0)


def test_window_that_ends_with_a_pair_is_done_up_to_it(vocabulary: Vocabulary) -> None:
    tokens = stamps(vocabulary, 0.0, "a b", 5.0, 5.0)
    assert consumed(tokens, vocabulary) == (tokens[:-1], 5.0)


@pytest.mark.parametrize(
    "parts",
    [
        (0.0, "a b", 5.0, 5.0, "c d", 9.0),  # ends alone: nobody spoke after it
        (0.0, "a b", 5.0),
        (0.0, "a b"),
        ("a b",),
        (),
        (0.0,),
        (0.0, "a", 0.5, 0.5, "b"),  # would get on by too little
        (0.0, 0.0, "a b"),
    ],
)
def test_window_is_done_with_as_a_whole(
    vocabulary: Vocabulary, parts: tuple[float | str, ...]
) -> None:
    tokens = stamps(vocabulary, *parts)
    assert consumed(tokens, vocabulary) == (tokens, None)


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_what_is_consumed_is_a_beginning_and_a_step_ahead(
    vocabulary: Vocabulary, data: st.DataObject
) -> None:
    first = vocabulary.first_timestamp
    either = st.one_of(st.integers(0, 50_000), st.integers(first, first + 1500))
    tokens = data.draw(st.lists(either, max_size=30))
    kept, seconds = consumed(tokens, vocabulary)
    assert kept == tuple(tokens[: len(kept)])
    assert seconds is None or 1.0 <= seconds <= 30.0
    assert seconds is not None or len(kept) == len(tokens)


# --- the algorithm ----------------------------------------------------------------------------


def read(engine: FakeEngine, pieces: list[Piece], **options: object) -> list[Reading]:
    chosen = settled(algorithm="sequential", **options)
    recogniser = Recogniser(engine, engine.vocabulary, chosen, "en")
    return list(sequential_readings(iter(pieces), recogniser))


def long_piece(count: int) -> list[Piece]:
    """Speech without a pause, in pieces of at most 25 s, as voice activity gives it."""
    words = story(count)
    return [spoken(said(words[at : at + 50]), at=at * PACE) for at in range(0, count, 50)]


def timestamps(asked: Asked, vocabulary: Vocabulary) -> bool:
    return asked.prompt[-1] != vocabulary.no_timestamps


@settings(
    deadline=None,
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.integers(1, 50), max_size=6), st.integers(0, 3), st.booleans())
def test_no_word_is_lost_or_doubled(
    vocabulary: Vocabulary, counts: list[int], gap: int, tells_early: bool
) -> None:
    words = story(sum(counts))
    pieces: list[Piece] = []
    at, done = 0.0, 0
    for count in counts:
        pieces.append(spoken(said(words[done : done + count]), at=at))
        done, at = done + count, at + count * PACE + gap
    engine = FakeEngine(vocabulary, tells_early=tells_early)
    readings = list(in_order(read(engine, pieces)))
    assert text_of(readings) == words
    times = [word for one in readings for word in one.words]
    assert all(left.end <= right.start for left, right in pairwise(times))
    assert all(timestamps(asked, vocabulary) for asked in engine.asked)


def test_next_window_begins_at_the_last_complete_timestamp(vocabulary: Vocabulary) -> None:
    engine = FakeEngine(vocabulary)
    readings = read(engine, long_piece(120))
    assert [len(asked.words) for asked in engine.asked] == [60, 60, 10]
    assert [len(one.words) for one in readings] == [55, 55, 10]


def test_window_that_is_cut_at_a_timestamp_keeps_the_probabilities_of_its_words(
    vocabulary: Vocabulary,
) -> None:
    readings = read(FakeEngine(vocabulary, tells_early=True), long_piece(120))
    assert text_of(readings) == story(120)
    found = [word.probability for one in readings for word in one.words]
    expected = [
        np.mean([chance_of(token) for token in text_tokens(vocabulary, word)])
        for word in story(120)
    ]
    np.testing.assert_allclose(found, expected)


def test_words_have_times_of_the_recording(vocabulary: Vocabulary) -> None:
    words = [word for one in read(FakeEngine(vocabulary), long_piece(150)) for word in one.words]
    starts = [word.start for word in words]
    np.testing.assert_allclose(starts, PACE * np.arange(150), atol=0.11)


def test_text_is_told_to_the_next_window_when_asked(vocabulary: Vocabulary) -> None:
    engine = FakeEngine(vocabulary)
    read(engine, long_piece(120), condition_on_previous_text=True, hotwords="Lorry")
    first, second, third = (vocabulary.text(asked.prompt) for asked in engine.asked)
    assert first == " Lorry"
    assert second.startswith(" Lorry " + " ".join(story(10)))
    assert len(third) > len(second)
    assert all(len(asked.prompt) <= PREVIOUS_TOKENS + 2 for asked in engine.asked)


def test_text_is_not_told_unless_asked(vocabulary: Vocabulary) -> None:
    engine = FakeEngine(vocabulary)
    read(engine, long_piece(120))
    assert {asked.prompt for asked in engine.asked} == {(vocabulary.start,)}


def test_doubtful_window_is_forgotten(vocabulary: Vocabulary) -> None:
    def script(asked: Asked) -> Hypothesis | None:
        if asked.call == 1:
            return hypothesis(vocabulary, " ".join(asked.words), logprob=-1.5)
        return None

    engine = FakeEngine(vocabulary, script)
    read(engine, long_piece(160), condition_on_previous_text=True)
    told = [vocabulary.text(asked.prompt) for asked in engine.asked]
    assert told[0] == ""
    assert told[1]
    assert told[2] == ""
    assert len(told) >= 3


def timestamp_zero(vocabulary: Vocabulary) -> Script:
    return lambda asked: Hypothesis(
        (stamp(vocabulary, 0), stamp(vocabulary, 0), *text_tokens(vocabulary, "no")), -0.2, 0.0
    )


def empty_pair(vocabulary: Vocabulary) -> Script:
    return lambda asked: Hypothesis(
        (stamp(vocabulary, 2), stamp(vocabulary, 2), *text_tokens(vocabulary, "no")), -0.2, 0.0
    )


def far_away(vocabulary: Vocabulary) -> Script:
    return lambda asked: Hypothesis(stamps(vocabulary, 0.0, "no", 30.0, 30.0, "never"), -0.2, 0.0)


@pytest.mark.parametrize("fault", [timestamp_zero, empty_pair, far_away])
def test_senseless_timestamps_come_to_an_end(
    vocabulary: Vocabulary, fault: Callable[[Vocabulary], Script]
) -> None:
    engine = FakeEngine(vocabulary, fault(vocabulary))
    readings = read(engine, long_piece(90))
    assert readings[-1].end == 45.0
    assert len(engine.asked) <= 45
    assert len(readings) <= 45


def test_hopeless_window_is_dropped_and_the_next_is_read(vocabulary: Vocabulary) -> None:
    hopeless = " ".join(story(60))

    def script(asked: Asked) -> str | None:
        return "" if " ".join(asked.words) in hopeless else None

    engine = FakeEngine(vocabulary, script)
    readings = read(engine, long_piece(80), temperatures=(0.0, 0.4))
    assert text_of(readings) == story(80)[60:]
    assert readings[0].dropped_seconds == pytest.approx(30.0)
    assert [asked.search.temperature for asked in engine.asked[:2]] == [0.0, 0.4]


def test_window_that_no_temperature_mends_is_decoded_in_halves(vocabulary: Vocabulary) -> None:
    loop = " ".join(["stone"] * 9)

    def script(asked: Asked) -> str | None:
        return loop if len(asked.words) > 40 else None

    readings = read(FakeEngine(vocabulary, script), long_piece(60), temperatures=(0.0, 0.4))
    assert text_of(readings) == story(60)
    assert all(not one.figures.flags for one in readings)


def test_loop_climbs_the_temperatures(vocabulary: Vocabulary) -> None:
    def script(asked: Asked) -> str | None:
        return LOOP if asked.search.temperature < 0.4 else None

    engine = FakeEngine(vocabulary, script)
    readings = read(engine, long_piece(20), temperatures=(0.0, 0.2, 0.4, 0.6))
    assert text_of(readings) == story(20)
    assert [asked.search.temperature for asked in engine.asked] == [0.0, 0.2, 0.4]


def test_speech_that_was_passed_over_is_read_in_the_next_window(vocabulary: Vocabulary) -> None:
    words = story(26)

    def script(asked: Asked) -> Hypothesis | None:
        if asked.call:
            return None
        return Hypothesis(stamps(vocabulary, 0.0, " ".join(words[:16]), 13.0), -0.2, 0.0)

    engine = FakeEngine(vocabulary, script)
    assert text_of(read(engine, [spoken(said(words))])) == words
    assert len(engine.asked) == 2


def test_readings_come_before_all_pieces_are_taken(vocabulary: Vocabulary) -> None:
    taken: list[Piece] = []

    def counted() -> Iterator[Piece]:
        for piece in long_piece(500):
            taken.append(piece)
            yield piece

    recogniser = Recogniser(
        FakeEngine(vocabulary), vocabulary, settled(algorithm="sequential"), "en"
    )
    readings = sequential_readings(counted(), recogniser)
    assert not taken
    next(readings)
    assert len(taken) == 2
