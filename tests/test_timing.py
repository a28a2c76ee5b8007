from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stenopool.audio import SAMPLE_RATE
from stenopool.audio.windows import Piece, Window
from stenopool.decoding.timing import LEAD, PlacedWord, placed_words, timed_words
from stenopool.transcript import Word


def piece(start: float, end: float, *, pad: float = 0.2) -> Piece:
    """Silence from `start` to `end` seconds, said to be speech but for `pad` on either side."""
    first, after, edge = (round(each * SAMPLE_RATE) for each in (start, end, pad))
    samples = np.zeros(after - first, dtype=np.float32)
    return Piece(samples, first, after, first + edge, after - edge)


def in_window(
    words: list[tuple[str, int]], *starts: float, probabilities: tuple[float, ...] = ()
) -> list[PlacedWord]:
    chances = probabilities or (0.5,) * (len(starts) - 1)
    return placed_words(words, np.array(starts), np.array(chances))


def placed(text: str, start: float, end: float) -> PlacedWord:
    return PlacedWord(text, start, end, 0.5)


# --- in the window ----------------------------------------------------------------------------


def test_words_reach_from_their_first_token_to_the_next_word() -> None:
    words, chances = [(" over", 2), (" it", 1)], (0.8, 0.6, 1.0)
    first, second = in_window(words, 0.1, 0.3, 0.5, 0.9, probabilities=chances)
    assert (first.text, first.start, first.end) == (" over", 0.1, 0.5)
    assert (second.text, second.start, second.end) == (" it", 0.5, 0.9)
    assert first.probability == pytest.approx(0.7)
    assert second.probability == 1.0


def test_word_before_speech_that_was_passed_over_ends_in_time() -> None:
    words = [(" oh", 1), (" hello", 1), (" you", 1)]
    _, before, after = in_window(words, 0.5, 1.0, 9.0, 9.4)
    assert (before.start, before.end) == (1.0, 2.5)
    assert after.start == 9.0


def test_first_word_after_speech_that_was_passed_over_begins_in_time() -> None:
    first, second = in_window([(" hello", 1), (" you", 1)], 0.0, 9.0, 9.4)
    assert (first.start, first.end) == (7.5, 9.0)
    assert second.start == 9.0


def test_long_words_and_numbers_may_take_longer() -> None:
    (word,) = in_window([(" a", 1)], 0.0, 20.0)
    (longer,) = in_window([(" notwithstanding", 1)], 0.0, 20.0)
    (number,) = in_window([(" 1945", 1)], 0.0, 20.0)
    assert word.end == pytest.approx(1.1)
    assert longer.end == pytest.approx(2.5)
    assert number.end == pytest.approx(3.0)


# --- in the recording -------------------------------------------------------------------------


def test_times_count_from_the_start_of_the_recording() -> None:
    window = Window((piece(10.0, 12.0), piece(20.0, 23.0)))
    first, second = timed_words([placed(" one", 0.8, 0.9), placed(" two", 3.0, 3.5)], window)
    assert (first.start, first.end) == pytest.approx((10.8, 10.9))
    assert (second.start, second.end) == pytest.approx((21.0, 21.5))
    assert first.word == " one"
    assert first.probability == 0.5


def test_border_inside_a_pause_is_drawn_to_the_speech() -> None:
    window = Window((piece(10.0, 12.0), piece(20.0, 23.0)))
    first, second = timed_words([placed(" one", 0.0, 2.1), placed(" two", 2.1, 5.0)], window)
    assert (first.start, first.end) == pytest.approx((10.2 - LEAD, 11.8))
    assert (second.start, second.end) == pytest.approx((20.2 - LEAD, 22.8))


def test_first_word_begins_with_the_speech_and_later_ones_where_they_are() -> None:
    window = Window((piece(10.0, 12.0),))
    words = timed_words([placed(" one", 0.5, 0.9), placed(" two", 1.0, 1.5)], window)
    assert [word.start for word in words] == pytest.approx([10.2 - LEAD, 11.0])
    assert words[0].end == pytest.approx(10.9)


def test_word_across_two_pieces_goes_where_most_of_it_is() -> None:
    window = Window((piece(10.0, 12.0), piece(20.0, 23.0)))
    (word,) = timed_words([placed(" one", 1.6, 2.9)], window)
    assert (word.start, word.end) == pytest.approx((20.2 - LEAD, 20.9))


def test_words_at_the_same_place_do_not_overlap() -> None:
    window = Window((piece(0.0, 3.0),))
    words = timed_words([placed(" a", 1.0, 1.5), placed(" b", 1.0, 1.5)], window)
    assert words[0].end <= words[1].start


def lies_in(one: Piece, word: Word) -> bool:
    first = max(one.start, one.voice_start - LEAD * SAMPLE_RATE)
    return first <= word.start * SAMPLE_RATE + 0.5 and (
        word.end * SAMPLE_RATE - 0.5 <= one.voice_end
    )


@st.composite
def windows(draw: st.DrawFn) -> Window:
    pieces: list[Piece] = []
    at = draw(st.floats(0, 100))
    for _ in range(draw(st.integers(1, 4))):
        length = draw(st.floats(0.1, 5))
        pieces.append(piece(at, at + length, pad=draw(st.floats(0, length / 2.01))))
        at += length + draw(st.floats(0, 30))
    return Window(tuple(pieces))


@given(windows(), st.lists(st.floats(0, 1), min_size=2, max_size=40))
def test_words_are_ordered_and_lie_where_speech_was_heard(
    window: Window, borders: list[float]
) -> None:
    starts = [border * window.seconds for border in sorted(borders)]
    texts = [(" word", 1)] * (len(starts) - 1)
    words = timed_words(in_window(texts, *starts), window)
    assert len(words) == len(texts)
    for word in words:
        assert word.start <= word.end
        assert any(lies_in(one, word) for one in window.pieces), word
    assert all(left.end <= right.start for left, right in pairwise(words))
