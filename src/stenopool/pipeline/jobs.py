"""Jobs as people and programs see them: submit, list, show, cancel, retry, delete."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Literal, TypeAlias, get_args

import sqlalchemy as sa
from dbos import EnqueueOptions, WorkflowStatus

from stenopool.bucket import Stamp
from stenopool.errors import Defect, UnknownName, UsageError
from stenopool.pipeline import database
from stenopool.pipeline import job as protocol
from stenopool.pipeline.job import (
    FILES,
    SPANS,
    Group,
    Job,
    bucket_digest,
    generation_of,
    key_digest,
    numbered,
    span_prefix,
)
from stenopool.text import encodable

State: TypeAlias = Literal[
    "waiting", "running", "done", "failed", "cancelled", "left", "gone", "broken"
]
STATES: tuple[State, ...] = get_args(State)
ACTIVE: tuple[State, ...] = ("waiting", "running")

TRANSCRIBE, SPAN = "transcribe", "span"
AT_ONCE = {FILES: 12, SPANS: 3}  # jobs that a process works on: enough for full batches
# Between two looks into a queue. One takes some milliseconds of a core that a model may be using,
# and a span is long; recordings may be short and many, while some wait.
POLL_SECONDS = {FILES: 0.2, SPANS: 1.0}
CALM_SECONDS = 1.0
CALM_AFTER_SECONDS = 5.0  # in which nothing waited: DBOS takes some looks to become quick again
PAGE = 500  # rows of one query

_CANCELLED = "cancelled"  # of a row's attributes
_OVER = ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]
_ENQUEUED = ("ENQUEUED", "DELAYED", "PENDING")
_STATUSES: dict[State, list[str]] = {
    "waiting": ["ENQUEUED", "DELAYED"],
    "running": ["PENDING"],
    "done": ["SUCCESS"],
    "failed": ["ERROR"],
    "cancelled": ["CANCELLED"],
    "left": ["SUCCESS"],
    "gone": ["SUCCESS"],
    "broken": ["ERROR", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"],
}


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as it stands.

    Attributes:
        id: of the job.
        job: what to do.
        state: see `STATES`; `left` means given up for now, `gone` that the recording was taken away
            or replaced, `broken` a defect of the pipeline itself.
        phase: what is being done, while it runs.
        done_seconds, total_seconds: of the recording's audio; the total is None while unknown.
        attempts: how often work on it was begun.
        deaths: how many processes ended while they worked on it.
        worker: that works on it or did so last.
        compute_seconds: a worker's time that it took, over all attempts that counted.
        error: record of what is wrong.
        created, started, finished: seconds since 1970.
    """

    id: str
    job: Job
    state: State
    phase: str
    done_seconds: float
    total_seconds: float | None
    attempts: int
    deaths: int
    worker: str
    compute_seconds: float
    error: dict[str, Any] | None
    created: float
    started: float | None
    finished: float | None

    @property
    def real_time_factor(self) -> float | None:
        """Of the worker's time, where the length is known."""
        return self.compute_seconds / self.total_seconds if self.total_seconds else None

    def eta_seconds(self, now: float | None = None) -> float | None:
        """Seconds until it is done at the rate so far; None where nothing can be said."""
        if self.state != "running" or not (self.started and self.total_seconds):
            return None
        if self.done_seconds <= 0:
            return None
        left = max(0.0, self.total_seconds - self.done_seconds)
        return ((now or time.time()) - self.started) * left / self.done_seconds

    def to_dict(self, price_per_hour: float = 0.0) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {
            "id": self.id,
            "key": encodable(self.job.key),
            "bucket": encodable(self.job.bucket),
            "model": self.job.group.model,
            "state": self.state,
            "phase": self.phase,
            "done_seconds": self.done_seconds,
            "total_seconds": self.total_seconds,
            "eta_seconds": self.eta_seconds(),
            "attempts": self.attempts,
            "deaths": self.deaths,
            "worker": self.worker,
            "compute_seconds": self.compute_seconds,
            "real_time_factor": self.real_time_factor,
            "cost": self.compute_seconds / 3600 * price_per_hour,
            "batch": self.job.batch,
            "child": self.job.child,
            "error": self.error,
            "created": self.created,
            "started": self.started,
            "finished": self.finished,
        }


