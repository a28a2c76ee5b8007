"""One recording of a data set, and how the fields of a line become one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from stenopool.errors import InputUnreadable, StenoError, UsageError
from stenopool.files import write_whole

# The first name is the one of the manifest; the others are what data sets call it elsewhere.
NAMES = {
    "id": ("id",),
    "audio": ("audio", "path", "file", "filename", "file_name", "audio_path", "audio_file"),
    "text": ("text", "sentence", "transcript", "transcription", "raw_transcription"),
    "duration": ("duration", "seconds"),
    "speaker": ("speaker", "speaker_id", "client_id"),
    "chapter": ("chapter", "chapter_id"),
    "language": ("language", "locale", "lang"),
    "licence": ("licence", "license"),
}


Line = TypeVar("Line")
Made = TypeVar("Made")
OnBad = Callable[[StenoError], None]  # takes note of a line that is no recording, or raises


@dataclass(frozen=True, slots=True)
class Part:
    """An utterance inside a long recording; times in seconds."""

    id: str
    start: float
    end: float
    text: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A recording and what is known of it.

    Attributes:
        id: how it is named in reports; never a file name.
        audio: its file; where `stored` is given, only its name.
        text: what is said; empty when nothing is, `None` when nobody wrote it down.
        duration: seconds, as its source claims.
        parts: borders of the utterances that it was joined from.
        stored: gives the file's bytes where they lie inside something else.
        more: fields of the source that have no place here.
    """

    id: str
    audio: Path
    text: str | None = None
    duration: float | None = None
    speaker: str | None = None
    chapter: str | None = None
    language: str | None = None
    licence: str | None = None
    parts: tuple[Part, ...] = ()
    stored: Callable[[], bytes] | None = field(default=None, compare=False, repr=False)
    more: Mapping[str, object] = field(default_factory=dict, compare=False, repr=False)

    @contextmanager
    def file(self, folder: Path) -> Iterator[Path]:
        """Its file for as long as it is needed; what has to be written for that goes to `folder`.

        Raises:
            InputUnreadable: the bytes cannot be had.
            OutputError: the folder cannot take them.
        """
        if self.stored is None:
            yield self.audio
            return
        target = folder / f"stored-{id(self):x}"
        write_whole(target, self.stored())
        try:
            yield target
        finally:
            target.unlink(missing_ok=True)


def recording_of(
    fields: Mapping[str, object],
    folder: Path,
    where: str,
    *,
    stored: Callable[[], bytes] | None = None,
) -> Recording:
    """A recording from the fields of one line, by any of `NAMES`.

    Args:
        fields: of one line or row.
        folder: what a relative path is relative to.
        where: source and line, for errors.
        stored: as in `Recording`; then a path is not needed.

    Raises:
        UsageError: a field is missing or is not what it should be.
    """
    found = {name: _first(fields, names) for name, names in NAMES.items()}
    audio = _text(found["audio"], "audio", where)
    if not audio and stored is None:
        raise UsageError(
            f"{where}: there is no `audio`", do="Give each recording the path of its file"
        )
    if audio and "\0" in audio:
        raise UsageError(f"{where}: `audio` is no path", do="Correct the line")
    known = {one for names in NAMES.values() for one in names}
    return Recording(
        id=_text(found["id"], "id", where) or audio or where,
        audio=folder / (audio or where),
        text=_text(found["text"], "text", where),
        duration=_seconds(found["duration"], where),
        speaker=_text(found["speaker"], "speaker", where) or None,
        chapter=_text(found["chapter"], "chapter", where) or None,
        language=_text(found["language"], "language", where) or None,
        licence=_text(found["licence"], "licence", where) or None,
        stored=stored,
        more={name: value for name, value in fields.items() if name not in known},
    )


def good(lines: Iterable[Line], make: Callable[[Line], Made], bad: OnBad | None) -> Iterator[Made]:
    """What is made of each line; one that is no good is for `bad`, or an error without it."""
    for line in lines:
        try:
            found = make(line)
        except UsageError as error:
            if bad is None:
                raise
            bad(error)
        else:
            yield found


def unreadable(path: Path, error: OSError) -> InputUnreadable:
    """The error to raise when a manifest or table could not be opened or read."""
    return InputUnreadable(
        f"cannot read `{path}`: {error.strerror or error}", do="Check the path and its permissions"
    )


def _first(fields: Mapping[str, object], names: tuple[str, ...]) -> object:
    return next((fields[name] for name in names if fields.get(name) is not None), None)


def _text(value: object, name: str, where: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # speakers and chapters are often numbers
    raise UsageError(f"{where}: `{name}` is no text: {value!r:.60}", do="Put it in quotes")


def _seconds(value: object, where: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        seconds = float(value) if isinstance(value, str | int | float) else math.nan
    except (ValueError, OverflowError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise UsageError(
            f"{where}: `duration` is no length in seconds: {value!r:.60}",
            do="Give seconds, or leave it out",
        )
    return seconds
