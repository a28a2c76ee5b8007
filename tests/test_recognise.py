from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

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
    story,
    text_of,
    text_tokens,
    window_of,
)
from stenopool.audio.windows import Window
from stenopool.decoding.quality import LOW_PROBABILITY, REPETITION
from stenopool.decoding.readings import Reading
from stenopool.decoding.recognise import HALVED_SECONDS, MOST_ATTEMPTS, Recogniser
from stenopool.decoding.tokens import Vocabulary
from stenopool.engines.base import Hypothesis

LOOP = " ".join(["stone"] * 9)
WINDOW = story(40)  # 20 s
ONCE = story(26)  # 13 s, no word twice
SHORT = story(12)  # 6 s

Read = Callable[..., tuple[list[Reading], FakeEngine]]


@pytest.fixture(scope="module")
def vocabulary(models_dir: Path) -> Vocabulary:
    return Vocabulary(models_dir / "tiny.en" / "tokenizer.json")


@pytest.fixture
def read(vocabulary: Vocabulary) -> Read:
    """The readings of one window by the fake engine with a script."""

    def reading(
        window: Window, script: Script = lambda asked: None, **options: object
    ) -> tuple[list[Reading], FakeEngine]:
        engine = FakeEngine(vocabulary, script)
        recogniser = Recogniser(engine, vocabulary, settled(**options), "en")
        (readings,) = recogniser.read([window])
        return readings, engine

    return reading


def dropped(readings: list[Reading]) -> float:
    return sum(reading.dropped_seconds for reading in readings)


def without(words: list[str]) -> Script:
    """A model that passes over some words when it hears all of them with others."""

    def script(asked: Asked) -> str | None:
        if set(words) < set(asked.words):
            return " ".join(word for word in asked.words if word not in words)
        return None

    return script


# --- what is right at once --------------------------------------------------------------------


def test_good_window_is_decoded_once_with_times_of_the_recording(read: Read) -> None:
    (reading,), engine = read(window_of(SHORT, at=100.0))
    assert text_of([reading]) == SHORT
    assert engine.batches == [1]
    starts = [word.start for word in reading.words]
    np.testing.assert_allclose(starts, 100.0 + PACE * np.arange(len(SHORT)), atol=0.03)
    assert reading.figures.flags == ()
    assert reading.end == 106.0
    assert reading.dropped_seconds < 0.2


def test_batch_is_decoded_together_and_stays_in_order(vocabulary: Vocabulary) -> None:
    engine = FakeEngine(vocabulary)
    recogniser = Recogniser(engine, vocabulary, settled(), "en")
    windows = [window_of(story(26)[at : at + 6], at=at) for at in range(0, 24, 6)]
    readings = recogniser.read(windows)
    assert engine.batches == [4]
    assert text_of(one for window in readings for one in window) == story(24)


def test_probabilities_of_words_come_from_the_hypothesis_where_it_has_them(
    vocabulary: Vocabulary,
) -> None:
    engine = FakeEngine(vocabulary, tells_early=True)
    (readings,) = Recogniser(engine, vocabulary, settled(), "en").read([window_of(SHORT)])
    tokens = [text_tokens(vocabulary, word) for word in SHORT]
    expected = [np.mean([chance_of(token) for token in each]) for each in tokens]
    found = [word.probability for reading in readings for word in reading.words]
    np.testing.assert_allclose(found, expected)


def test_probabilities_of_words_come_from_the_alignment_elsewhere(read: Read) -> None:
    (reading,), _ = read(window_of(SHORT))
    assert [word.probability for word in reading.words] == pytest.approx([0.9] * len(SHORT))


# --- prompts ----------------------------------------------------------------------------------


def test_every_window_is_told_hot_words_and_prompt_also_when_decoded_again(
    read: Read, vocabulary: Vocabulary
) -> None:
    def script(asked: Asked) -> str | None:
        return LOOP if len(asked.words) > 4 or asked.search.temperature == 0 else None

    _, engine = read(
        window_of(WINDOW), script, hotwords="Lorry", initial_prompt="Times.", temperatures=(0, 0.4)
    )
    told = text_tokens(vocabulary, "Lorry Times.")
    expected = (vocabulary.previous, *told, vocabulary.start, vocabulary.no_timestamps)
    assert len(engine.asked) > 6
    assert {asked.prompt for asked in engine.asked} == {expected}


def test_multilingual_model_is_told_language_and_task(vocabulary: Vocabulary) -> None:
    engine = FakeEngine(vocabulary, multilingual=True)
    options = settled(language="de", task="translate")
    Recogniser(engine, vocabulary, options, "de").read([window_of(SHORT)])
    assert engine.asked[0].prompt == (
        *vocabulary.head("de", "translate"),
        vocabulary.no_timestamps,
    )


