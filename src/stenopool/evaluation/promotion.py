"""Whether a model is good and fast enough to take the place of the default.

Both hear the same recordings in turns (see `bench`), so that what else the machine does hits both.
The word error rates are compared by the paired bootstrap of `intervals`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stenopool import __version__
from stenopool.errors import EngineFailed, UsageError
from stenopool.evaluation.bench import Material, Standing
from stenopool.evaluation.intervals import Difference, difference
from stenopool.evaluation.machine import machine

SEED = 0  # of the intervals


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far a model may be behind the default.

    Attributes:
        max_wer_increase: of the word error rate, a fraction of the words; negative asks for fewer
            errors.
        min_speed: times as fast as the default.
        sure: it is the upper end of the 95 % interval of the increase that must be within.
    """

    max_wer_increase: float
    min_speed: float
    sure: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """A model beside the default.

    Attributes:
        wer: difference of the word error rates.
        speed_ratio: median of the ratios within the rounds.
        reasons: why it does not become the default; none where it may.
    """

    wer: Difference
    speed_ratio: float
    reasons: tuple[str, ...]


def judged(default: Standing, candidate: Standing, bounds: Bounds) -> Found:
    """Compare the two.

    Raises:
        EngineFailed: one of them died, or answered nothing at all.
        UsageError: there are not two utterances to compare by.
    """
    for one in (default, candidate):
        if one.error:
            raise EngineFailed(f"`{one.name}` ended: {one.error['message']}", do="Run it again")
    ratio = candidate.ratio(default)
    if not ratio:
        raise EngineFailed(
            "one of the two transcribed no recording", do="Look at the recordings' errors"
        )
    wer = difference(default.units, candidate.units, seed=SEED)
    if wer is None:
        raise UsageError(
            "two utterances are needed at least to compare word error rates",
            do="Give more recordings with a text",
        )
    return Found(wer, ratio, tuple(_reasons(wer, ratio, default, candidate, bounds)))


def _reasons(
    wer: Difference, ratio: float, default: Standing, candidate: Standing, bounds: Bounds
) -> Iterator[str]:
    most = f"{100 * bounds.max_wer_increase:.2f} are allowed"
    if wer.value > bounds.max_wer_increase:
        yield f"its word error rate is {100 * wer.value:+.2f} points, and {most}"
    elif bounds.sure and wer.interval.high > bounds.max_wer_increase:
        yield f"its word error rate may be {100 * wer.interval.high:+.2f} points, and {most}"
    if ratio < bounds.min_speed:
        yield f"it is {ratio:.2f} times as fast, and {bounds.min_speed:.2f} are asked for"
    if (failed := _failed(candidate)) > (before := _failed(default)):
        yield f"it failed on {failed} of the recordings, the default on {before}"


def _failed(one: Standing) -> int:
    return sum(one.turns[0].failed.values())


def record(
    standings: tuple[Standing, Standing],
    hashes: tuple[str, str],
    found: Found,
    bounds: Bounds,
    material: Sequence[Material],
    sources: Sequence[str],
) -> dict[str, Any]:
    """What is written down of a decision, as plain data.

    Args:
        standings: of the default and the candidate.
        hashes: SHA-256 of each.
        sources: of the recordings, as they were named.
    """
    default, candidate = standings
    return {
        "bounds": asdict(bounds),
        "found": {
            "wer_increase": found.wer.value,
            "wer_increase_interval": [found.wer.interval.low, found.wer.interval.high],
            "speed_ratio": round(found.speed_ratio, 3),
            "reasons": list(found.reasons),
        },
        "default": _system(default, hashes[0]),
        "candidate": _system(candidate, hashes[1]),
        "data": _data(material, sources, default),
        "machine": asdict(machine()),
        "stenopool": __version__,
    }


def _system(one: Standing, sha256: str) -> dict[str, Any]:
    counts, figures = one.counts, one.figures
    return {
        "name": one.name,
        "sha256": sha256,
        "wer": counts and counts.wer,
        "substitutions": counts and counts.substitutions,
        "deletions": counts and counts.deletions,
        "insertions": counts and counts.insertions,
        "speed": round(one.speed or 0.0, 2),
        "speeds": [round(turn.speed, 2) for turn in one.turns],
        "failed": one.turns[0].failed,
        "steady": one.steady,
        "peak_memory": figures and figures.peak_memory,
        "runs_on": figures and figures.detail,
    }


def _data(
    material: Sequence[Material], sources: Sequence[str], default: Standing
) -> Mapping[str, Any]:
    listing = hashlib.sha256()
    for one in material:
        known = [one.recording.id, one.recording.text, round(one.seconds, 3)]
        listing.update(json.dumps(known).encode())
    files = {Path(one).name: _sha256(Path(one)) for one in sources if Path(one).is_file()}
    return {
        "sources": [Path(one).name or one for one in sources],
        "sha256": files,
        "listing_sha256": listing.hexdigest(),
        "recordings": len(material),
        "seconds": round(sum(one.seconds for one in material), 3),
        "words": default.counts.words if default.counts else 0,
    }


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
