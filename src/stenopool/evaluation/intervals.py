"""How much a word error rate would change with other recordings of the same kind.

Bisani and Ney 2004, "Bootstrap estimates for confidence intervals in ASR performance evaluation".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stenopool.evaluation.score import Counts

RESAMPLES = 10_000
CONFIDENCE = 0.95
BATCH = 1 << 21  # numbers drawn at once

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % interval; rates are fractions."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """The word error rate of a system minus that of the baseline on the same speech.

    Attributes:
        value: as measured; negative is better than the baseline.
        interval: of the value.
        better: share of the resamples in which the system has fewer errors.
    """

    value: float
    interval: Interval
    better: float


def interval(units: Sequence[Counts], *, seed: int, resamples: int = RESAMPLES) -> Interval | None:
    """Bootstrap percentile interval of the pooled word error rate.

    Args:
        units: counts of what is resampled: recordings, or utterances of long ones.
        seed: of the random numbers; equal seeds give equal intervals.
        resamples: data sets drawn with replacement.

    Returns:
        `None` where there are not two units, or no words.
    """
    counts = _table(units)  # (units, 2) float64: errors, words
    if len(counts) < 2 or not counts[:, 1].any():
        return None
    sums = _resampled(counts, seed, resamples)
    return _percentiles(sums[:, 0] / sums[:, 1])


def difference(
    baseline: Sequence[Counts],
    system: Sequence[Counts],
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> Difference | None:
    """Paired bootstrap: both systems are resampled with the same units, so that hard recordings are
    hard for both.

    Args:
        baseline, system: counts of the same units in the same order.
        seed, resamples: as for `interval`.

    Returns:
        `None` where there are not two units, or no words.
    """
    before, after = _table(baseline), _table(system)
    if len(before) < 2 or not before[:, 1].any():
        return None
    both = np.column_stack([before, after])  # (units, 4) float64
    sums = _resampled(both, seed, resamples)
    drawn = sums[:, 2] / sums[:, 3] - sums[:, 0] / sums[:, 1]
    totals = both.sum(axis=0)
    return Difference(
        float(totals[2] / totals[3] - totals[0] / totals[1]),
        _percentiles(drawn),
        float(np.mean(drawn < 0)),
    )


def _table(units: Sequence[Counts]) -> Floats:
    return np.array([(one.errors, one.words) for one in units], dtype=np.float64).reshape(-1, 2)


def _resampled(counts: Floats, seed: int, resamples: int) -> Floats:
    """(resamples, columns) float64: the sums of each resample in which there are words."""
    sums = np.concatenate(list(_batches(counts, np.random.default_rng(seed), resamples)))
    return sums[sums[:, 1] > 0]


def _batches(counts: Floats, random: np.random.Generator, resamples: int) -> Iterator[Floats]:
    size = max(1, BATCH // len(counts))
    for start in range(0, resamples, size):
        shape = (min(size, resamples - start), len(counts))
        yield counts[random.integers(len(counts), size=shape)].sum(axis=1)


def _percentiles(values: Floats) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high))
