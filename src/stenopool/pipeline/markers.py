"""The two small files in a recording's work folder that outlive a killed process.

`done.json` says that its documents are complete. `attempts.json` says how often its transcription
was begun without coming to an end. Whatever is not exactly such a file counts as no marker: disks
and people damage files, and the worst that follows is that a recording is transcribed again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TypeVar

from stenopool.bucket import Bucket, Key, Stamp
from stenopool.errors import InputCrashed, StenoError
from stenopool.pipeline import keys
from stenopool.writers import FORMATS

COMMIT = "json"  # the format that appears last
MOST_DEATHS = 3

_Marker = TypeVar("_Marker", "Done", "Attempts")


@dataclass(frozen=True)
class Done:
    """This state of this recording is transcribed into these formats."""

    key: Key
    stamp: Stamp
    formats: tuple[str, ...]


@dataclass(frozen=True)
class Attempts:
    """Transcribing this state of this recording was begun so often; each time the process died."""

    key: Key
    stamp: Stamp
    count: int

    def refuse_more(self) -> None:
        """Raises InputCrashed once it has ended the process too often."""
        if self.count >= MOST_DEATHS:
            raise InputCrashed(
                f"transcribing `{self.key}` has ended the process {self.count} times",
                do="Try it alone with `steno transcribe`; put it back into input/ to try again",
            )


def done_key(folder: Key) -> Key:
    """Where the marker of finished work is in a work folder."""
    return f"{folder}/done.json"


def attempts_key(folder: Key) -> Key:
    """Where the marker of begun work is in a work folder."""
    return f"{folder}/attempts.json"


def write_done(bucket: Bucket, done: Done) -> None:
    """Write the marker of finished work.

    Raises:
        OutputError: it could not be written.
    """
    bucket.write(done_key(keys.work_folder(done.key)), json.dumps(asdict(done)))


def write_attempts(bucket: Bucket, attempts: Attempts) -> None:
    """Write the marker of begun work.

    Raises:
        OutputError: it could not be written.
    """
    bucket.write(attempts_key(keys.work_folder(attempts.key)), json.dumps(asdict(attempts)))


def read_done(bucket: Bucket, folder: Key) -> Done | None:
    """The marker of finished work in a work folder, if there is a sound one."""
    return _sound(bucket, folder, done_key(folder), _done)


def read_attempts(bucket: Bucket, folder: Key) -> Attempts | None:
    """The marker of begun work in a work folder, if there is a sound one."""
    return _sound(bucket, folder, attempts_key(folder), _attempts)


def _sound(
    bucket: Bucket, folder: Key, name: Key, parse: Callable[[dict[str, object]], _Marker]
) -> _Marker | None:
    try:
        text = bucket.read(name)
        marker = None if text is None else parse(json.loads(text))
        if marker is None or keys.work_folder(marker.key) != folder:
            return None
        bucket.path(marker.key)  # refuses `..` and the like
    except (ValueError, KeyError, TypeError, RecursionError, StenoError):
        return None
    return marker


def _done(data: dict[str, object]) -> Done:
    formats = data["formats"]
    if (
        not isinstance(formats, list)
        or formats[-1:] != [COMMIT]
        or not set(formats) <= set(FORMATS)
    ):
        raise ValueError("formats")
    return Done(_key(data["key"]), _stamp(data["stamp"]), tuple(formats))


def _attempts(data: dict[str, object]) -> Attempts:
    return Attempts(_key(data["key"]), _stamp(data["stamp"]), _whole(data["count"]))


def _key(value: object) -> Key:
    if isinstance(value, str) and value.startswith(keys.INPUT) and keys.is_recording(value):
        return value
    raise ValueError("key")


def _stamp(value: object) -> Stamp:
    if not isinstance(value, list):
        raise TypeError("stamp")
    return Stamp(*(_whole(number) for number in value))


def _whole(value: object) -> int:
    if type(value) is not int or value < 0:  # `True` is an int as well
        raise ValueError("number")
    return value
