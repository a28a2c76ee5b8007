"""One pass over a bucket: every recording under `input/` is transcribed or has an error record.

What holds at every moment, also when the process is killed:

- A recording is in exactly one of `input/`, `processed/` and `failed/`.
- Documents appear whole; the JSON one appears last and stands for all of them.
- A finished transcription is not done again: `work/<hash>/done.json` is written once all documents
  lie beside it, and from then on only renames are left, which any later run can finish.

A recording that is put under a name again is a new job. Success replaces the documents and the copy
in `processed/`. Failure leaves those two, which belong together, and replaces what is in `failed/`.
An error record goes when its recording has left `failed/` and is then transcribed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from stenopool.bucket import Bucket, Key, Stamp
from stenopool.errors import (
    Defect,
    InputChanged,
    InputError,
    InputNotFound,
    StenoError,
    UsageError,
)
from stenopool.pipeline import keys
from stenopool.transcript import Transcript
from stenopool.writers import FORMATS, check_format, render

ERROR_SCHEMA = "stenopool.error/1"

Progress: TypeAlias = Callable[[float, float | None], None]
"""Is told the seconds that are done and, where known, those of the whole recording."""

Transcribe: TypeAlias = Callable[[Path, Progress], Transcript]

Outcome: TypeAlias = Literal["transcribed", "failed", "left"]

_COMMIT = "json"  # the format that appears last
_DONE = "done.json"
_WORK_FOLDER = re.compile(r"work/[0-9a-f]{64}")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class FileResult:
    """What became of one recording.

    Attributes:
        key: its name under `input/`.
        outcome: `left` means that it stays in `input/` for the next run.
        outputs: keys of its documents, when transcribed.
        transcript: None unless transcribed, and when an earlier run was killed after transcribing
            it and this one only had to finish.
        error: None when transcribed.
    """

    key: Key
    outcome: Outcome
    outputs: tuple[Key, ...] = ()
    transcript: Transcript | None = None
    error: StenoError | None = None


@dataclass(frozen=True)
class Summary:
    """How many recordings ended how; `exit_status` is the highest of their errors', or 0."""

    transcribed: int = 0
    failed: int = 0
    left: int = 0
    exit_status: int = 0


class Observer(Protocol):
    """Is told what happens; an exception that it raises ends the run, and harms no recording."""

    def found(self, key: Key) -> None:
        """Work on a recording begins."""

    def progress(self, key: Key, done_seconds: float, total_seconds: float | None) -> None:
        """Part of it is transcribed; the total is None while unknown."""

    def finished(self, result: FileResult) -> None:
        """Work on it has ended. Also told of what could not be looked at, with outcome `left`."""


def run_once(
    bucket: Bucket, transcribe: Transcribe, formats: Sequence[str], observer: Observer
) -> Summary:
    """Transcribe what is under `input/` now, one recording after another.

    Args:
        bucket: where recordings are and results go.
        transcribe: takes the recording's path and a progress callback.
        formats: names of `stenopool.writers.FORMATS`; `json` is always written too.
        observer: is told of each step.

    Raises:
        UsageError: no `input/` in the bucket, an unknown format, or another run holds the bucket.
        OutputError: the bucket cannot be written to at all.
    """
    wanted = _checked(formats)
    if not bucket.path("input").is_dir():
        raise UsageError(
            f"no `input/` in `{bucket.root}`", do="Make that folder and put recordings there"
        )
    with bucket.lock():
        # Before any recording costs an hour of work, not after.
        for folder in (keys.OUTPUT, keys.PROCESSED, keys.FAILED, keys.WORK):
            bucket.make_folder(folder.rstrip("/"))
        return _Run(bucket, transcribe, wanted, observer).all()


def _checked(formats: Sequence[str]) -> tuple[str, ...]:
    for name in formats:
        check_format(name)
    return (*dict.fromkeys(name for name in formats if name != _COMMIT), _COMMIT)


