"""The durable workflows: what DBOS runs, and goes on with when a process has died.

Only what is decided here is remembered by DBOS, in steps that return plain data. The steps
themselves are those of `recording`: they may be done twice.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from dbos import DBOS, PortableWorkflowError, WorkflowStatus

from stenopool.bucket import Bucket, open_bucket
from stenopool.errors import (
    Defect,
    EngineError,
    InputChanged,
    InputCrashed,
    InputNotFound,
    InputUnreadable,
    OutputError,
    StenoError,
    StorageError,
    StorageUnavailable,
    UsageError,
    restored,
)
from stenopool.pipeline import recording
from stenopool.pipeline.activity import Activity, Stopped
from stenopool.pipeline.database import DATABASE_ERRORS
from stenopool.pipeline.job import Job, span_prefix
from stenopool.pipeline.jobs import ACTIVE, SPAN, TRANSCRIBE, Jobs, state_of
from stenopool.pipeline.recording import Listener, Task
from stenopool.text import encodable

Data = dict[str, Any]

MOST_TRIES = 4  # of what may be the recording's own fault
SPANS_AHEAD = 32  # of one recording, not yet read: bounds what lies in `work/`
SPAN_POLL_SECONDS = 0.5  # for each span that has to end first, up to
LONGEST_SPAN_POLL = 2.0
OPEN_BUCKETS = 16


# Of a folder that is mounted from elsewhere, or of a process that has too much open.
PASSING = {
    getattr(errno, name)
    for name in (
        *("EIO", "ESTALE", "ETIMEDOUT", "EAGAIN", "EINTR", "EMFILE", "ENFILE", "ENOMEM"),
        *("ENOTCONN", "ECONNRESET", "EHOSTDOWN", "EHOSTUNREACH", "ENETUNREACH", "EREMOTEIO"),
    )
    if hasattr(errno, name)
}


class Dropped(BaseException):
    """The database failed: this process gives the job up, and it is taken up again.

    DBOS would take an `Exception` for the end of the job.
    """


class GivenUpError(Exception):
    """The storage was in trouble for longer than the job's patience."""

    def __init__(self, error: StenoError) -> None:
        super().__init__(error.what)
        self.error = error


@dataclass(frozen=True)
class Process:
    """What the workflows of this process use.

    Attributes:
        worker: id of this process.
        begin: gives the activity for a job that is taken up.
        end: is told that it is put down.
        doubt: is told of a job with which the model failed again and again. It ends a process that
            others share, as it may be the process that is broken, and returns in one of its own.
        has_helpers: whether other processes read spans of a job, or would if some waited.
    """

    worker: str
    jobs: Jobs
    listener: Listener
    begin: Callable[[str, Data], Activity]
    end: Callable[[Activity], None]
    doubt: Callable[[str], None]
    has_helpers: Callable[[Job], bool]


_process: Process | None = None


def use(process: Process) -> None:
    """Let the workflows of this process use these; DBOS calls them as plain functions."""
    global _process  # noqa: PLW0603
    _process = process


def this() -> Process:
    """What the workflows use."""
    if _process is None:
        raise RuntimeError("`use` was not called")
    return _process


@DBOS.workflow(name=TRANSCRIBE)
def transcribe(job_id: str, data: Data) -> Data:
    """A recording, from `input/` to `processed/` or `failed/`."""
    job = Job.from_dict(data)
    with _without_blame(), _Hand(job_id, job) as hand:
        found = transcribe_step(job_id)
        if "outcome" not in found:
            found = publish_step(job_id)
        if "outcome" not in found:
            found = settle_step(job_id)
        if found["outcome"] == "failed":
            found = fail_step(job_id, found["error"])
        hand.outcome = found
    if found["outcome"] == "failed":
        error = found["error"]
        raise PortableWorkflowError(error["message"], "Failed", error["code"], error)
    return found


@DBOS.workflow(name=SPAN)
def read_span(span_id: str, job_id: str, data: Data, details: Data) -> Data:
    """Some windows of a long recording, from `work/` to `work/`."""
    with _without_blame(), _Hand(span_id, Job.from_dict(data), of=job_id) as hand:
        hand.outcome = span_step(span_id, details)
    return hand.outcome


@DBOS.step(name="transcribe")
def transcribe_step(job_id: str) -> Data:
    def transcribe(task: Task) -> Data:
        _refuse_guilty(_hands[job_id])
        transcript = recording.transcribe(task)
        duration, compute = transcript.duration, transcript.timing.wall_seconds
        _hands[job_id].activity.note(done=duration, total=duration, compute=compute)
        return {"duration": duration}

    return _tried(job_id, transcribe)


