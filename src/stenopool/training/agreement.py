"""How good a student is: its error rates, and how far it writes what its teacher writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stenopool.evaluation.normalise import normaliser
from stenopool.evaluation.score import pooled, score
from stenopool.training.task import Evaluation

SHOWN = 10  # samples of each evaluation


@dataclass(frozen=True, slots=True)
class Said:
    """What became of a window.

    Attributes:
        reference: what is said; the label, where nobody wrote it down.
        text, tokens: of the student.
        teacher: tokens of the teacher.
        loss: nats a token, of the batch that the window was in.
        alike: share of tokens of that batch at which student and teacher, told the same text so
            far, would go on alike.
    """

    id: str
    language: str | None
    reference: str
    text: str
    tokens: tuple[int, ...]
    teacher: tuple[int, ...]
    loss: float
    alike: float


def evaluated(found: Sequence[Said], wanted: int) -> Evaluation:
    """The figures of all windows together."""
    counts = pooled(score([one.reference], one.text, normaliser(one.language)) for one in found)
    figures = {
        "wer": 1.0 if counts.wer is None else counts.wer,
        "cer": 1.0 if counts.cer is None else counts.cer,
        "agreement": agreement(found),
        "next_token": _mean([one.alike for one in found]),
        "loss": _mean([one.loss for one in found]),
        "words": float(counts.words),
        "recordings": float(len(found)),
        "left_out": float(wanted - len(found)),
    }
    ordered = sorted(found, key=lambda one: one.id)
    samples = [
        {"id": one.id, "reference": one.reference, "hypothesis": one.text}
        for one in ordered[:: max(1, len(ordered) // SHOWN)][:SHOWN]
    ]
    return Evaluation(figures["wer"], figures, samples)


def agreement(found: Sequence[Said]) -> float:
    """Share of the teacher's tokens that the student writes too, in greedy decoding of both.

    Each wrong, missing or additional token counts against it, as in an error rate.
    """
    from rapidfuzz.distance import Levenshtein

    wrong = sum(Levenshtein.distance(one.tokens, one.teacher) for one in found)
    tokens = sum(len(one.teacher) for one in found)
    return max(0.0, 1.0 - wrong / max(1, tokens))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))
