from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stenopool.evaluation.intervals import difference, interval
from stenopool.evaluation.score import Counts

RATE = 0.1  # true word error rate of the simulated recordings


def counts(words: int, errors: int) -> Counts:
    return Counts(words=words, substitutions=errors)


def simulated(random: np.random.Generator, recordings: int, *, rate: float = RATE) -> list[Counts]:
    """Recordings of different lengths and difficulty: their errors are not independent."""
    found = []
    for _ in range(recordings):
        words = int(random.integers(5, 60))
        hard = random.beta(2, 2 / rate - 2)
        found.append(counts(words, int(random.binomial(words, hard))))
    return found


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """150 data sets whose true rate is known; few enough recordings that a fault would show."""
    random = np.random.default_rng(7)
    found = [interval(simulated(random, 60), seed=n, resamples=1000) for n in range(150)]
    covered = np.mean([one is not None and one.low <= RATE <= one.high for one in found])
    assert 0.88 <= covered <= 0.99


def test_interval_agrees_with_the_theory_for_many_equal_recordings() -> None:
    random = np.random.default_rng(1)
    errors = random.binomial(20, RATE, size=2000)
    found = interval([counts(20, int(one)) for one in errors], seed=0)
    assert found
    expected = 1.96 * np.sqrt(RATE * (1 - RATE) / (2000 * 20))
    assert (found.high - found.low) / 2 == pytest.approx(expected, rel=0.08)


def test_interval_narrows_with_the_root_of_the_recordings() -> None:
    random = np.random.default_rng(2)
    few, many = (interval(simulated(random, n), seed=0) for n in (100, 1600))
    assert few
    assert many
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(4, rel=0.3)


def test_equal_seeds_give_equal_intervals() -> None:
    units = simulated(np.random.default_rng(3), 30)
    assert interval(units, seed=5) == interval(units, seed=5)
    assert interval(units, seed=5) != interval(units, seed=6)


def test_there_is_no_interval_of_a_single_recording_or_of_silence() -> None:
    assert interval([], seed=0) is None
    assert interval([counts(10, 1)], seed=0) is None
    assert interval([counts(0, 3), counts(0, 0)], seed=0) is None


def test_recordings_that_are_all_alike_leave_no_doubt() -> None:
    found = interval([counts(10, 1)] * 8, seed=0)
    assert found
    assert [found.low, found.high] == pytest.approx([0.1, 0.1])


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 60)), min_size=2, max_size=30))
def test_interval_is_in_the_range_of_the_recordings(pairs: list[tuple[int, int]]) -> None:
    units = [counts(words, errors) for words, errors in pairs]
    found = interval(units, seed=0, resamples=200)
    if not any(words for words, _ in pairs):
        assert found is None
        return
    assert found
    assert 0 <= found.low <= found.high


def test_few_recordings_more_than_memory_are_resampled_in_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    units = simulated(np.random.default_rng(4), 50)
    at_once = interval(units, seed=0, resamples=300)
    monkeypatch.setattr("stenopool.evaluation.intervals.BATCH", 500)
    assert interval(units, seed=0, resamples=300) == at_once


# --- differences -------------------------------------------------------------------------------


def test_system_is_not_better_than_itself() -> None:
    units = simulated(np.random.default_rng(5), 40)
    found = difference(units, units, seed=0)
    assert found
    assert (found.value, found.interval.low, found.interval.high) == (0, 0, 0)
    assert found.better == 0


def test_pairing_sees_what_unpaired_intervals_cannot() -> None:
    """One error less in each hard recording, among recordings that differ much."""
    before = [counts(20, errors) for errors in (2, 12) * 20]
    after = [counts(20, errors - 1) for errors in (2, 12) * 20]
    found = difference(before, after, seed=0)
    first, second = interval(before, seed=0), interval(after, seed=0)
    assert found
    assert first
    assert second
    assert second.high > first.low  # the two intervals overlap
    assert found.value == pytest.approx(-0.05)
    assert found.interval.high < 0
    assert found.better == 1


def test_difference_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(9)
    covered = []
    for number in range(150):
        before = simulated(random, 60)
        # Each error is repaired with a probability of 0.2: the true difference is -0.02.
        after = [counts(one.words, int(random.binomial(one.errors, 0.8))) for one in before]
        found = difference(before, after, seed=number, resamples=1000)
        assert found
        covered.append(found.interval.low <= -0.2 * RATE <= found.interval.high)
    assert 0.88 <= np.mean(covered) <= 0.99


def test_difference_has_the_sign_of_the_change() -> None:
    units = simulated(np.random.default_rng(6), 40)
    worse = [counts(one.words, one.errors + 1) for one in units]
    found = difference(units, worse, seed=0)
    assert found
    assert found.value > 0
    assert found.better == 0


def test_there_is_no_difference_of_nothing() -> None:
    assert difference([], [], seed=0) is None
    assert difference([counts(5, 1)], [counts(5, 0)], seed=0) is None
