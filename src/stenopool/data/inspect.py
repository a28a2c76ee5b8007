"""A recording of a data set, heard from its first to its last sample: what it is, and whether it is
good to learn from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stenopool.audio import SAMPLE_RATE, media
from stenopool.data.recording import Recording
from stenopool.data.text import normalised, oddity
from stenopool.errors import InputError, RecordingTooLong, StenoError, UsageError

FASTEST = 40.0  # characters a second; nobody speaks half as fast
CHECK, CORRECT = "Check text and audio", "Correct the text, or leave the recording out"


@dataclass(frozen=True, slots=True)
class Heard:
    """A recording that is good; `sha256` is of its samples at 16 kHz, whatever holds them."""

    recording: Recording
    text: str
    seconds: float
    sha256: str
    flags: tuple[str, ...]


class Refused(Exception):  # noqa: N818
    """A recording that is not; `reason` is what it is counted as."""

    def __init__(self, reason: str, error: StenoError) -> None:
        super().__init__(error.what)
        self.reason, self.error = reason, error


@dataclass(slots=True)
class Inspector:
    """Decides which recordings are good; remembers what it has heard.

    Args:
        way: how texts are normalised.
        shortest, longest: seconds.
        folder: for what has to be written to be heard.
    """

    way: str
    shortest: float
    longest: float
    folder: Path
    _heard: dict[str, Heard] = field(default_factory=dict)

    def __call__(self, one: Recording) -> Heard:
        """What it is.

        Raises:
            Refused: it is not good to learn from.
        """
        text = self._text(one)
        seconds, digest, flags = self._sound(one)
        if seconds < self.shortest:
            raise _refused("too_short", one, f"has {seconds:.3f} s", CHECK)
        if len(text) > FASTEST * seconds:
            what = f"has {len(text)} characters in {seconds:.2f} s"
            raise _refused("text_too_long", one, what, CHECK)
        found = Heard(one, text, seconds, digest, flags)
        before = self._heard.setdefault(digest, found)
        if before is not found:
            other = " with another text" if before.text != text else ""
            what = f"is the same audio as `{before.recording.id}`{other}"
            raise _refused("duplicate", one, what, "Keep one of them")
        return found

    def _text(self, one: Recording) -> str:
        if not (one.text or "").strip():
            raise _refused("empty_text", one, "has no text", "Give it the text that is said in it")
        if odd := oddity(one.text or "", self.way):
            raise _refused("odd_text", one, f"has a text that is odd: {odd}", CORRECT)
        text = normalised(one.text or "", self.way)
        if not text:
            raise _refused("empty_text", one, f"has no text after `{self.way}`", CORRECT)
        return text

    def _sound(self, one: Recording) -> tuple[float, str, tuple[str, ...]]:
        digest, samples = hashlib.sha256(), 0
        try:
            with (
                one.file(self.folder) as path,
                media.Recording(path, max_hours=self.longest / 3600) as sound,
            ):
                for block in sound:
                    digest.update(block.tobytes())
                    samples += len(block)
                flags = tuple(sound.flags)
        except RecordingTooLong as error:
            what = f"has more than {self.longest:g} s"
            raise _refused("too_long", one, what, "Cut it, or raise `--max-seconds`") from error
        except InputError as error:
            raise Refused(error.code, error) from error
        return samples / SAMPLE_RATE, digest.hexdigest(), flags


def alike(heard: list[Heard]) -> list[list[str]]:
    """Ids of recordings with the same text of several words, length and speaker: perhaps copies."""
    groups: dict[tuple[str, float, str | None], list[str]] = {}
    for one in heard:
        if " " in one.text:
            key = (one.text, round(one.seconds, 2), one.recording.speaker)
            groups.setdefault(key, []).append(one.recording.id)
    return [ids for ids in groups.values() if len(ids) > 1]


def line(one: Heard, audio: str) -> Mapping[str, object]:
    """The line of the manifest; `audio` is relative to it."""
    fields = {
        "id": one.recording.id,
        "audio": audio,
        "text": one.text,
        "duration": round(one.seconds, 3),
        "speaker": one.recording.speaker,
        "language": one.recording.language,
        "licence": one.recording.licence,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _refused(reason: str, one: Recording, what: str, do: str) -> Refused:
    return Refused(reason, UsageError(f"`{one.id}` ({one.audio}) {what}", do=do))