def test_beam_size_and_first_temperature_are_searched_with(read: Read) -> None:
    _, engine = read(window_of(SHORT), beam_size=3, temperatures=(0.2,))
    (asked,) = engine.asked
    assert (asked.search.beam_size, asked.search.temperature) == (3, 0.2)


# --- loops ------------------------------------------------------------------------------------


def test_loop_in_a_long_window_is_decoded_again_in_halves(read: Read) -> None:
    def script(asked: Asked) -> str | None:
        return LOOP if len(asked.words) > 30 else None

    readings, engine = read(window_of(WINDOW), script, temperatures=(0.0, 0.2, 0.4))
    assert text_of(readings) == WINDOW
    assert engine.batches == [1, 2]
    whole, first, second = (asked.words for asked in engine.asked)
    assert first + second == whole == WINDOW
    assert min(len(first), len(second)) >= len(WINDOW) // 4
    assert {asked.search.temperature for asked in engine.asked} == {0.0}
    assert all(reading.figures.flags == () for reading in readings)


def test_only_the_failing_half_is_halved_again(read: Read) -> None:
    def script(asked: Asked) -> str | None:
        return LOOP if asked.words[-1] == words[-1] and len(asked.words) > 20 else None

    words = story(52)
    two = Window((spoken(said(words[:26])), spoken(said(words[26:]), at=13.0)))
    readings, engine = read(two, script)
    assert text_of(readings) == words
    assert engine.batches == [1, 2, 2]
    assert [asked.words for asked in engine.asked[:3]] == [words, words[:26], words[26:]]


def test_loop_in_a_short_window_climbs_the_temperatures(read: Read) -> None:
    def script(asked: Asked) -> str | None:
        return LOOP if asked.search.temperature < 0.4 else None

    (reading,), engine = read(window_of(SHORT), script, temperatures=(0.0, 0.2, 0.4, 0.6))
    assert text_of([reading]) == SHORT
    assert [asked.search.temperature for asked in engine.asked] == [0.0, 0.2, 0.4]
    assert reading.figures.flags == ()


def test_what_still_fails_is_given_with_its_flag(read: Read) -> None:
    (reading,), engine = read(window_of(SHORT), lambda asked: LOOP, temperatures=(0.0, 0.5))
    assert reading.figures.flags == (REPETITION,)
    assert text_of([reading]) == LOOP.split()
    assert len(engine.asked) == 2


def test_best_of_the_failures_is_kept(read: Read, vocabulary: Vocabulary) -> None:
    likely = {0.0: -2.0, 0.2: -1.2, 0.4: -1.7}

    def script(asked: Asked) -> Hypothesis:
        chance = likely[asked.search.temperature]
        return hypothesis(vocabulary, " ".join(asked.words), logprob=chance)

    (reading,), _ = read(window_of(SHORT), script, temperatures=tuple(likely))
    assert reading.figures.avg_logprob == -1.2
    assert reading.figures.flags == (LOW_PROBABILITY,)


@pytest.mark.parametrize("seconds", [6, 12, 30])
def test_attempts_at_hopeless_speech_are_bounded(read: Read, seconds: int) -> None:
    window = window_of(story(seconds * 2))
    readings, engine = read(window, lambda asked: LOOP, temperatures=(0.0, 0.5, 1.0))
    decodings = sum(len(asked.words) for asked in engine.asked) / (seconds * 2)
    assert decodings <= MOST_ATTEMPTS + 2 + 0.5  # the last resort adds two temperatures
    assert readings[-1].end == seconds
    assert window.seconds > HALVED_SECONDS or len(engine.asked) == 3


# --- nothing ----------------------------------------------------------------------------------


def test_text_that_nobody_could_say_in_that_time_is_dropped_and_counted(read: Read) -> None:
    window = window_of(story(4))
    readings, _ = read(window, lambda asked: " ".join(story(26)), temperatures=(0.0, 0.5))
    assert text_of(readings) == []
    assert dropped(readings) == window.speech_seconds == 2.0


def test_speech_without_text_is_tried_again_then_dropped_and_counted(read: Read) -> None:
    window = window_of(WINDOW)
    readings, engine = read(window, lambda asked: "", temperatures=(0.0, 0.5))
    assert text_of(readings) == []
    assert dropped(readings) == pytest.approx(window.speech_seconds)
    assert len(engine.asked) > 3


def test_text_of_a_higher_temperature_replaces_none(read: Read) -> None:
    def script(asked: Asked) -> str | None:
        return None if asked.search.temperature else ""

    readings, _ = read(window_of(SHORT), script, temperatures=(0.0, 0.5))
    assert text_of(readings) == SHORT


