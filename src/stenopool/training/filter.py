"""Which pseudo-labels are good enough to learn from, and why the others are not.

Where somebody wrote down what is said, that judges: a word error rate, after normalisation, of the
label. Elsewhere the label's own figures do, and if asked the transcript of a second model.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stenopool import pictures
from stenopool.data.sources import MANIFEST
from stenopool.data.splits import TRAIN, divided
from stenopool.data.splits import VALID as HELD_OUT
from stenopool.decoding.quality import FAST, REPETITION, compression_ratio, has_loop
from stenopool.errors import UsageError
from stenopool.evaluation.normalise import normaliser
from stenopool.evaluation.score import score
from stenopool.files import make_folder, write_whole
from stenopool.training.examples import Bad
from stenopool.training.labels import LabelledWindow, labelled, line
from stenopool.training.second_opinion import heard_again

if TYPE_CHECKING:
    from stenopool.decoding.transcriber import Transcriber

REPORT, DROPPED, HISTOGRAM = "report.json", "dropped.jsonl", "filter.png"
VALID = "valid.jsonl"
BINS = 40
EMPTY, WER, LOOP, LOW, DISAGREEMENT = "empty", "wer", "loop", "low_probability", "disagreement"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a label may have at most, or must have at least.

    Attributes:
        max_wer: Word error rate against the given text, where there is one; a fraction.
        min_logprob: Mean log-probability of each segment, where there is no given text.
        max_compression: Bytes of text over bytes of it compressed, where there is no given text.
        max_disagreement: Word error rate against the second model, where there is no given text.
    """

    max_wer: float = 0.10
    min_logprob: float = -1.0
    max_compression: float = 2.4
    max_disagreement: float = 0.20

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            wanted = "0 or less" if name == "min_logprob" else "0 or more"
            if not (value <= 0 if name == "min_logprob" else value >= 0):
                raise UsageError(f"`{name}` cannot be {value}", do=f"Give {wanted}")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said of a window.

    Attributes:
        reason: why it is dropped; empty if it is kept.
        wer: against the given text, where there is one.
        logprob: the lowest of its segments.
        disagreement: word error rate against the second model's text.
    """

    window: LabelledWindow
    reason: str
    wer: float | None
    logprob: float
    disagreement: float | None = None


def filter_labels(
    source: str,
    output: Path,
    bounds: Bounds | None = None,
    *,
    second: Transcriber | None = None,
    hold_out: float = 0.0,
    seed: int = 0,
    bad: Bad,
    report: Callable[[float], None] = lambda seconds: None,
) -> dict[str, Any]:
    """Keep what is good to learn from.

    Args:
        source: a manifest of `steno data pseudo-label`.
        output: gets `manifest.jsonl`, `dropped.jsonl`, `report.json`, and a histogram if matplotlib
            is there; it must hold no manifest yet.
        second: another model, which hears the windows that have no given text.
        hold_out: share of the hours that goes to `valid.jsonl`, whole speakers, and not dropped for
            what the labels are like: leaving out what is hard would flatter a student.
        seed: of the choice of those speakers.
        bad: takes note of lines that are no windows, or raises.
        report: called with the seconds that the second model has heard.

    Returns:
        What `report.json` holds.

    Raises:
        InputError, UsageError: the source cannot be read, or holds nothing.
        OutputError: the folder cannot take the files.
    """
    bounds = bounds or Bounds()
    if (output / MANIFEST).exists():
        raise UsageError(f"`{output}` holds a manifest already", do="Choose another folder")
    windows = list(labelled(source, bad))
    if not windows:
        raise UsageError(f"`{source}` holds no labelled window", do="Check the manifest")
    make_folder(output)
    held = _held_out(windows, hold_out, seed)
    learned = [one for one in windows if one.id not in held]
    texts = heard_again(learned, second, output, report) if second else {}
    verdicts = [judged(one, bounds, texts.get(one.id)) for one in learned]
    told = {
        "source": source,
        "bounds": asdict(bounds),
        "second": asdict(second.info) if second else None,
        "skipped": dict(bad.counts),
        "held_out": {"windows": len(held), "share": hold_out, "seed": seed},
        **_numbers(verdicts),
    }
    dropped = (
        json.dumps(
            {
                "id": one.window.id,
                "reason": one.reason,
                "wer": _rounded(one.wer),
                "avg_logprob": _rounded(one.logprob),
                "disagreement": _rounded(one.disagreement),
                "text": one.window.text,
                "reference": one.window.reference,
            },
            ensure_ascii=False,
        )
        for one in verdicts
        if one.reason
    )
    kept = (line(one.window, output) for one in verdicts if not one.reason)
    if held:
        rest = (line(one, output) for one in windows if one.id in held and one.text.strip())
        write_whole(output / VALID, "".join(f"{one}\n" for one in rest))
    write_whole(output / DROPPED, "".join(f"{one}\n" for one in dropped))
    write_whole(output / REPORT, json.dumps(told, ensure_ascii=False, indent=2) + "\n")
    _draw(verdicts, bounds, output)
    write_whole(output / MANIFEST, "".join(f"{one}\n" for one in kept))
    return told


def _held_out(windows: Sequence[LabelledWindow], share: float, seed: int) -> set[str]:
    """The windows of some speakers; those of which nobody knows who speaks are one each."""
    if not 0 <= share < 1:
        raise UsageError(f"`hold_out` cannot be {share}", do="Give a share from 0 to below 1")
    if not share:
        return set()
    groups: dict[str, float] = {}
    for one in windows:
        groups[_speaker(one)] = groups.get(_speaker(one), 0.0) + one.seconds
    chosen = divided(groups, {TRAIN: 1 - share, HELD_OUT: share}, seed)
    return {one.id for one in windows if chosen[_speaker(one)] == HELD_OUT}


def _speaker(window: LabelledWindow) -> str:
    return f"window {window.id}" if window.speaker is None else f"speaker {window.speaker}"


def judged(window: LabelledWindow, bounds: Bounds, second: str | None = None) -> Verdict:
    """Whether a label is kept, and if not why.

    Args:
        second: what another model heard; counts where there is no given text.
    """
    compare = normaliser(window.language)
    logprob = min((one.avg_logprob for one in window.passages), default=0.0)
    if not any(one.isalnum() for one in window.text):
        return Verdict(window, EMPTY, None, logprob)
    if window.reference is not None:
        wer = _rate(window.reference, window.text, compare)
        return Verdict(window, WER if wer > bounds.max_wer else "", wer, logprob)
    reason = _doubt(window, bounds, logprob)
    if reason or second is None:
        return Verdict(window, reason, None, logprob)
    wer = _rate(second, window.text, compare)
    return Verdict(
        window, DISAGREEMENT if wer > bounds.max_disagreement else "", None, logprob, wer
    )


def _doubt(window: LabelledWindow, bounds: Bounds, logprob: float) -> str:
    """What the label's own figures speak against it; empty if nothing."""
    flags = {flag for one in window.passages for flag in one.flags}
    compressed = max(_compression(window), compression_ratio(window.text))
    if REPETITION in flags or has_loop(window.text) or compressed > bounds.max_compression:
        return LOOP
    if FAST in flags:
        return FAST
    return LOW if logprob < bounds.min_logprob else ""


