"""What is kept of a job in `work/` until it is done, so that another process can go on with it.

    work/<job>/readings/<window>.json   what was read in one window
    work/<job>/spans/<span>.npz         speech of some windows, for whoever reads them
    work/<job>/plan.json                which windows there are, once the recording was heard
    work/<job>/transcript.json          the transcript, before it is published

Everything is made by create-if-absent and named by what it depends on, so that two processes which
both believe that a job is theirs cannot mix their work. What is damaged counts as not there.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np

from stenopool import __version__
from stenopool.audio import SAMPLE_RATE
from stenopool.audio.windows import Piece, Window
from stenopool.bucket import Bucket, Key
from stenopool.decoding.assembly import Facts
from stenopool.decoding.language import Language
from stenopool.decoding.options import Options
from stenopool.decoding.quality import Figures
from stenopool.decoding.readings import Reading
from stenopool.pipeline import keys
from stenopool.settings import settings
from stenopool.transcript import ModelInfo, Transcript, Word

T = TypeVar("T")

_WINDOW = re.compile(r"[0-9]{12,18}-[0-9a-f]{16}")
_SPAN = re.compile(r"[0-9]{12,18}-[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class Kept:
    """What was read in a window, and the seconds of a worker's time that it took."""

    readings: list[Reading]
    compute_seconds: float


@dataclass(frozen=True, slots=True)
class Plan:
    """A recording that was heard to its end.

    Attributes:
        windows: names of its windows, in order.
        spans: names of the spans that others read.
        mark: `fingerprint` of what heard it.
    """

    facts: Facts
    windows: tuple[str, ...]
    spans: tuple[str, ...]
    mark: str


def fingerprint(model: ModelInfo, options: Options, language: str) -> str:
    """Of everything besides the speech that a reading depends on."""
    aligner = settings().aligner  # refines the times of words
    text = json.dumps([__version__, asdict(model), asdict(options), language, aligner])
    return hashlib.sha256(text.encode()).hexdigest()


def window_name(window: Window, fingerprint: str) -> str:
    """Names what is read in a window; in order of their beginnings."""
    borders = [(one.start, one.end, one.voice_start, one.voice_end) for one in window.pieces]
    digest = hashlib.sha256(json.dumps([borders, fingerprint]).encode()).hexdigest()[:16]
    return f"{window.pieces[0].start:012d}-{digest}"


def span_name(windows: Sequence[str]) -> str:
    """Names a span by the windows in it."""
    digest = hashlib.sha256(json.dumps(list(windows)).encode()).hexdigest()[:8]
    return f"{windows[0].partition('-')[0]}-{digest}"


def start_of(name: str) -> float:
    """Where a window or a span of this name begins, in seconds of the recording."""
    return int(name.partition("-")[0]) / SAMPLE_RATE


class Checkpoints:
    """The folder of one job."""

    def __init__(self, bucket: Bucket, job_id: str) -> None:
        self._bucket = bucket
        self._folder = keys.job_folder(job_id)

    def present(self) -> set[str]:
        """Names of the windows that were read."""
        prefix = f"{self._folder}/readings/"
        found = self._bucket.keys(prefix)
        return {key.removeprefix(prefix).removesuffix(".json") for key in found}

    def kept(self, window: str) -> Kept | None:
        """What was read in a window."""
        return _parsed(self._bucket.read(self._reading_key(window)), _kept)

    def keep(self, window: str, kept: Kept) -> None:
        """Keep what was read in a window; who is second changes nothing, unless to mend."""
        data = {"compute": kept.compute_seconds, "readings": [asdict(one) for one in kept.readings]}
        key, document = self._reading_key(window), json.dumps(data)
        if not self._bucket.create(key, document) and self.kept(window) is None:
            self._bucket.write(key, document)

    def store_span(self, name: str, windows: Sequence[Window]) -> None:
        """Keep the speech of windows."""
        self._bucket.create(self._span_key(name), _packed(windows))

    def span(self, name: str) -> list[Window] | None:
        """The windows of a span; None where it is gone."""
        data = self._bucket.read(self._span_key(name))
        try:
            return None if data is None else _unpacked(data)
        except Exception:  # noqa: BLE001  NumPy and zipfile raise whatever comes of damaged bytes
            self.drop_span(name)
            return None

    def drop_span(self, name: str) -> None:
        """Its windows have been read."""
        self._bucket.delete(self._span_key(name))

    def plan(self) -> Plan | None:
        """The plan, once the recording was heard."""
        return _parsed(self._bucket.read(self._plan_key), _plan)

    def store_plan(self, plan: Plan) -> None:
        """Keep the plan."""
        self._bucket.write(self._plan_key, json.dumps(asdict(plan)))

    def drop_plan(self, lost: Iterable[str]) -> None:
        """It promises windows that are not there, or damaged: the recording must be heard again."""
        for window in lost:
            self._bucket.delete(self._reading_key(window))
        self._bucket.delete(self._plan_key)

    def transcript(self) -> Transcript | None:
        """The transcript, if it is complete."""
        return _parsed(self._bucket.read(self._transcript_key), Transcript.from_dict)

    def store_transcript(self, transcript: Transcript) -> None:
        """Keep the transcript; the first one stands."""
        document = json.dumps(transcript.to_dict())
        if not self._bucket.create(self._transcript_key, document) and self.transcript() is None:
            self._bucket.write(self._transcript_key, document)

    def clear(self) -> None:
        """Remove everything."""
        self._bucket.delete_below(self._folder)

    def _reading_key(self, window: str) -> Key:
        return f"{self._folder}/readings/{window}.json"

    def _span_key(self, name: str) -> Key:
        return f"{self._folder}/spans/{name}.npz"

    @property
    def _plan_key(self) -> Key:
        return f"{self._folder}/plan.json"

    @property
    def _transcript_key(self) -> Key:
        return f"{self._folder}/transcript.json"