@dataclass(frozen=True)
class _Done:
    """The marker in `work/`: this state of this recording is transcribed into these formats."""

    key: Key
    stamp: Stamp
    formats: tuple[str, ...]

    def to_json(self) -> str:
        return json.dumps({"key": self.key, "stamp": self.stamp, "formats": self.formats})

    @classmethod
    def from_json(cls, text: bytes) -> _Done:
        data = json.loads(text)
        return cls(data["key"], Stamp(*data["stamp"]), tuple(data["formats"]))


@dataclass
class _Run:
    bucket: Bucket
    transcribe: Transcribe
    formats: tuple[str, ...]
    observer: Observer
    summary: Summary = field(default_factory=Summary)
    observer_error: Exception | None = None

    def all(self) -> Summary:
        self._clean_up()
        try:
            for key in self.bucket.keys(keys.INPUT, self._refused):
                if keys.is_recording(key):
                    self._one(key)
        finally:
            self._clean_up(finish=False)
        return self.summary

    def _one(self, key: Key) -> None:
        try:
            stamp = self.bucket.stamp(key)
        except StenoError as error:
            self._refused(key, error)
            return
        if stamp is None:
            return  # taken away since the folder was listed
        self.observer.found(key)
        try:
            result = self._transcribed(key, stamp)
        except StenoError as error:
            result = self._not_transcribed(key, stamp, error)
        self._report(result)

    def _transcribed(self, key: Key, stamp: Stamp) -> FileResult:
        transcript = None
        done = self._done(keys.work_folder(key))
        if done is None or done.stamp != stamp:
            self._discard(keys.work_folder(key))
            done = _Done(key, stamp, self.formats)
            transcript = self._prepare(done)
        self._finish(done)
        outputs = tuple(keys.output_key(key, name) for name in done.formats)
        return FileResult(key, "transcribed", outputs, transcript)

    def _prepare(self, done: _Done) -> Transcript:
        """Transcribe, and write all documents and then the marker to `work/`."""
        with self._defects_as_errors(done.key):
            path = self.bucket.path(done.key)
            transcript = self.transcribe(path, self._progress(done.key))
            documents = {name: render(transcript, name) for name in done.formats}
        self._refuse_change(done.key, done.stamp)
        folder = keys.work_folder(done.key)
        for name, document in documents.items():
            self.bucket.write(f"{folder}/{name}", document)
        self.bucket.write(f"{folder}/{_DONE}", done.to_json())
        return transcript

    def _finish(self, done: _Done) -> None:
        """Do what is left once the marker is written; each step may have been done before."""
        self._publish(done)
        if self.bucket.stamp(keys.failed_key(done.key)) is None:
            self.bucket.delete(keys.record_key(done.key))
        if self.bucket.stamp(done.key) == done.stamp:  # else it is a new job already
            self.bucket.move(done.key, keys.processed_key(done.key))
        self._discard(keys.work_folder(done.key))

    def _publish(self, done: _Done) -> None:
        folder = keys.work_folder(done.key)
        if self.bucket.stamp(f"{folder}/{_COMMIT}") is None:
            return
        # Documents of an earlier recording of this name must not stand beside the new ones.
        self.bucket.delete(keys.output_key(done.key, _COMMIT))
        for name in set(FORMATS).difference(done.formats):
            self.bucket.delete(keys.output_key(done.key, name))
        for name in done.formats:
            if self.bucket.stamp(f"{folder}/{name}") is not None:
                self.bucket.move(f"{folder}/{name}", keys.output_key(done.key, name))

    def _not_transcribed(self, key: Key, stamp: Stamp, error: StenoError) -> FileResult:
        try:
            if _is_final(error):
                self._refuse_change(key, stamp)
                self._set_aside(key, error)
                return FileResult(key, "failed", error=error)
        except StenoError as trouble:
            error = trouble
        if self._done(keys.work_folder(key)) is None:
            self._discard(keys.work_folder(key))
        return FileResult(key, "left", error=error)

    def _set_aside(self, key: Key, error: StenoError) -> None:
        draft = f"{keys.work_folder(key)}/error"
        self.bucket.write(draft, _record(key, error))
        self.bucket.move(draft, keys.record_key(key))
        self.bucket.move(key, keys.failed_key(key))
        self._discard(keys.work_folder(key))

    def _refuse_change(self, key: Key, stamp: Stamp) -> None:
        now = self.bucket.stamp(key)
        if now is None:
            raise InputNotFound(
                f"`{key}` was taken away while it was read", do="Put it back if it is still wanted"
            )
        if now != stamp:
            raise InputChanged(
                f"`{key}` changed while it was read",
                do="Run again once it is copied; better, copy to a hidden name and rename it",
            )

    @contextmanager
    def _defects_as_errors(self, key: Key) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if self.observer_error is not None:  # not the recording's fault: see `_progress`
                raise self.observer_error from None
            if isinstance(error, StenoError):
                raise
            raise Defect(
                f"`{key}` met a defect: {type(error).__name__}: {error}",
                do="Report this message; move the recording back to `input/` to try again",
            ) from error

    def _progress(self, key: Key) -> Progress:
        def tell(done_seconds: float, total_seconds: float | None) -> None:
            try:
                self.observer.progress(key, done_seconds, total_seconds)
            except Exception as error:
                self.observer_error = error
                raise

        return tell

    def _refused(self, key: Key, error: StenoError) -> None:
        if not keys.is_hidden(key):
            self._report(FileResult(key, "left", error=error))

    def _report(self, result: FileResult) -> None:
        status = result.error.exit_status if result.error else 0
        self.summary = Summary(
            self.summary.transcribed + (result.outcome == "transcribed"),
            self.summary.failed + (result.outcome == "failed"),
            self.summary.left + (result.outcome == "left"),
            max(self.summary.exit_status, status),
        )
        self.observer.finished(result)

    def _done(self, folder: Key) -> _Done | None:
        """The marker in a work folder, if every document that it promises is there."""
        text = self.bucket.read(f"{folder}/{_DONE}")
        if text is None:
            return None
        try:
            done = _Done.from_json(text)
        except (ValueError, KeyError, TypeError):
            return None  # damaged by the disk: the recording is transcribed again
        if keys.work_folder(done.key) != folder:
            return None
        return done if all(self._exists(done, name) for name in done.formats) else None

    def _exists(self, done: _Done, name: str) -> bool:
        places = (f"{keys.work_folder(done.key)}/{name}", keys.output_key(done.key, name))
        return any(self.bucket.stamp(place) is not None for place in places)

    def _clean_up(self, *, finish: bool = True) -> None:
        """Remove what dead runs left in `work/`; finish what only lacks renames.

        Marked recordings that are still in `input/` get their turn there.
        """
        for folder in self.bucket.folders(keys.WORK):
            if not _WORK_FOLDER.fullmatch(folder):
                continue  # not ours to remove
            done = self._done(folder)
            if done is None:
                self._discard(folder)
            elif finish and self.bucket.stamp(done.key) != done.stamp:
                self._finish_orphan(done)

    def _finish_orphan(self, done: _Done) -> None:
        try:
            self._finish(done)
        except StenoError as error:
            if self.bucket.stamp(done.key) is None:  # else a new upload is about to have its turn
                self._report(FileResult(done.key, "left", error=error))

    def _discard(self, folder: Key) -> None:
        self.bucket.delete(f"{folder}/{_DONE}")  # first, so that it never promises what is gone
        for key in self.bucket.keys(folder):
            self.bucket.delete(key)
        self.bucket.prune(folder)


def _is_final(error: StenoError) -> bool:
    """Whether trying this recording again, unchanged, is pointless."""
    if isinstance(error, Defect):
        return True
    return isinstance(error, InputError) and not error.transient


def _record(key: Key, error: StenoError) -> str:
    data = {
        "schema": ERROR_SCHEMA,
        "key": key,
        **error.record(),
        "attempts": 1,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    # Not every JSON reader takes lone surrogates; the exact name is that of the file beside it.
    text = json.dumps(data, ensure_ascii=False, indent=2) + "\n"
    return _LONE_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)