class Jobs:
    """The jobs in one database."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.client = database.client(engine)
        self._registered: set[str] = set()
        self._paces: dict[str, float] = {}  # between looks, as far as we have set it
        self._waited: dict[str, float] = {}  # when something was last seen to wait
        self._table = _status_table(engine)

    def submit(
        self,
        jobs: Sequence[tuple[str, Job]],
        also: Callable[[sa.Connection], object] = lambda connection: None,
    ) -> None:
        """Put jobs into their queues, all of them or none; those that are there already stay.

        Args:
            jobs: id and job.
            also: what to do in the same transaction.
        """
        for queue in {job.queue(FILES) for _, job in jobs}:
            self.register(queue, FILES)
        with self.engine.begin() as connection:
            also(connection)
            for job_id, job in jobs:
                options: EnqueueOptions = {
                    "workflow_name": TRANSCRIBE,
                    "queue_name": job.queue(FILES),
                    "workflow_id": job_id,
                    "app_version": protocol.PROTOCOL,
                }
                if job.batch:
                    # The column for whom a workflow is: the only one of ours that can be searched.
                    options["authenticated_user"] = f"{job.batch}.{job.child}"
                self.client.enqueue_in_transaction(connection, options, job_id, job.to_dict())

    def submit_span(self, span_id: str, job_id: str, job: Job, details: dict[str, Any]) -> None:
        """Put a part of a long recording into its queue, unless it is there."""
        queue = job.queue(SPANS)
        self.register(queue, SPANS)
        options: EnqueueOptions = {
            "workflow_name": SPAN,
            "queue_name": queue,
            "workflow_id": span_id,
            "app_version": protocol.PROTOCOL,
        }
        self.client.enqueue(options, span_id, job_id, job.to_dict(), details)

    def register(self, queue: str, kind: str, *, alone: bool = False) -> None:
        """Make a queue of recordings or spans, once."""
        if queue not in self._registered:
            self._set_up(queue, kind, alone, POLL_SECONDS[kind], "never_update")
            self._registered.add(queue)

    def pace(self, counts: dict[str, dict[str, int]]) -> None:
        """Let workers look often into the queues in which recordings wait, and seldom into others.

        Args:
            counts: as `counts` gives them.
        """
        now = time.monotonic()
        for queue, count in counts.items():
            parsed = Group.of_queue(queue)
            if parsed is None:
                continue
            if count.get("ENQUEUED"):
                self._waited[queue] = now
            kind, waited = Group.kind_of_queue(queue), self._waited.setdefault(queue, now)
            seconds = POLL_SECONDS[kind] if now - waited < CALM_AFTER_SECONDS else CALM_SECONDS
            if self._paces.get(queue) != seconds:
                self._set_up(queue, kind, parsed[1], seconds, "always_update")
                self._paces[queue] = seconds

    def _set_up(
        self,
        queue: str,
        kind: str,
        alone: bool,
        seconds: float,
        on_conflict: Literal["always_update", "never_update"],
    ) -> None:
        self.client.register_queue(
            queue,
            worker_concurrency=1 if alone else AT_ONCE[kind],
            polling_interval_sec=seconds,
            on_conflict=on_conflict,
        )

    def find(self, name: str, bucket: str = "") -> JobView:
        """The job of an id, of the beginning of one, or the newest of a key in a bucket.

        Raises:
            UnknownName: there is none, or there are several.
        """
        found = self._rows(workflow_id_prefix=name, limit=2) if name else []
        exact = [row for row in found if row.workflow_id == name]
        if len(exact or found) == 1:
            return view((exact or found)[0])
        if not found and bucket:
            rows = self._rows(workflow_id_prefix=key_digest(bucket, name))
            jobs = [one for one in map(view, rows) if one.job.key == name]
            if jobs:  # SQLite keeps the second in which each was created
                return max(jobs, key=lambda one: (one.created, one.job.stamp.mtime_ns))
        what = "several jobs begin with" if found else "no job"
        raise UnknownName(
            f"{what} `{encodable(name)}`", do="See `steno jobs list`; a key needs `--bucket` too"
        )

    def listed(
        self, *, states: Iterable[State] = STATES, batch: str = "", limit: int = 100
    ) -> Iterator[JobView]:
        """The newest jobs of each state, a page of rows at a time in memory.

        Args:
            batch: only those of a batch, or, as `BATCH.CHILD`, of one list of it.
        """
        table = self._table
        mine = []
        if batch:
            whole, child = table.c.authenticated_user == batch, f"{batch}."
            mine = [whole | table.c.authenticated_user.startswith(child, autoescape=True)]
        for state in states:
            pages = self._pages(table.c.created_at, _is_one_of(_STATUSES[state]), *mine)
            yield from islice((job for job in pages if job.state == state), limit)

    def ended(self, after: float) -> Iterator[JobView]:
        """Jobs that have ended since a time, whatever became of them; the last one first."""
        ended = self._table.c.completed_at
        return self._pages(ended, ended >= after * 1000, _is_one_of(_OVER))

    def of_ids(self, ids: Sequence[str]) -> dict[str, WorkflowStatus]:
        """The rows of these jobs and spans, as far as there are any."""
        if not ids:
            return {}
        rows = self.client.list_workflows(workflow_ids=[*ids], load_input=False)
        return {row.workflow_id: row for row in rows}

    def views(self, ids: Sequence[str]) -> dict[str, JobView]:
        """These jobs, as far as there are any."""
        rows = self._rows(workflow_ids=[*ids]) if ids else []
        return {row.workflow_id: view(row) for row in rows}

    def is_held(self, id: str, worker: str) -> bool:
        """Whether a worker process holds a job or a span."""
        row = self.of_ids([id]).get(id)
        return row is not None and row.status == "PENDING" and row.executor_id == worker

    def latest(self, digest: str) -> WorkflowStatus | None:
        """The row of the last generation of a job."""
        rows = self._rows(workflow_id_prefix=f"{digest}-", load_input=False)
        return max(rows, key=lambda row: generation_of(row.workflow_id), default=None)

    def has_active(self, bucket: str, batch: str = "") -> bool:
        """Whether a job of a bucket waits or runs."""
        prefix, status = bucket_digest(bucket), list(_ENQUEUED)
        user = batch or None
        return bool(self._rows(status=status, workflow_id_prefix=prefix, user=user, limit=1))

    def spans(self, job_id: str) -> dict[str, WorkflowStatus]:
        """The rows of a job's spans."""
        rows = self.client.list_workflows(
            name=SPAN, workflow_id_prefix=span_prefix(job_id), load_input=False
        )
        return {row.workflow_id: row for row in rows}

    def cancel(self, job_id: str) -> None:
        """Stop a job; its recording stays in `input/` until it is put there anew or retried.

        Raises:
            UsageError: it has ended already.
        """
        if self.find(job_id).state not in ACTIVE:
            raise UsageError(f"job `{job_id}` has ended", do="There is nothing to cancel")
        self._cancel([job_id, *self.active_spans(job_id)])

    def cancel_spans(self, job_id: str) -> None:
        """Stop what is left of a job's spans."""
        self._cancel(self.active_spans(job_id))

    def _cancel(self, ids: Sequence[str]) -> None:
        for id in ids:  # first: `put_back` looks for it last
            self.client.update_workflow_attributes(id, {_CANCELLED: True}, merge=True)
        if ids:
            self.client.cancel_workflows([*ids])

    def put_back(self, id: str, queue: str | None) -> None:
        """Let a job or a span that a worker had wait in a queue again.

        DBOS would wake one that is cancelled at this very moment; it is cancelled once more.
        """
        self.client.resume_workflows([id], queue_name=queue)
        row = self.of_ids([id]).get(id)
        if row and (row.attributes or {}).get(_CANCELLED):
            self.client.cancel_workflows([id])

    def delete(self, job_id: str) -> None:
        """Forget a job that has ended.

        Raises:
            UsageError: it has not.
        """
        if self.find(job_id).state in ACTIVE:
            raise UsageError(
                f"job `{job_id}` has not ended", do=f"First run `steno jobs cancel {job_id}`"
            )
        self.client.delete_workflows([job_id, *self.spans(job_id)])

    def forget(self, finished_before: float) -> int:
        """Delete what ended before a time; how many jobs that were.

        Cancelled jobs stay: their recordings are in `input/`, and would be done after all.
        """
        forgotten = 0
        finished = [one for one in _OVER if one != "CANCELLED"]
        for name, statuses in ((TRANSCRIBE, finished), (SPAN, _OVER)):
            while rows := self.client.list_workflows(
                name=name,
                completed_before=_iso(finished_before),
                status=statuses,
                limit=PAGE,
                load_input=False,
                load_output=False,
            ):
                self.client.delete_workflows([row.workflow_id for row in rows])
                forgotten += len(rows) if name == TRANSCRIBE else 0
        return forgotten

    def again(
        self,
        job: Job,
        stamp: Stamp,
        also: Callable[[sa.Connection, str], object] = lambda connection, id: None,
    ) -> str:
        """Submit a job once more, for the state that its recording has now; gives the new id.

        Args:
            also: what to do with the new id in the same transaction.
        """
        # For all workers: those of a batch's child have gone with it.
        renewed = replace(job, stamp=stamp, outside=False)
        last = self.latest(renewed.digest)
        number = generation_of(last.workflow_id) + 1 if last else 1
        job_id = numbered(renewed.digest, number)
        self.submit([(job_id, renewed)], also=lambda connection: also(connection, job_id))
        return job_id

    def counts(self) -> dict[str, dict[str, int]]:
        """How many rows wait and run in each queue: `{queue: {"ENQUEUED": n, "PENDING": n}}`."""
        table = self._table
        query = (
            sa.select(table.c.queue_name, table.c.status, sa.func.count())
            .where(table.c.status.in_(_ENQUEUED), table.c.queue_name.is_not(None))
            .group_by(table.c.queue_name, table.c.status)
        )
        found: dict[str, dict[str, int]] = {}
        with self.engine.connect() as connection:
            for queue, status, count in connection.execute(query):
                found.setdefault(queue, {})[status] = count
        return found

    def timeline(self, job_id: str) -> list[dict[str, Any]]:
        """The steps of a job: `name, started, seconds`."""
        found = []
        for step in self.client.list_workflow_steps(job_id):
            begun, ended = step["started_at_epoch_ms"] or 0, step["completed_at_epoch_ms"] or 0
            seconds = (ended - begun) / 1000
            found.append(
                {"name": step["function_name"], "started": begun / 1000, "seconds": seconds}
            )
        return found

    def active_spans(self, job_id: str) -> list[str]:
        """Ids of a job's spans that wait or run."""
        return [name for name, row in self.spans(job_id).items() if row.status in _ENQUEUED]

    def _pages(
        self, order: sa.ColumnClause[Any], *conditions: sa.ColumnElement[bool]
    ) -> Iterator[JobView]:
        """In descending order. Each page begins after the last row of the one before: an offset
        would count wrongly, as rows change meanwhile, and many were made at the same moment.
        """
        id = self._table.c.workflow_uuid
        place = sa.tuple_(order, id)
        query = (
            sa.select(id, order)
            .where(self._table.c.name == TRANSCRIBE, *conditions)
            .order_by(order.desc(), id.desc())
            .limit(PAGE)
        )
        page = query
        while True:
            with self.engine.connect() as connection:
                found = connection.execute(page).all()
            if not found:
                return
            ids = [id for id, _ in found]
            rows = {row.workflow_id: row for row in self._rows(workflow_ids=ids)}
            yield from (view(rows[id]) for id in ids if id in rows)
            last, moment = found[-1]
            page = query.where(place < sa.tuple_(sa.literal(moment), sa.literal(last)))

    def _rows(self, **filters: Any) -> list[WorkflowStatus]:  # noqa: ANN401  of `list_workflows`
        return self.client.list_workflows(name=TRANSCRIBE, **filters)


