from __future__ import annotations

import math
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import settled, story
from stenopool.decoding.quality import (
    FAST,
    FASTEST_CHARACTERS,
    LONGEST_PATTERN,
    LOW_PROBABILITY,
    REPETITION,
    Figures,
    compression_ratio,
    has_loop,
    is_silence,
    judge,
)
from stenopool.engines.base import Hypothesis
from stenopool.errors import EngineFailed

OPTIONS = settled()
GOOD = Hypothesis((), -0.3, 0.05)
SENTENCE = "It was the season of Light, it was the season of Darkness, it was the spring of hope."


# --- loops ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "no no no",
        "Ha ha ha ha",
        "very very very very good",
        "",
        "word",
        SENTENCE,
        "It was the best of times, it was the worst of times, it was the age of wisdom, it was "
        "the age of foolishness, it was the epoch of belief, it was the epoch of incredulity",
        "你好你好",
        "哈哈哈哈",
        "今天天气很好我们去公园玩吧明天可能会下雨",
    ],
)
def test_what_people_say_is_no_loop(text: str) -> None:
    assert not has_loop(text)


@pytest.mark.parametrize(
    "text",
    [
        "you " * 8,
        "thank you " * 6,
        "I am going to the shop. " * 4,
        "谢谢观看" * 5,
        "ありがとうございました" * 4,
        "The The the THE the the the the",
    ],
)
def test_the_same_again_and_again_is_a_loop(text: str) -> None:
    assert has_loop(text)


def test_short_loop_at_the_end_of_a_long_text_is_found() -> None:
    text = " ".join([*story(26), *["and so on"] * 5])
    assert compression_ratio(text) < OPTIONS.compression_ratio_threshold
    assert has_loop(text)


@given(st.integers(1, LONGEST_PATTERN), st.integers(0, 40), st.integers(0, 40))
def test_pattern_said_eight_times_is_found_anywhere(length: int, before: int, after: int) -> None:
    pattern = [f"w{number}" for number in range(length)]
    words = [*(f"a{n}" for n in range(before)), *pattern * 8, *(f"z{n}" for n in range(after))]
    assert has_loop(" ".join(words))


@given(st.lists(st.integers(), unique=True, min_size=2))
def test_different_words_are_never_a_loop(numbers: list[int]) -> None:
    assert not has_loop(" ".join(str(number) for number in numbers))


# --- figures ----------------------------------------------------------------------------------


def test_compression_ratio_is_that_of_zlib_in_utf8() -> None:
    text = "Größe " * 50
    data = text.encode("utf-8")
    assert compression_ratio(text) == len(data) / len(zlib.compress(data)) > 2.4
    assert compression_ratio("") == 0.0


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_compression_ratio_of_any_text_is_finite(text: str) -> None:
    assert 0 <= compression_ratio(text) < 1100


def test_good_text_has_no_flags() -> None:
    figures = judge(GOOD, SENTENCE, 6.0, OPTIONS)
    assert figures == Figures(-0.3, 0.05, compression_ratio(SENTENCE), ())


def test_loop_is_flagged_by_the_words_alone() -> None:
    text = " ".join([*story(26), *["and so on"] * 5])
    assert judge(GOOD, text, 30.0, OPTIONS).flags == (REPETITION,)


def test_loop_is_flagged_by_the_compression_ratio_alone() -> None:
    text = " ".join(f"then number {n % 10} said that it was fine" for n in range(30))
    assert not has_loop(text)
    assert judge(GOOD, text, 60.0, OPTIONS).flags == (REPETITION,)
    assert judge(GOOD, text, 60.0, settled(compression_ratio_threshold=50.0)).flags == ()


def test_low_probability_is_flagged_below_the_threshold_only() -> None:
    assert judge(Hypothesis((), -1.0, 0.0), SENTENCE, 6.0, OPTIONS).flags == ()
    assert judge(Hypothesis((), -1.01, 0.0), SENTENCE, 6.0, OPTIONS).flags == (LOW_PROBABILITY,)
    assert (
        judge(Hypothesis((), -1.01, 0.0), SENTENCE, 6.0, settled(logprob_threshold=-2)).flags == ()
    )


def test_more_text_than_anybody_says_is_flagged() -> None:
    seconds = len(SENTENCE) / FASTEST_CHARACTERS
    assert judge(GOOD, SENTENCE, seconds, OPTIONS).flags == ()
    assert judge(GOOD, SENTENCE, seconds * 0.99, OPTIONS).flags == (FAST,)


def test_no_speech_at_all_makes_any_text_too_fast() -> None:
    assert judge(GOOD, "Thanks!", 0.0, OPTIONS).flags == (FAST,)


@pytest.mark.parametrize(
    ("no_speech", "logprob", "silent"),
    [(0.61, -1.01, True), (0.6, -1.01, False), (0.61, -1.0, False), (0.1, -3.0, False)],
)
def test_silence_needs_both_thresholds(no_speech: float, logprob: float, silent: bool) -> None:
    assert is_silence(Figures(logprob, no_speech, 1.0, ()), 30.0, OPTIONS) is silent


@pytest.mark.parametrize(
    ("seconds", "no_speech", "silent"),
    [(0.2, 0.96, True), (1.9, 0.86, True), (0.2, 0.8, False), (3.0, 0.96, False)],
)
def test_moment_of_sound_is_silence_when_the_model_is_sure_of_it(
    seconds: float, no_speech: float, silent: bool
) -> None:
    assert is_silence(Figures(-0.7, no_speech, 1.0, ()), seconds, OPTIONS) is silent


def test_silence_follows_the_options() -> None:
    figures = Figures(-1.5, 0.5, 1.0, ())
    assert not is_silence(figures, 30.0, OPTIONS)
    assert is_silence(figures, 30.0, settled(no_speech_threshold=0.4))
    assert not is_silence(figures, 30.0, settled(no_speech_threshold=0.4, logprob_threshold=-2.0))


@pytest.mark.parametrize("logprob", [math.nan, -math.inf])
def test_text_of_no_probability_is_an_error(logprob: float) -> None:
    with pytest.raises(EngineFailed, match="overflows"):
        judge(Hypothesis((), logprob, 0.05), "", 1.0, OPTIONS)