@DBOS.step(name="publish")
def publish_step(job_id: str) -> Data:
    def publish(task: Task) -> Data:
        return {"outputs": [encodable(key) for key in recording.publish(task)]}

    return _tried(job_id, publish)


@DBOS.step(name="settle")
def settle_step(job_id: str) -> Data:
    def settle(task: Task) -> Data:
        moved = recording.settle(task)
        task.checkpoints.clear()
        return {"outcome": "done", "moved": moved}

    return _tried(job_id, settle)


@DBOS.step(name="fail")
def fail_step(job_id: str, record: Data) -> Data:
    def fail(task: Task) -> Data:
        moved = recording.fail(task, restored(record), _hands[job_id].attempts)
        task.checkpoints.clear()
        return {"outcome": "failed" if moved else "gone", "error": record}

    return _tried(job_id, fail)


@DBOS.step(name="read")
def span_step(span_id: str, details: Data) -> Data:
    def read(task: Task) -> Data:
        _refuse_guilty(_hands[span_id])
        windows = task.checkpoints.span(details["name"])
        if windows is None:
            return {"outcome": "gone"}  # the recording's own process will see, and read them itself
        with task.watch.computing():
            done = 0.0
            names = recording.read_windows(task, windows, task.options(), details["language"])
            for window, _ in zip(windows, names, strict=True):
                done += window.seconds
                task.watch.progress(done, details["seconds"])
        task.checkpoints.drop_span(details["name"])
        return {"outcome": "done"}

    return _tried(span_id, read)


class _Hand:
    """A job while this process works on it.

    Args:
        of: the job whose folder is used, for a span.
    """

    def __init__(self, id: str, job: Job, *, of: str = "") -> None:
        process = this()
        self.id = id
        self.job = job
        self.outcome: Data = {}
        row = process.jobs.of_ids([id])[id]
        notes = row.attributes or {}
        self.attempts = int(notes.get("attempts", 0)) + 1
        self.verdict: Data | None = notes.get("verdict")
        self.activity = process.begin(id, notes)
        self._of = of

    @cached_property
    def task(self) -> Task:
        """Raises StorageUnavailable while the bucket is not there."""
        try:
            bucket = _bucket(self.job.bucket)
        except UsageError as error:  # it was there when the job was submitted
            raise StorageUnavailable(error.what, do=error.do) from error
        spans = _NoSpans() if self._of else _Spans(self)
        listener = this().listener
        return Task(self._of or self.id, self.job, bucket, listener, self.activity, spans)

    def __enter__(self) -> _Hand:
        _hands[self.id] = self
        try:
            # At once, not with the other notes: a process that dies has tried as well.
            this().jobs.client.update_workflow_attributes(
                self.id, {"attempts": self.attempts}, merge=True
            )
        except BaseException:
            self._put_down()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        try:
            self._note_end()
        finally:  # a database that is away must not make this process look busy for ever
            self._put_down()

    def _put_down(self) -> None:
        if _hands.get(self.id) is self:  # else it was handed over, and has come back
            del _hands[self.id]
        this().end(self.activity)

    def _note_end(self) -> None:
        jobs = this().jobs
        with self.activity.writing:  # what is on its way already gets there first
            notes = {**self.activity.take_notes(), "phase": ""}
            if self.outcome and jobs.is_held(self.id, this().worker):
                notes["error"] = self.outcome.get("error")
                jobs.client.update_workflow_attributes(self.id, notes, merge=True)


_hands: dict[str, _Hand] = {}


class _NoSpans:
    """A span has none."""

    def has_helpers(self) -> bool:
        return False

    def submit(self, name: str, language: str, seconds: float) -> bool:
        return False

    def wait(self, names: Sequence[str], done_seconds: float) -> None:
        return