def _parsed(data: bytes | None, parse: Callable[[Any], T]) -> T | None:
    try:
        return None if data is None else parse(json.loads(data))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def _kept(data: Mapping[str, Any]) -> Kept:
    readings = [_reading(one) for one in data["readings"]]
    if not readings:
        raise ValueError("every window has a reading")
    return Kept(readings, float(data["compute"]))


def _reading(data: Mapping[str, Any]) -> Reading:
    words = tuple(_word(word) for word in data["words"])
    figures = _figures(data["figures"])
    return Reading(words, figures, float(data["dropped_seconds"]), float(data["end"]))


def _word(data: Mapping[str, Any]) -> Word:
    start, end, probability = (float(data[name]) for name in ("start", "end", "probability"))
    return Word(str(data["word"]), start, end, probability)


def _figures(data: Mapping[str, Any]) -> Figures:
    names = ("avg_logprob", "no_speech_prob", "compression_ratio")
    logprob, no_speech, ratio = (float(data[name]) for name in names)
    return Figures(logprob, no_speech, ratio, _texts(data["flags"]))


def _plan(data: Mapping[str, Any]) -> Plan:
    facts, language = data["facts"], data["facts"]["language"]
    windows = _texts(data["windows"])
    spans = _texts(data["spans"])
    if not all(map(_WINDOW.fullmatch, windows)) or not all(map(_SPAN.fullmatch, spans)):
        raise ValueError("not names of windows and spans")
    found = Facts(
        duration=float(facts["duration"]),
        speech_seconds=float(facts["speech_seconds"]),
        language=Language(str(language["code"]), float(language["probability"])),
        flags=_texts(facts["flags"]),
    )
    if not found.duration > 0:
        raise ValueError("a recording that was heard has a length")
    return Plan(found, windows, spans, str(data["mark"]))


def _texts(data: Iterable[object]) -> tuple[str, ...]:
    if not isinstance(data, list) or not all(isinstance(one, str) for one in data):
        raise ValueError("not a list of texts")
    return tuple(data)


def _packed(windows: Iterable[Window]) -> bytes:
    """A NumPy archive: `pieces` (pieces, 5) int64, `samples` (samples,) float32, end to end."""
    rows, samples = [], []
    for number, window in enumerate(windows):
        for piece in window.pieces:
            rows.append((number, piece.start, piece.end, piece.voice_start, piece.voice_end))
            samples.append(piece.samples)
    file = io.BytesIO()
    np.savez(file, pieces=np.array(rows, dtype=np.int64), samples=np.concatenate(samples))
    return file.getvalue()


def _unpacked(data: bytes) -> list[Window]:
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        rows, samples = archive["pieces"], archive["samples"].astype(np.float32, copy=False)
    if not len(rows) or samples.ndim != 1:
        raise ValueError("no speech")
    groups: dict[int, list[Piece]] = {}
    offset = 0
    for number, start, end, voice_start, voice_end in rows.tolist():
        held = samples[offset : offset + end - start]
        if len(held) != end - start or end <= start:
            raise ValueError("the archive is cut off")
        groups.setdefault(number, []).append(Piece(held, start, end, voice_start, voice_end))
        offset += end - start
    return [Window(tuple(pieces)) for _, pieces in sorted(groups.items())]