def _compression(window: LabelledWindow) -> float:
    return max((one.compression_ratio for one in window.passages), default=0.0)


def _rate(said: str, heard: str, compare: Callable[[str], str]) -> float:
    """Infinite where nothing was said and something was heard."""
    if not compare(said):
        return math.inf if compare(heard) else 0.0
    found = score([said], heard, compare).counts.wer
    return math.inf if found is None else found


def _numbers(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    reasons = Counter(one.reason for one in verdicts if one.reason)
    kept = [one for one in verdicts if not one.reason]
    rates = sorted(one.wer for one in verdicts if one.wer is not None)
    return {
        "windows": len(verdicts),
        "hours": _hours(verdicts),
        "kept": len(kept),
        "kept_hours": _hours(kept),
        "dropped": {
            reason: {
                "windows": count,
                "hours": _hours([one for one in verdicts if one.reason == reason]),
            }
            for reason, count in sorted(reasons.items())
        },
        "with_reference": len(rates),
        "median_wer": _rounded(rates[len(rates) // 2]) if rates else None,
        "words_kept": sum(len(one.window.text.split()) for one in kept),
    }


def _hours(verdicts: Sequence[Verdict]) -> float:
    return round(sum(one.window.seconds for one in verdicts) / 3600, 4)


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 4)


def _draw(verdicts: Sequence[Verdict], bounds: Bounds, folder: Path) -> None:
    """Histograms of what was judged by, if matplotlib is there."""
    if not pictures.can_draw():
        return
    rates = [min(one.wer, 1.0) * 100 for one in verdicts if one.wer is not None]
    apart = [min(one.disagreement, 1.0) * 100 for one in verdicts if one.disagreement is not None]
    judged: Mapping[str, tuple[Sequence[float], float]] = {
        "word error rate against the given text, % (more than 100 as 100)": (
            rates,
            bounds.max_wer * 100,
        ),
        "word error rate against the second model, % (more than 100 as 100)": (
            apart,
            bounds.max_disagreement * 100,
        ),
        "lowest mean log-probability": ([one.logprob for one in verdicts], bounds.min_logprob),
    }
    shown = {label: values for label, values in judged.items() if values[0]}
    figure = pictures.empty(3.0 * len(shown))
    for at, (label, (values, bound)) in enumerate(shown.items(), start=1):
        axes = figure.add_subplot(len(shown), 1, at)
        axes.hist(values, bins=BINS, color=pictures.BAR)
        axes.axvline(bound, color="#cc0000", linestyle="--")
        axes.set_xlabel(label)
        axes.set_ylabel("windows")
        axes.grid(axis="y", alpha=0.3)
    pictures.write_png(folder / HISTOGRAM, figure)
