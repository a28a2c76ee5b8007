"""The figures of one system under one condition."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from stenopool.evaluation.intervals import Difference, Interval, difference, interval
from stenopool.evaluation.run import Evaluation, Outcome, Result
from stenopool.evaluation.score import Counts, pooled

PERCENTILES = (50, 95, 99)


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures; rates are fractions, and `None` where there is nothing to divide by.

    Attributes:
        counts: over recordings in which something is said.
        interval: of their word error rate.
        difference: to the first system; `None` for that system itself.
        failed: recordings that failed, by error code.
        repeated: share of five-word sequences that repeat an earlier one beyond the reference.
        nonspeech_minutes: length of the recordings in which nothing is said; babble says something.
        invented: words in those, a minute.
        real_time_factor: seconds of work for a second of sound.
        latency: seconds that single recordings took, by percentile; `None` where they were taken
            together.
    """

    counts: Counts
    interval: Interval | None
    difference: Difference | None
    failed: dict[str, int]
    repeated: float | None
    nonspeech_minutes: float
    invented: float | None
    real_time_factor: float | None
    latency: dict[int, float] | None


def summaries(evaluation: Evaluation) -> list[Summary]:
    """One for each result, in their order."""
    first = next(iter(evaluation.systems))
    baselines = {one.condition.name: one for one in evaluation.results if one.system == first}
    return [_summary(one, baselines[one.condition.name], evaluation) for one in evaluation.results]


def unit(outcomes: Iterable[Outcome]) -> str:
    """What is resampled for the intervals."""
    divided = any(len(one.score.units) > 1 for one in spoken(outcomes))
    return "utterance" if divided else "recording"


def spoken(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The outcomes of recordings in which something is said."""
    return [one for one in outcomes if _words_are_said(one)]


def _words_are_said(outcome: Outcome) -> bool:
    return bool((outcome.recording.text or "").strip())


def _summary(result: Result, baseline: Result, evaluation: Evaluation) -> Summary:
    outcomes, seed = result.outcomes, evaluation.plan.seed
    units = _units(outcomes)
    minutes, invented = _invented([] if result.condition.speech_added else outcomes)
    compared = None
    if result is not baseline:
        compared = difference(_units(baseline.outcomes), units, seed=seed)
    return Summary(
        counts=pooled(one.score for one in spoken(outcomes)),
        interval=interval(units, seed=seed),
        difference=compared,
        failed=_failed(outcomes),
        repeated=_share(outcomes),
        nonspeech_minutes=minutes,
        invented=invented / minutes if minutes else None,
        real_time_factor=_real_time_factor(outcomes),
        latency=None if evaluation.plan.together else _latency(outcomes),
    )


def _units(outcomes: Iterable[Outcome]) -> list[Counts]:
    return [counts for one in spoken(outcomes) for counts in one.score.units]


def _failed(outcomes: Iterable[Outcome]) -> dict[str, int]:
    codes = [str(one.answer.error["code"]) for one in outcomes if one.answer.error]
    return {code: codes.count(code) for code in sorted(set(codes))}


def _share(outcomes: Sequence[Outcome]) -> float | None:
    runs = sum(one.score.runs for one in outcomes)
    return sum(one.score.repeated for one in outcomes) / runs if runs else None


def _invented(outcomes: Iterable[Outcome]) -> tuple[float, int]:
    """Minutes in which nothing is said, and words that were heard in them."""
    silent = [one for one in outcomes if not _words_are_said(one) and not one.answer.error]
    seconds = sum(one.seconds or 0.0 for one in silent)
    return seconds / 60, sum(one.score.counts.insertions for one in silent)


def _real_time_factor(outcomes: Iterable[Outcome]) -> float | None:
    """Of recordings that did not fail: failing is fast."""
    timed = [
        (one.answer.seconds, one.seconds)
        for one in outcomes
        if one.answer.error is None and one.seconds
    ]
    if not timed:
        return None
    return sum(wall for wall, _ in timed) / sum(seconds for _, seconds in timed)


def _latency(outcomes: Iterable[Outcome]) -> dict[int, float] | None:
    walls = [one.answer.seconds for one in outcomes if one.answer.error is None]
    if not walls:
        return None
    found = np.percentile(walls, PERCENTILES)
    return dict(zip(PERCENTILES, map(float, found), strict=True))
