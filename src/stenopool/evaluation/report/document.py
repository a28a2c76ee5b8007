"""The report as plain data: what is written as JSON, and what table and page are made of."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from stenopool import __version__
from stenopool.evaluation.intervals import CONFIDENCE, RESAMPLES, Interval
from stenopool.evaluation.machine import machine
from stenopool.evaluation.normalise import normaliser_name
from stenopool.evaluation.run import Evaluation, Outcome, Plan, Result
from stenopool.evaluation.score import Counts
from stenopool.evaluation.summary import Summary, spoken, summaries, unit
from stenopool.text import encodable

SCHEMA = "stenopool.evaluation/1"

Document = dict[str, Any]


def document(evaluation: Evaluation, *, command: str, sources: Sequence[str]) -> Document:
    """All figures of an evaluation, those of single recordings too, as JSON has them.

    Bytes of names that are not UTF-8 are replacement characters.

    Args:
        evaluation: what was done.
        command: the exact command line that did it.
        sources: manifests and data sets, as they were named.
    """
    plan = evaluation.plan
    figures = zip(evaluation.results, summaries(evaluation), strict=True)
    made = {
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "stenopool": __version__,
        "command": command,
        "machine": asdict(machine()),
        "data": {"sources": list(sources), **_data(evaluation)},
        "settings": {
            "seed": plan.seed,
            "together": plan.together,
            "confidence": CONFIDENCE,
            "resamples": RESAMPLES,
        },
        "systems": [{"name": name, **asdict(one)} for name, one in evaluation.systems.items()],
        "conditions": [{"name": one.name, "meaning": one.meaning} for one in plan.conditions],
        "results": [_result(result, summary) for result, summary in figures],
    }
    whole: Document = json.loads(encodable(json.dumps(made, ensure_ascii=False)))
    return whole


def to_json(report: Document) -> str:
    """As a file."""
    return json.dumps(report, ensure_ascii=False, indent=1) + "\n"


def _data(evaluation: Evaluation) -> dict[str, object]:
    plan, outcomes = evaluation.plan, evaluation.results[0].outcomes
    with_speech = spoken(outcomes)
    return {
        "recordings": len(plan.recordings),
        "with_speech": len(with_speech),
        "words": sum(one.score.counts.words for one in with_speech),
        "seconds": sum(one.seconds or 0.0 for one in outcomes),
        "unit": unit(outcomes),
        "units": sum(len(one.score.units) for one in with_speech),
        "normalisers": _normalisers(plan),
    }


def _normalisers(plan: Plan) -> dict[str, int]:
    names = (normaliser_name(one.language or plan.language) for one in plan.recordings)
    return dict(sorted(Counter(names).items()))


def _result(result: Result, summary: Summary) -> dict[str, object]:
    factor, compared = summary.real_time_factor, summary.difference
    return {
        "system": result.system,
        "condition": result.condition.name,
        **_counts(summary.counts),
        "wer_interval": _interval(summary.interval),
        "difference": compared
        and {
            "wer": compared.value,
            "wer_interval": _interval(compared.interval),
            "better": compared.better,
        },
        "failed": summary.failed,
        "repeated": summary.repeated,
        "nonspeech_minutes": summary.nonspeech_minutes,
        "words_per_nonspeech_minute": summary.invented,
        "real_time_factor": factor,
        "latency": summary.latency
        and {f"p{percent}": value for percent, value in summary.latency.items()},
        "recordings": [_outcome(one) for one in result.outcomes],
    }


def _counts(counts: Counts) -> dict[str, object]:
    return {
        "words": counts.words,
        "substitutions": counts.substitutions,
        "deletions": counts.deletions,
        "insertions": counts.insertions,
        "wer": counts.wer,
        "cer": counts.cer,
    }


def _outcome(outcome: Outcome) -> dict[str, object]:
    return {
        "id": outcome.recording.id,
        "seconds": outcome.seconds,
        "wall_seconds": outcome.answer.seconds,
        "error": outcome.answer.error,
        **_counts(outcome.score.counts),
        "repeated": outcome.score.repeated,
        "reference": outcome.recording.text,
        "hypothesis": outcome.answer.text,
        "alignment": [
            [one.kind, _words(one.reference), _words(one.hypothesis)]
            for one in outcome.score.chunks
        ],
    }


def _words(words: Iterable[str]) -> str:
    return " ".join(words)


def _interval(interval: Interval | None) -> list[float] | None:
    return [interval.low, interval.high] if interval else None
