"""What a run has left in its bucket, and whether that is what it should be."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from stenopool.bucket import Bucket
from stenopool.pipeline import keys
from stenopool.pipeline.jobs import JobView

FORMATS = ("txt", "srt", "vtt", "json")
MOST_SHOWN = 5  # names in one message

# Engines that read windows side by side add up in another order then: measured, texts and times are
# the same, and these figures differ by up to 0.003.
FIGURES = frozenset({"avg_logprob", "no_speech_prob", "probability"})
TOLERANCE = 0.02


@dataclass(frozen=True)
class Found:
    """The content of a bucket; names are below the folders.

    Attributes:
        processed, failed: SHA-256 of the recordings.
        codes: of the error records, by the recording's name.
        documents: content, by the name in `output/`.
        left: keys in `input/` and `work/`.
    """

    processed: Mapping[str, str]
    failed: Mapping[str, str]
    codes: Mapping[str, str]
    documents: Mapping[str, bytes]
    left: tuple[str, ...]

    def with_failed(self, failed: Mapping[str, str], code: str) -> Found:
        """The same, with recordings in `failed/` besides, all for one reason."""
        codes = dict.fromkeys(failed, code)
        return replace(self, failed={**self.failed, **failed}, codes={**self.codes, **codes})


def collected(bucket: Bucket) -> Found:
    """All that stands in a bucket."""
    failed = [key for key in bucket.keys(keys.FAILED) if not key.endswith(keys.RECORD_SUFFIX)]
    records = [key for key in bucket.keys(keys.FAILED) if key.endswith(keys.RECORD_SUFFIX)]
    return Found(
        processed=_digests(bucket, bucket.keys(keys.PROCESSED), keys.PROCESSED),
        failed=_digests(bucket, failed, keys.FAILED),
        codes={_named(key): _code(bucket.read(key)) for key in records},
        documents={
            key.removeprefix(keys.OUTPUT): bucket.read(key) or b""
            for key in bucket.keys(keys.OUTPUT)
        },
        left=(*bucket.keys(keys.INPUT), *bucket.keys(keys.WORK)),
    )


def digest(data: bytes) -> str:
    """Names a content."""
    return hashlib.sha256(data).hexdigest()


def broken(sent: Mapping[str, str], found: Found, reference: Found) -> list[str]:
    """Which claims do not hold; empty where all do.

    Args:
        sent: SHA-256 of what was put into `input/`, by name.
        reference: what an undisturbed run has left of the same recordings.
    """
    return [
        *_unsettled(sent, found),
        *_elsewhere(found, reference),
        *_documents(found, reference),
        *_unlike(found, reference),
    ]


def broken_jobs(jobs: Iterable[JobView]) -> list[str]:
    """What the database says that it should not."""
    views = list(jobs)
    times = Counter(one.job.key for one in views)
    doubled = [key for key, count in times.items() if count > 1]
    states = Counter(one.state for one in views if one.state not in {"done", "failed"})
    return [
        *([f"more than one job: {_some(doubled)}"] if doubled else []),
        *(f"{count} jobs are {state}" for state, count in states.items()),
    ]


def _unsettled(sent: Mapping[str, str], found: Found) -> Iterator[str]:
    """Every recording stands, unchanged, in one place, and nothing is left of the work."""
    both = found.processed.keys() & found.failed.keys()
    missing = sent.keys() - found.processed.keys() - found.failed.keys()
    invented = (found.processed.keys() | found.failed.keys()) - sent.keys()
    there = {**found.failed, **found.processed}
    changed = [name for name in sent if there.get(name, sent[name]) != sent[name]]
    if missing:
        yield f"neither in processed/ nor in failed/: {_some(missing)}"
    if both:
        yield f"in processed/ and in failed/: {_some(both)}"
    if invented:
        yield f"recordings that nobody has sent: {_some(invented)}"
    if changed:
        yield f"recordings changed on the way: {_some(changed)}"
    if found.left:
        yield f"left behind: {_some(found.left)}"


def _elsewhere(found: Found, reference: Found) -> Iterator[str]:
    """What failed undisturbed fails again for the same reason, and nothing else does."""
    if wrong := found.failed.keys() - reference.failed.keys():
        why = sorted({found.codes.get(name, "no record") for name in wrong})
        yield f"failed, but not undisturbed: {_some(wrong)} ({', '.join(why)})"
    if lenient := reference.failed.keys() & found.processed.keys():
        yield f"processed, but failed undisturbed: {_some(lenient)}"
    codes = {name: found.codes.get(name, "no record") for name in found.failed}
    if other := [name for name, code in codes.items() if reference.codes.get(name, code) != code]:
        yield f"failed for another reason: {_some(other)}"
    if alone := found.codes.keys() - found.failed.keys():
        yield f"error records without recordings: {_some(alone)}"


def _documents(found: Found, reference: Found) -> Iterator[str]:
    """Each recording has one document of each format."""
    wanted = {f"{name}.{format}" for name in found.processed for format in FORMATS}
    wanted |= {f"{name}.{format}" for name in reference.processed for format in FORMATS}
    if missing := wanted - found.documents.keys():
        yield f"documents missing: {_some(missing)}"
    if doubled := found.documents.keys() - wanted:
        yield f"documents too many: {_some(doubled)}"


def _unlike(found: Found, reference: Found) -> Iterator[str]:
    """Each document is the undisturbed one."""
    for name in sorted(found.documents.keys() & reference.documents.keys()):
        ours, theirs = found.documents[name], reference.documents[name]
        if not name.endswith(".json"):
            if ours != theirs:
                yield f"document changed: {name}"
        elif where := difference(_parsed(theirs), _parsed(ours)):
            yield f"transcript changed: {name}: {where}"


def difference(wanted: Any, found: Any) -> str:  # noqa: ANN401  JSON
    """Where two transcripts differ first, `timing` apart; empty where they do not."""
    for path, one, other in _differing(wanted, found):
        if not _is_figure(path) or abs(one - other) > TOLERANCE:
            return f"`{path}` is {_brief(other)}, undisturbed {_brief(one)}"
    return ""


def drift(found: Found, reference: Found) -> float:
    """The largest difference of a figure that the engine may give differently each time."""
    most = 0.0
    for name in found.documents.keys() & reference.documents.keys():
        if name.endswith(".json"):
            both = _parsed(reference.documents[name]), _parsed(found.documents[name])
            pairs = [(one, other) for path, one, other in _differing(*both) if _is_figure(path)]
            most = max(most, *(abs(one - other) for one, other in pairs), 0.0)
    return most


def _differing(wanted: Any, found: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:  # noqa: ANN401
    """The places where two JSON values differ: path, and both values."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for name in sorted((wanted.keys() | found.keys()) - {"timing"}):
            where = f"{path}.{name}".lstrip(".")
            yield from _differing(wanted.get(name), found.get(name), where)
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        for number, (one, other) in enumerate(zip(wanted, found, strict=True)):
            yield from _differing(one, other, f"{path}[{number}]")
    elif wanted != found:
        yield path, wanted, found


def _is_figure(path: str) -> bool:
    return path.rpartition(".")[2] in FIGURES


def _digests(bucket: Bucket, found: Iterable[str], folder: str) -> dict[str, str]:
    return {key.removeprefix(folder): digest(bucket.read(key) or b"") for key in found}


def _named(record: str) -> str:
    return record.removeprefix(keys.FAILED).removesuffix(keys.RECORD_SUFFIX)


def _code(record: bytes | None) -> str:
    data = _parsed(record or b"")
    return str(data.get("code")) if isinstance(data, dict) else "no JSON"


def _parsed(document: bytes) -> Any:  # noqa: ANN401  JSON
    try:
        return json.loads(document)
    except ValueError:
        return {"not JSON": len(document)}


def _some(names: Iterable[str]) -> str:
    found = sorted(names)
    more = f" and {len(found) - MOST_SHOWN} more" if len(found) > MOST_SHOWN else ""
    return ", ".join(found[:MOST_SHOWN]) + more


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
