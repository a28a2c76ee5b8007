"""One pass over a bucket: every recording under `input/` is transcribed or has an error record.

What holds at every moment, also when the process is killed:

- A recording is in exactly one of `input/`, `processed/` and `failed/`.
- Documents appear whole; the JSON one appears last and stands for all of them.
- A finished transcription is not done again: `work/<hash>/done.json` is written once all documents
  lie beside it, and from then on only renames are left, which any later run can finish.
- A recording that ends the process is tried after all others, and no more after three times:
  `work/<hash>/attempts.json` is there while it is transcribed, and stays only if the process dies.

A recording that is put under a name again is a new job. Success replaces the documents and the copy
in `processed/`. Failure leaves those two, which belong together, and replaces what is in `failed/`.
An error record goes when its recording has left `failed/` and is then transcribed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from stenopool.bucket import Bucket, Key, Stamp
from stenopool.errors import (
    Defect,
    InputChanged,
    InputCrashed,
    InputError,
    InputNotFound,
    StenoError,
    UsageError,
)
from stenopool.pipeline import keys
from stenopool.pipeline.markers import (
    COMMIT,
    Attempts,
    Done,
    attempts_key,
    done_key,
    read_attempts,
    read_done,
    write_attempts,
    write_done,
)
from stenopool.pipeline.record import error_record
from stenopool.transcript import Transcript
from stenopool.writers import FORMATS, check_format, render

Progress: TypeAlias = Callable[[float, float | None], None]
"""Is told the seconds that are done and, where known, those of the whole recording."""

Transcribe: TypeAlias = Callable[[Path, Progress], Transcript]

Outcome: TypeAlias = Literal["transcribed", "failed", "left"]

_WORK_FOLDER = re.compile(r"work/[0-9a-f]{64}")


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
    return (*dict.fromkeys(name for name in formats if name != COMMIT), COMMIT)


@dataclass
class _Run:
    bucket: Bucket
    transcribe: Transcribe
    formats: tuple[str, ...]
    observer: Observer
    summary: Summary = field(default_factory=Summary)
    observer_error: Exception | None = None
    died: dict[Key, Attempts] = field(default_factory=dict)  # in earlier runs

    def all(self) -> Summary:
        self._clean_up()
        try:
            for key in self.bucket.keys(keys.INPUT, self._refused):
                if keys.is_recording(key) and key not in self.died:
                    self._one(key)
            # Last, so that one of them that ends this process too keeps no other waiting.
            for attempts in sorted(self.died.values(), key=lambda attempts: attempts.count):
                self._one(attempts.key)
        finally:
            for folder in self._work_folders():
                self._tidy(folder)
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
            earlier = self._earlier(key, stamp)
            earlier.refuse_more()
            done = Done(key, stamp, self.formats)
            with self._attempt(earlier):
                transcript = self._prepare(done)
        self._finish(done)
        outputs = tuple(keys.output_key(key, name) for name in done.formats)
        return FileResult(key, "transcribed", outputs, transcript)

    def _earlier(self, key: Key, stamp: Stamp) -> Attempts:
        """The attempts that died on this state of the recording."""
        earlier = self.died.get(key)
        return earlier if earlier and earlier.stamp == stamp else Attempts(key, stamp, 0)

    @contextmanager
    def _attempt(self, earlier: Attempts) -> Iterator[None]:
        """Marks an attempt for as long as it lasts: only death leaves the mark in place."""
        folder = keys.work_folder(earlier.key)
        write_attempts(self.bucket, replace(earlier, count=earlier.count + 1))
        try:
            self._discard(folder, keep_attempts=True)
            yield
        finally:
            self.bucket.delete(attempts_key(folder))

    def _prepare(self, done: Done) -> Transcript:
        """Transcribe, and write all documents and then the marker to `work/`."""
        with self._defects_as_errors(done.key):
            path = self.bucket.path(done.key)
            transcript = self.transcribe(path, self._progress(done.key))
            documents = {name: render(transcript, name) for name in done.formats}
        self._refuse_change(done.key, done.stamp)
        folder = keys.work_folder(done.key)
        for name, document in documents.items():
            self.bucket.write(f"{folder}/{name}", document)
        write_done(self.bucket, done)
        return transcript

    def _finish(self, done: Done) -> None:
        """Do what is left once the marker is written; each step may have been done before."""
        self._publish(done)
        if self.bucket.stamp(keys.failed_key(done.key)) is None:
            self.bucket.delete(keys.record_key(done.key))
        if self.bucket.stamp(done.key) == done.stamp:  # else it is a new job already
            self.bucket.move(done.key, keys.processed_key(done.key))
        self._discard(keys.work_folder(done.key))

    def _publish(self, done: Done) -> None:
        folder = keys.work_folder(done.key)
        if self.bucket.stamp(f"{folder}/{COMMIT}") is None:
            return
        # Documents of an earlier recording of this name must not stand beside the new ones.
        self.bucket.delete(keys.output_key(done.key, COMMIT))
        for name in set(FORMATS).difference(done.formats):
            self.bucket.delete(keys.output_key(done.key, name))
        for name in done.formats:
            if self.bucket.stamp(f"{folder}/{name}") is not None:
                self.bucket.move(f"{folder}/{name}", keys.output_key(done.key, name))

    def _not_transcribed(self, key: Key, stamp: Stamp, error: StenoError) -> FileResult:
        try:
            if _is_final(error):
                self._refuse_change(key, stamp)
                self._set_aside(self._earlier(key, stamp), error)
                return FileResult(key, "failed", error=error)
        except StenoError as trouble:
            error = trouble
        self._tidy(keys.work_folder(key))
        return FileResult(key, "left", error=error)

    def _set_aside(self, earlier: Attempts, error: StenoError) -> None:
        key = earlier.key
        draft = f"{keys.work_folder(key)}/error"
        attempts = earlier.count + (not isinstance(error, InputCrashed))
        self.bucket.write(draft, error_record(key, error, attempts))
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

    def _done(self, folder: Key) -> Done | None:
        """The marker in a work folder, if every document that it promises is there."""
        done = read_done(self.bucket, folder)
        return done if done and self._is_complete(done) else None

    def _is_complete(self, done: Done) -> bool:
        return all(self._exists(done, name) for name in done.formats)

    def _exists(self, done: Done, name: str) -> bool:
        places = (f"{keys.work_folder(done.key)}/{name}", keys.output_key(done.key, name))
        return any(self.bucket.stamp(place) is not None for place in places)

    def _clean_up(self) -> None:
        """Remove what dead runs left in `work/`; finish what only lacks renames."""
        for folder in self._work_folders():
            self._recover(folder)

    def _work_folders(self) -> list[Key]:
        """What in `work/` is ours to remove."""
        return [name for name in self.bucket.folders(keys.WORK) if _WORK_FOLDER.fullmatch(name)]

    def _recover(self, folder: Key) -> None:
        done = read_done(self.bucket, folder)
        try:
            if done is None or not self._is_complete(done):
                self._tidy(folder)
            elif self.bucket.stamp(done.key) != done.stamp:
                self._finish(done)  # those still in `input/` get their turn there
        except StenoError as error:
            if done and not self._is_waiting(done.key):
                self._report(FileResult(done.key, "left", error=error))
        attempts = read_attempts(self.bucket, folder)
        if attempts:
            self.died[attempts.key] = attempts

    def _tidy(self, folder: Key) -> None:
        """Remove from a work folder what is of no more use.

        Trouble here stops nothing: a recording that needs the folder meets it again in its turn and
        reports it, and the next run tries again.
        """
        with suppress(StenoError):
            if self._done(folder) is None:
                self._discard(folder, keep_attempts=self._are_current(folder))

    def _are_current(self, folder: Key) -> bool:
        attempts = read_attempts(self.bucket, folder)
        return attempts is not None and self.bucket.stamp(attempts.key) == attempts.stamp

    def _is_waiting(self, key: Key) -> bool:
        """Whether a recording of this name is about to have its turn, or to be reported then."""
        try:
            return self.bucket.stamp(key) is not None
        except StenoError:
            return True

    def _discard(self, folder: Key, *, keep_attempts: bool = False) -> None:
        """Empty a work folder, the marker of finished work first: it never promises what is gone.

        A folder in the place of a marker is removed with what is in it.
        """
        if self.bucket.stamp(done_key(folder)) is not None:
            self.bucket.delete(done_key(folder))
        for key in self.bucket.keys(folder):
            if not (keep_attempts and key == attempts_key(folder)):
                self.bucket.delete(key)
        self.bucket.prune(folder)


def _is_final(error: StenoError) -> bool:
    """Whether trying this recording again, unchanged, is pointless."""
    if isinstance(error, Defect):
        return True
    return isinstance(error, InputError) and not error.transient