def _status_table(engine: sa.Engine) -> sa.TableClause:
    # DBOS documents this table; it has no call that counts, nor one that pages safely.
    schema = None if engine.dialect.name == "sqlite" else "dbos"
    names = "workflow_uuid", "name", "status", "queue_name", "authenticated_user"
    columns: list[sa.ColumnClause[Any]] = [
        *(sa.column(name, sa.Text) for name in names),
        *(sa.column(name, sa.BigInteger) for name in ("created_at", "completed_at")),
    ]
    return sa.table("workflow_status", *columns, schema=schema)


def _is_one_of(statuses: Sequence[str]) -> sa.ColumnElement[bool]:
    # In so many words: DBOS's indexes are for certain statuses.
    column = sa.column("status", sa.Text)
    return sa.or_(*(column == sa.literal_column(f"'{one}'") for one in statuses))


def view(row: WorkflowStatus) -> JobView:
    """A row of the database as a job."""
    notes = row.attributes or {}
    _, data = (row.input or {"args": ("", {})})["args"][:2]
    return JobView(
        id=row.workflow_id,
        job=Job.from_dict(data),
        state=state_of(row),
        phase=str(notes.get("phase", "")),
        done_seconds=float(notes.get("done", 0.0)),
        total_seconds=notes.get("total"),
        attempts=int(notes.get("attempts", 0)),
        deaths=int(notes.get("deaths", 0)),
        worker=row.executor_id or "",
        compute_seconds=float(notes.get("compute", 0.0)),
        error=_error(row),
        created=(row.created_at or 0) / 1000,
        started=row.dequeued_at / 1000 if row.dequeued_at else None,
        finished=row.completed_at / 1000 if row.completed_at else None,
    )


def state_of(row: WorkflowStatus) -> State:
    """What a row of the database says of its job."""
    if row.status == "SUCCESS":
        outcome = (row.output or {}).get("outcome")
        return outcome if outcome in STATES else "broken"
    if row.status == "ERROR":
        return "failed" if _record(row) else "broken"
    found = (state for state, statuses in _STATUSES.items() if row.status in statuses)
    return next(found, "broken")


def _record(row: WorkflowStatus) -> dict[str, Any] | None:
    """The record of what made a job fail; None for any other exception."""
    data = getattr(row.error, "data", None)
    return data if isinstance(data, dict) and "code" in data else None


def _error(row: WorkflowStatus) -> dict[str, Any] | None:
    """What is wrong: what the workflow ended with, or what it tries to get over."""
    if row.status == "ERROR":
        return _record(row) or Defect(str(row.error), do="Please report it").record()
    found = (row.output or {}).get("error") if row.status == "SUCCESS" else None
    return found or (row.attributes or {}).get("error")


def _iso(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()