class _Spans:
    """The spans of one job, as jobs of their own."""

    def __init__(self, hand: _Hand) -> None:
        self._hand = hand

    def has_helpers(self) -> bool:
        # Spans of an earlier life may be at work: whoever reads them must be waited for.
        jobs = this().jobs
        return this().has_helpers(self._hand.job) or bool(jobs.active_spans(self._hand.id))

    def submit(self, name: str, language: str, seconds: float) -> bool:
        hand, jobs = self._hand, this().jobs
        span_id = f"{span_prefix(hand.id)}{name}"
        known = jobs.of_ids([span_id]).get(span_id)
        if known is None:
            self._wait(SPANS_AHEAD - 1)
            details = {"name": name, "language": language, "seconds": seconds}
            jobs.submit_span(span_id, hand.id, hand.job, details)
            return True
        return state_of(known) in ACTIVE

    def wait(self, names: Sequence[str], done_seconds: float) -> None:
        ids = {f"{span_prefix(self._hand.id)}{name}" for name in names}
        self._wait(0, ids, done_seconds)

    def _wait(self, most: int, ids: Collection[str] = (), before: float = 0.0) -> None:
        """Until no more than so many are left.

        Args:
            ids: of spans whose progress is noted.
            before: seconds that were done without them.
        """
        activity = self._hand.activity
        seconds = 0.05
        while True:
            rows = this().jobs.spans(self._hand.id)
            for row in rows.values():
                self._refuse_failed(row)
            if ids:
                notes = [row.attributes or {} for id, row in rows.items() if id in ids]
                done = sum(float(each.get("done", 0.0)) for each in notes)
                activity.note(done=before + done)
            left = sum(state_of(row) in ACTIVE for row in rows.values()) - most
            if left <= 0:
                return
            activity.wait(seconds)
            seconds = min(LONGEST_SPAN_POLL, SPAN_POLL_SECONDS * left)

    def _refuse_failed(self, row: WorkflowStatus) -> None:
        error = (row.attributes or {}).get("error")
        if row.status == "SUCCESS" and error:
            this().jobs.cancel_spans(self._hand.id)
            raise restored(error)


def _tried(id: str, action: Callable[[Task], Data]) -> Data:
    """Do something as often as it takes, or until it makes no sense any more.

    Returns:
        what the action gives; with an `outcome` where the job ends with this.
    """
    hand = _hands[id]
    try:
        with _without_blame():
            return _patiently(hand, action)
    except Stopped:
        found: Data = {"outcome": "cancelled"}
    except GivenUpError as trouble:
        found = {"outcome": "left", "error": trouble.error.record()}
    except (InputChanged, InputNotFound) as error:
        with suppress(StenoError):  # the supervisor tidies up later
            hand.task.checkpoints.clear()
        found = {"outcome": "gone", "error": error.record()}
    except StenoError as error:
        found = {"outcome": "failed", "error": error.record()}
    except Exception as error:  # noqa: BLE001  a defect is reported with its recording
        what = f"`{hand.job.key}` met a defect: {type(error).__name__}: {error}"
        defect = Defect(what, do="Report this message; then `steno jobs retry`")
        found = {"outcome": "failed", "error": defect.record()}
    return found


def _patiently(hand: _Hand, action: Callable[[Task], Data]) -> Data:
    begun, tries, attempt, windows = time.monotonic(), 0, 0, 0
    while True:
        try:
            try:
                return action(hand.task)
            finally:
                if hand.activity.windows > windows:  # it has got on: what comes now is new
                    begun, tries, attempt = time.monotonic(), 0, 0
                    windows = hand.activity.windows
        except (StorageError, OutputError, InputUnreadable, OSError) as error:
            # Never the recording's fault, so no reason to call it failed.
            trouble = _of_storage(error)
            if time.monotonic() - begun > hand.job.patience:
                raise GivenUpError(trouble) from error
            hand.activity.retrying(trouble, attempt)
        except (EngineError, MemoryError) as error:
            tries += 1
            if tries >= MOST_TRIES:
                this().doubt(hand.id)
                raise
            hand.activity.retrying(_as_error(error), attempt)
        attempt += 1


def _of_storage(error: StenoError | OSError) -> StenoError:
    """The trouble of the storage that an error tells of; raises what is none."""
    if isinstance(error, StorageError | OutputError):
        return error
    cause = error if isinstance(error, OSError) else error.__cause__
    if not (isinstance(cause, OSError) and cause.errno in PASSING):
        raise error
    do = "Look at the disk or the mount that the bucket lies on"
    return StorageUnavailable(error.what if isinstance(error, StenoError) else str(error), do=do)


@contextmanager
def _without_blame() -> Iterator[None]:
    """What fails because of the database is no job's fault."""
    try:
        yield
    except DATABASE_ERRORS as error:
        raise Dropped(str(error)) from error


def _as_error(error: EngineError | MemoryError) -> StenoError:
    if isinstance(error, StenoError):
        return error
    return Defect("out of memory", do="Give workers more memory, or use a smaller model")


def _refuse_guilty(hand: _Hand) -> None:
    """Raises what is known already: that it cannot be done, or that processes have died of it."""
    if hand.job.refused:
        raise restored(hand.job.refused)
    if hand.verdict:
        raise InputCrashed(
            f"`{hand.job.key}`: {hand.verdict.get('message', '')}",
            do="Try it alone with `steno transcribe`; `steno jobs retry` to try again",
        )


@lru_cache(OPEN_BUCKETS)
def _bucket(url: str) -> Bucket:
    return open_bucket(url)
