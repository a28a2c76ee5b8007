"""Labelled windows: what a teacher heard in up to 30 s of one speaker, and where that audio is.

A manifest of them has one JSON object a line. `parts` say which audio makes up the window, one
stretch after another; `segments` are the teacher's, with their figures; `tokens` are those of the
text with its timestamps, of the tokenizer whose SHA-256 begins with `tokenizer`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from stenopool.audio.features import WINDOW_SECONDS
from stenopool.data import Recording, read
from stenopool.data.manifest import json_object, lines_of
from stenopool.data.recording import good, recording_of
from stenopool.data.sources import MANIFEST
from stenopool.decoding.tokens import SECONDS_PER_TIMESTAMP, Vocabulary
from stenopool.errors import UsageError
from stenopool.training.examples import Bad

TOKENIZER_DIGITS = 16  # of the SHA-256 that a tokenizer is known by
SLACK = 0.05  # seconds that a manifest may claim beyond a window


@dataclass(frozen=True, slots=True)
class Stretch:
    """Audio from `start` to `end`, in seconds of its file."""

    audio: Path
    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Passage:
    """A segment of the teacher's transcript; times are seconds in the window."""

    start: float
    end: float
    text: str
    avg_logprob: float = 0.0
    no_speech_prob: float = 0.0
    compression_ratio: float = 0.0
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledWindow:
    """Up to 30 s of audio and its label.

    Attributes:
        text: the teacher's; the given text, where there was no teacher.
        tokens: of the text with timestamps; empty where the teacher is no Whisper model.
        tokenizer: first digits of the SHA-256 of the `tokenizer.json` that the tokens are of.
        reference: what is really said, as far as anybody wrote it down.
        previous: id of the window that the same speaker said just before.
        whole: the only stretch is a whole file.
    """

    id: str
    stretches: tuple[Stretch, ...]
    passages: tuple[Passage, ...] = ()
    text: str = ""
    tokens: tuple[int, ...] = ()
    tokenizer: str = ""
    reference: str | None = None
    speaker: str | None = None
    language: str | None = None
    licence: str | None = None
    previous: str | None = None
    whole: bool = False

    @property
    def seconds(self) -> float:
        return sum(one.seconds for one in self.stretches)


def line(window: LabelledWindow, folder: Path) -> str:
    """The window as a line of a manifest in this folder."""
    parts = [
        {"audio": _relative(one.audio, folder), "start": one.start, "end": one.end}
        for one in window.stretches
    ]
    data = {
        "id": window.id,
        # Where a window is not one whole file, readers that know no parts must not take it for one.
        "audio": parts[0]["audio"] if window.whole else None,
        "text": window.text,
        "reference": window.reference,
        "duration": round(window.seconds, 3),
        "speaker": window.speaker,
        "language": window.language,
        "licence": window.licence,
        "previous": window.previous,
        "parts": parts,
        "segments": [_plain(one) for one in window.passages],
        "tokens": list(window.tokens),
        "tokenizer": window.tokenizer,
    }
    kept = {name: value for name, value in data.items() if value not in (None, "", [])}
    return json.dumps(kept | {"text": window.text}, ensure_ascii=False)


def labelled(source: str | Path, bad: Bad) -> Iterator[LabelledWindow]:
    """The windows of a manifest of labels; recordings of any other source are a window each.

    Args:
        bad: takes note of what is no window, or raises.

    Raises:
        InputError, UsageError: the source cannot be read, or a line is bad; it names the line.
    """
    path = Path(source) / MANIFEST if Path(source).is_dir() else Path(source)
    if path.suffix.lower() in (".jsonl", ".ndjson") and path.is_file():
        yield from good(lines_of(path), partial(_window, folder=path.parent), bad)
        return

    def window(one: Recording) -> LabelledWindow:
        return _of_recording(one, f"`{source}`: `{one.id}`")

    yield from good(read(source, on_bad=bad), window, bad)


def timestamped(passages: Iterable[Passage], vocabulary: Vocabulary) -> tuple[int, ...]:
    """Tokens of a text with the times of its segments, as Whisper writes them."""
    tokens: list[int] = []
    for one in passages:
        if one.text.strip():
            text = vocabulary.encode(f" {one.text.strip()}")
            first, last = (timestamp(seconds, vocabulary) for seconds in (one.start, one.end))
            tokens += [first, *text, last]
    return tuple(tokens)


