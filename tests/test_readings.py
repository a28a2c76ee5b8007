from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from stenopool.decoding.quality import Figures
from stenopool.decoding.readings import Reading, in_order, whole
from stenopool.transcript import Word

FIGURES = Figures(-0.2, 0.0, 1.0, ())
TIMES = st.floats(0, 100)


def reading(*times: tuple[float, float]) -> Reading:
    words = tuple(Word(f" {n}", *time, 0.5) for n, time in enumerate(times))
    return Reading(words, FIGURES, 0.0, 100.0)


def test_words_that_are_in_order_are_kept_as_they_are() -> None:
    given_ones = [reading((0, 1), (1, 2)), reading(), reading((2, 2.5))]
    assert list(in_order(given_ones)) == given_ones


def test_word_begins_where_the_last_one_of_the_window_before_ends() -> None:
    _, second = in_order([reading((0, 1.03)), reading((1.0, 1.4))])
    assert (second.words[0].start, second.words[0].end) == (1.03, 1.4)


@given(st.lists(st.lists(st.tuples(TIMES, TIMES), max_size=4), max_size=4))
def test_no_word_overlaps_or_ends_before_it_starts(times: list[list[tuple[float, float]]]) -> None:
    words = [word for one in in_order([reading(*each) for each in times]) for word in one.words]
    assert len(words) == sum(map(len, times))
    assert all(word.start <= word.end for word in words)
    assert all(left.end <= right.start for left, right in pairwise(words))


def test_readings_of_a_window_as_one_have_the_worst_figures_and_all_flags() -> None:
    loop = Reading((), Figures(-0.1, 0.0, 9.0, ("repetition",)), 0.5, 1.0)
    doubtful = Reading((), Figures(-0.5, 0.2, 1.0, ()), 0.25, 2.0)
    one = whole([loop, doubtful])
    assert one.figures == Figures(-0.5, 0.2, 1.0, ("repetition",))
    assert (one.dropped_seconds, one.end) == (0.75, 2.0)
