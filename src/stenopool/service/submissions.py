"""What clients have submitted: whose it is, and how far it is on its way to a job of the pipeline.

    storing    the upload goes into the bucket; one that nobody goes on with is removed
    fetching   the URL is read into the bucket; one that nobody goes on with is read again
    given      there is a job for it
    ended      for good, until it is retried

A server that stores or fetches has the submission in hand until `due`, and keeps moving that on. If
it dies, another one takes over. A step to the next stage is one transaction with what belongs to
it: the job, or the delivery that tells of the end; it fails if somebody else was first.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Self

import sqlalchemy as sa

from stenopool.bucket import Key
from stenopool.errors import StenoError, UnknownName, UsageError
from stenopool.pipeline.database import deliveries
from stenopool.pipeline.database import submissions as table
from stenopool.pipeline.job import Group, Job
from stenopool.pipeline.jobs import ACTIVE, Jobs, JobView
from stenopool.service.access import note_usage
from stenopool.service.webhooks import Outcome, planned

STORING, FETCHING, GIVEN, ENDED = "storing", "fetching", "given", "ended"
IN_HAND_SECONDS = 60.0
PAGE = 200

_ID = re.compile(r"[0-9a-f]{32}")
_OVER = ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]


class WrongState(UsageError):  # noqa: N818  the names say what happened
    """The job is in a state in which this cannot be done."""

    code: ClassVar[str] = "wrong_state"


class Superseded(UsageError):  # noqa: N818
    """Somebody else has changed the submission meanwhile."""

    code: ClassVar[str] = "superseded"
    transient: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a client asked for.

    Attributes:
        url: where the recording is; empty if it was uploaded, or is in the bucket.
        name: of the recording's file.
        formats: of the documents.
        options: changes from the defaults.
    """

    url: str
    name: str
    group: Group
    formats: tuple[str, ...]
    options: Mapping[str, Any]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`."""
        given = {**data, "group": Group(**data["group"]), "formats": tuple(data["formats"])}
        return cls(**given)


@dataclass(frozen=True, slots=True)
class Submission:
    """A job as its owner knows it: the id stays when it is retried.

    Attributes:
        owner: id of the API key.
        idempotency: the client's own name for this request.
        fingerprint: of all that it asked for.
        key: where the recording is, or is going to be.
        job: of the pipeline, the last one if it was retried.
        state: how it has ended.
    """

    owner: str
    key: Key
    wanted: Wanted
    stage: str
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    idempotency: str | None = None
    fingerprint: str = ""
    webhook: str = ""
    due: float = 0.0
    attempts: int = 0
    job: str = ""
    state: str = ""
    error: Mapping[str, Any] | None = None
    created: float = field(default_factory=time.time)
    ended: float | None = None

    def row(self) -> dict[str, Any]:
        """As it is kept."""
        values = {name: getattr(self, name) for name in Submission.__slots__}
        return {**values, "wanted": asdict(self.wanted)}

    @classmethod
    def of_row(cls, row: sa.Row[Any]) -> Self:
        """The inverse of `row`."""
        values = dict(row._mapping)
        return cls(**{**values, "wanted": Wanted.from_dict(values["wanted"])})


class Submissions:
    """The submissions in one database."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
        self._engine = jobs.engine

    def add(self, made: Submission, job: Job | None = None) -> Submission | None:
        """Keep a new one; gives the one of the same idempotency key if there is one already.

        Args:
            job: its job, if it has one, which is submitted in the same transaction.
        """
        given = [(made.job, job)] if job else []
        insert = sa.insert(table).values(made.row())
        try:
            self.jobs.submit(given, also=lambda connection: connection.execute(insert))
        except sa.exc.IntegrityError:
            mine = table.c.owner == made.owner, table.c.idempotency == made.idempotency
            if earlier := self._first(*mine):
                return earlier
            raise
        return None

    def find(self, id: str, owner: str) -> Submission:
        """One of an owner, as it stands.

        Raises:
            UnknownName: there is none.
        """
        mine = table.c.id == id, table.c.owner == owner, table.c.stage != STORING
        found = self._first(*mine) if _ID.fullmatch(id) else None
        if found is None:
            raise UnknownName(f"no job `{id}`", do="See `GET /v1/jobs`")
        if found.stage == GIVEN and self.settle([found.id]):
            return self._first(*mine) or found
        return found

    def listed(
        self, owner: str, states: Iterable[str], limit: int, after: tuple[float, str] | None
    ) -> list[tuple[Submission, JobView | None]]:
        """The newest of an owner, in these states if any are named, from a place in the list on."""
        wanted, found = set(states), list[tuple[Submission, JobView | None]]()
        mine = [table.c.owner == owner, table.c.stage != STORING]
        if wanted:
            mine.append((table.c.stage != ENDED) | table.c.state.in_(wanted))
        while len(found) < limit:
            page = self._page(mine, after)
            views = self.views(page)
            pairs = ((one, views.get(one.id)) for one in page)
            found += [pair for pair in pairs if not wanted or state_of(*pair) in wanted]
            if len(page) < PAGE:
                break
            after = page[-1].created, page[-1].id
        return found[:limit]

    def views(self, some: Iterable[Submission]) -> dict[str, JobView]:
        """Their jobs, by the submissions' ids, as far as there are any."""
        jobs = {one.id: one.job for one in some if one.job}
        views = self.jobs.views(sorted(set(jobs.values())))
        return {id: views[job] for id, job in jobs.items() if job in views}

    def due(self, stage: str, limit: int, besides: Iterable[str] = ()) -> list[Submission]:
        """Those that nobody has in hand, the longest waiting first.

        Args:
            besides: owners whose turn it is not.
        """
        query = sa.select(table).where(
            table.c.stage == stage, table.c.due <= time.time(), table.c.owner.not_in([*besides])
        )
        with self._engine.connect() as connection:
            rows = connection.execute(query.order_by(table.c.due).limit(limit)).all()
        return [Submission.of_row(row) for row in rows]

    def take(self, one: Submission, **changes: Any) -> Submission:  # noqa: ANN401  columns
        """Have it in hand, or go on to.

        Raises:
            Superseded: somebody else has it, or it has got on.
        """
        changes["due"] = time.time() + IN_HAND_SECONDS
        with self._engine.begin() as connection:
            self._change(connection, one, changes, table.c.due == one.due)
        return replace(one, **changes)

    def put_off(self, one: Submission, seconds: float, error: StenoError) -> None:
        """Let it be taken up again later."""
        changes = {"due": time.time() + seconds, "error": error.record()}
        with self._engine.begin() as connection:
            self._change(connection, one, changes)

    def give(self, one: Submission, job_id: str, job: Job) -> None:
        """Make it a job.

        Raises:
            Superseded: somebody else has it, or it has got on.
        """
        changes = {"stage": GIVEN, "job": job_id, "error": None}
        self.jobs.submit(
            [(job_id, job)], also=lambda connection: self._change(connection, one, changes)
        )

    def end(self, one: Submission, outcome: Outcome) -> None:
        """Let it have ended: with its webhook planned, and what it used noted.

        Raises:
            Superseded: it has got on meanwhile.
        """
        changes = {
            "stage": ENDED,
            "state": outcome.state,
            "error": outcome.error,
            "ended": time.time(),
        }
        with self._engine.begin() as connection:
            self._change(connection, one, changes)
            if one.webhook:
                delivery = planned(one.id, one.webhook, outcome)
                connection.execute(sa.insert(deliveries).values(delivery))
            if outcome.state == "done" and outcome.seconds:
                note_usage(connection, one.owner, outcome.seconds)

    def settle(self, ids: Iterable[str] = ()) -> int:
        """Let those have ended whose jobs have, or are gone; how many that were.

        Args:
            ids: only these.
        """
        over = self._over(list(ids))
        views = self.views(over)
        settled = 0
        for one in over:
            view = views.get(one.id)
            if view is not None and view.state in ACTIVE:
                continue  # it was retried by hand meanwhile
            try:
                self.end(one, _outcome(one, view))
                settled += 1
            except Superseded:
                continue
        return settled

    def begin_anew(self, connection: sa.Connection, one: Submission, job: str) -> None:
        """Let one that has ended be on its way again.

        Args:
            job: its new job; empty for one that must be fetched.

        Raises:
            Superseded: somebody else was first.
        """
        changes = {
            "stage": GIVEN if job else FETCHING,
            "job": job,
            "state": "",
            "error": None,
            "ended": None,
            "attempts": 0,
            "due": 0.0,
        }
        self._change(connection, one, changes)

    def is_shared(self, one: Submission) -> bool:
        """Whether another submission has the same job."""
        return (
            bool(one.job) and self._first(table.c.job == one.job, table.c.id != one.id) is not None
        )

    def delete(self, one: Submission) -> None:
        """Forget it, and what was to be told of it."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(deliveries).where(deliveries.c.submission == one.id))
            connection.execute(sa.delete(table).where(table.c.id == one.id))

    def forget(self, ended_before: float) -> None:
        """Delete what ended before a time."""
        old = sa.select(table.c.id).where(table.c.stage == ENDED, table.c.ended < ended_before)
        with self._engine.begin() as connection:
            connection.execute(sa.delete(deliveries).where(deliveries.c.submission.in_(old)))
            connection.execute(sa.delete(table).where(table.c.id.in_(old)))

    def _first(self, *conditions: sa.ColumnElement[bool]) -> Submission | None:
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(table).where(*conditions).limit(1)).first()
        return Submission.of_row(row) if row else None

    def _page(
        self, conditions: list[sa.ColumnElement[bool]], after: tuple[float, str] | None
    ) -> list[Submission]:
        place = sa.tuple_(table.c.created, table.c.id)
        query = sa.select(table).where(*conditions)
        if after:
            query = query.where(place < sa.tuple_(*map(sa.literal, after)))
        query = query.order_by(table.c.created.desc(), table.c.id.desc()).limit(PAGE)
        with self._engine.connect() as connection:
            return [Submission.of_row(row) for row in connection.execute(query)]

    def _over(self, ids: list[str]) -> list[Submission]:
        schema = None if self._engine.dialect.name == "sqlite" else "dbos"
        names = sa.column("workflow_uuid", sa.Text), sa.column("status", sa.Text)
        rows = sa.table("workflow_status", *names, schema=schema)
        query = (
            sa.select(table)
            .outerjoin(rows, rows.c.workflow_uuid == table.c.job)
            .where(table.c.stage == GIVEN, rows.c.status.in_(_OVER) | rows.c.status.is_(None))
            .limit(PAGE)
        )
        if ids:
            query = query.where(table.c.id.in_(ids))
        with self._engine.connect() as connection:
            return [Submission.of_row(row) for row in connection.execute(query)]

    def _change(
        self,
        connection: sa.Connection,
        one: Submission,
        values: Mapping[str, Any],
        *conditions: sa.ColumnElement[bool],
    ) -> None:
        update = _update(one).where(*conditions).values(values)
        if connection.execute(update).rowcount != 1:
            raise Superseded(f"job `{one.id}` was changed meanwhile", do="Look at it, try again")


def state_of(one: Submission, view: JobView | None) -> str:
    """The state that its owner is told: one of `stenopool.pipeline.jobs.STATES`, or `fetching`."""
    if one.stage != GIVEN:
        return one.state or one.stage
    return view.state if view else "gone"


def _update(one: Submission) -> sa.Update:
    """Of one that nobody has changed; each attempt to store or fetch it has a key of its own."""
    same = (getattr(table.c, name) == getattr(one, name) for name in ("id", "stage", "key", "job"))
    return sa.update(table).where(*same)


def _outcome(one: Submission, view: JobView | None) -> Outcome:
    if view is None:
        return Outcome(one.id, one.key, "gone", None, 0.0)
    return Outcome(one.id, one.key, view.state, view.error, view.total_seconds or 0.0)