def test_a_moment_without_text_is_no_failure(read: Read) -> None:
    readings, engine = read(window_of(SHORT[:1]), lambda asked: "", temperatures=(0.0, 0.5))
    assert text_of(readings) == []
    assert len(engine.asked) == 1


def test_what_the_model_calls_silence_is_dropped_at_once(
    read: Read, vocabulary: Vocabulary
) -> None:
    silent = hypothesis(vocabulary, "Thanks for watching", logprob=-1.5, no_speech=0.9)
    window = window_of(WINDOW)
    readings, engine = read(window, lambda asked: silent, temperatures=(0.0, 0.5))
    assert text_of(readings) == []
    assert dropped(readings) == window.speech_seconds
    assert len(engine.asked) == 1


# --- holes ------------------------------------------------------------------------------------


def test_hole_in_the_middle_is_decoded_again_once(read: Read) -> None:
    readings, engine = read(window_of(ONCE), without(ONCE[8:18]))
    words = text_of(readings)
    # The word before the hole may seem to last as long as a slow one; what it covers is lost.
    assert words == ONCE[:8] + ONCE[-(len(words) - 8) :]
    assert len(words) >= len(ONCE) - 3
    assert engine.batches == [1, 1]


def test_hole_at_the_beginning_is_decoded_again(read: Read) -> None:
    readings, engine = read(window_of(ONCE), without(ONCE[:9]))
    assert text_of(readings) == ONCE
    assert engine.batches == [1, 2]


def test_hole_at_the_beginning_that_stays_is_counted_as_dropped(read: Read) -> None:
    def script(asked: Asked) -> str:
        return " ".join(word for word in asked.words if word in ONCE[-4:])

    readings, _ = read(window_of(ONCE), script)
    assert text_of(readings) == ONCE[-4:]
    assert dropped(readings) == pytest.approx(11.0, abs=1.5)


def test_hole_at_the_end_is_decoded_again_once(read: Read) -> None:
    readings, engine = read(window_of(ONCE), without(ONCE[18:]))
    assert text_of(readings) == ONCE
    assert [len(asked.words) for asked in engine.asked] == [26, 8]


def test_words_after_a_hole_are_not_said_twice_or_out_of_order(read: Read) -> None:
    readings, _ = read(window_of(ONCE), without(ONCE[5:15]))
    words = [word for reading in readings for word in reading.words]
    assert all(left.end <= right.start for left, right in pairwise(words))
    assert len(set(text_of(readings))) == len(words)


def test_hole_between_two_pieces_is_found(read: Read) -> None:
    first, second = ONCE[:8], ONCE[8:20]
    window = Window((spoken(said(first), at=0.0), spoken(said(second), at=60.0)))
    readings, _ = read(window, without(second))
    assert text_of(readings) == first + second
    assert readings[-1].words[0].start == pytest.approx(60.0, abs=0.03)


def test_hole_that_stays_is_counted_as_dropped(read: Read) -> None:
    def script(asked: Asked) -> str:
        return " ".join(word for word in asked.words if word in ONCE[:10])

    readings, engine = read(window_of(ONCE), script)
    assert text_of(readings) == ONCE[:10]
    assert dropped(readings) == pytest.approx(8.0, abs=0.2)
    assert len(engine.asked) <= 1 + 2 * MOST_ATTEMPTS


def test_holes_after_holes_are_decoded_again_a_few_times_only(read: Read) -> None:
    def script(asked: Asked) -> str:
        return " ".join(asked.words[:4])

    readings, engine = read(window_of(ONCE), script)
    words = text_of(readings)
    assert len(engine.asked) == 3
    assert len(words) == len(set(words)) == 12
    assert dropped(readings) > 2.5


def test_short_pause_of_the_text_is_let_be(read: Read) -> None:
    _, engine = read(window_of(SHORT), without(SHORT[-3:]))
    assert len(engine.asked) == 1


def test_windows_of_one_batch_are_decoded_again_on_their_own(vocabulary: Vocabulary) -> None:
    def script(asked: Asked) -> str | None:
        return LOOP if len(asked.words) == 24 else None

    engine = FakeEngine(vocabulary, script)
    words = ONCE
    windows = [window_of(words[:24]), window_of(words[:6], at=50), window_of(words[2:], at=80)]
    results = Recogniser(engine, vocabulary, settled(), "en").read(windows)
    assert [text_of(readings) for readings in results] == [words[:24], words[:6], words[2:]]
    assert engine.batches == [3, 4]
    ends = [[reading.end for reading in readings] for readings in results]
    assert [one[-1] for one in ends] == [12.0, 53.0, 92.0]
    assert [len(one) for one in ends] == [2, 1, 2]