def timestamp(seconds: float, vocabulary: Vocabulary) -> int:
    """The token of a time in a window."""
    most = round(WINDOW_SECONDS / SECONDS_PER_TIMESTAMP)
    return vocabulary.first_timestamp + min(max(round(seconds / SECONDS_PER_TIMESTAMP), 0), most)


_WRITE = "Give what `steno data pseudo-label` wrote"


def _window(one: tuple[str, bytes], folder: Path) -> LabelledWindow:
    where, text = one
    data = json_object(text, where, _WRITE)
    if "parts" not in data:
        return _of_recording(recording_of(data, folder, where), where)
    try:
        found = LabelledWindow(
            id=_text(data["id"]),
            stretches=tuple(_stretch(part, folder) for part in data["parts"]),
            passages=tuple(_passage(one) for one in data.get("segments", ())),
            text=_text(data["text"]),
            tokens=tuple(_token(one) for one in data.get("tokens", ())),
            tokenizer=_text(data.get("tokenizer", "")),
            reference=_optional(data, "reference"),
            speaker=_optional(data, "speaker"),
            language=_optional(data, "language"),
            licence=_optional(data, "licence"),
            previous=_optional(data, "previous"),
            whole="audio" in data,
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UsageError(
            f"{where}: it is no labelled window: {type(error).__name__}: {error!s:.100}", do=_WRITE
        ) from error
    _check(found, where)
    return found


def _of_recording(one: Recording, where: str) -> LabelledWindow:
    """A recording with its text as the label."""
    if one.stored is not None:
        raise UsageError(
            f"{where} lies inside another file", do="Run `steno data prepare --copy` on it first"
        )
    if one.duration is None:
        raise UsageError(f"{where} has no `duration`", do="Run `steno data prepare` on it first")
    found = LabelledWindow(
        id=one.id,
        stretches=(Stretch(one.audio, 0.0, one.duration),),
        text=one.text or "",
        reference=one.text,
        speaker=one.speaker,
        language=one.language,
        licence=one.licence,
        whole=True,
    )
    _check(found, where)
    return found


def _check(window: LabelledWindow, where: str) -> None:
    if not window.stretches or not 0 < window.seconds <= WINDOW_SECONDS + SLACK:
        raise UsageError(
            f"{where} has {window.seconds:g} s: a window has up to {WINDOW_SECONDS}",
            do="Let `steno data pseudo-label` cut and pack it",
        )


def _stretch(data: Mapping[str, Any], folder: Path) -> Stretch:
    name, start, end = _text(data["audio"]), _seconds(data["start"]), _seconds(data["end"])
    if not name or "\0" in name or not start < end:
        raise ValueError(f"no stretch of audio: {dict(data)!s:.60}")
    return Stretch(folder / name, start, end)


def _passage(data: Mapping[str, Any]) -> Passage:
    return Passage(
        _seconds(data["start"]),
        _seconds(data["end"]),
        _text(data["text"]),
        float(data.get("avg_logprob", 0.0)),
        float(data.get("no_speech_prob", 0.0)),
        float(data.get("compression_ratio", 0.0)),
        tuple(_text(one) for one in data.get("flags", ())),
    )


def _plain(one: Passage) -> dict[str, object]:
    found: dict[str, object] = {
        "start": round(one.start, 3),
        "end": round(one.end, 3),
        "text": one.text,
        "avg_logprob": round(one.avg_logprob, 4),
        "no_speech_prob": round(one.no_speech_prob, 4),
        "compression_ratio": round(one.compression_ratio, 3),
    }
    return found | ({"flags": list(one.flags)} if one.flags else {})


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"no text: {value!r:.40}")
    return value


def _optional(data: Mapping[str, Any], name: str) -> str | None:
    value = data.get(name)
    return None if value is None else _text(value)


def _token(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 20:
        raise ValueError(f"no token: {value!r:.40}")
    return value


def _seconds(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"no seconds: {value!r:.40}")
    if not 0 <= value < math.inf:
        raise ValueError(f"no seconds: {value!r:.40}")
    return float(value)


def _relative(audio: Path, folder: Path) -> str:
    return Path(os.path.relpath(audio.absolute(), folder.absolute())).as_posix()
