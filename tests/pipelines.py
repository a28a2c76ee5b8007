"""Buckets, databases and scripted workers for tests of the pipeline."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

from commands import Steno
from sounds import tone, write_wav
from stenopool.bucket import Bucket, FolderBucket, Stamp
from stenopool.pipeline.database import open_database
from stenopool.pipeline.job import Group, Job, numbered
from stenopool.pipeline.jobs import Jobs, JobView
from stenopool.pipeline.liveness import birth_of
from stenopool.pipeline.pool import Limits
from stenopool.pipeline.supervisor import Supervisor

SCRIPTED_WORKER = Path(__file__).with_name("scripted_worker.py")
RATE = 8_000  # of the sounds: they are there to be counted, not to be heard
LONG_AGO = 60.0  # seconds; what is so old is complete
SCRIPTED = Group("scripted")
NOWHERE = Stamp(1, 1, "1")
PATIENCE = 90.0  # seconds that a test waits at most for what takes two


class Event(NamedTuple):
    """Something that a scripted worker did."""

    what: str
    name: str
    second: int
    pid: int


@dataclass
class Seen:
    """An observer that remembers."""

    jobs: list[JobView] = field(default_factory=list)

    def running(self, jobs: Sequence[JobView]) -> None:
        pass

    def ended(self, job: JobView) -> None:
        self.jobs.append(job)

    @property
    def states(self) -> dict[str, str]:
        """Of each recording, by its name."""
        return {job.job.key.removeprefix("input/"): job.state for job in self.jobs}

    def view(self, name: str) -> JobView:
        return next(job for job in self.jobs if job.job.key == f"input/{name}")


@dataclass
class Stage:
    """A bucket, a database, and a folder that tells scripted workers what to do.

    Attributes:
        url: of the database.
    """

    folder: Path
    url: str
    jobs: Jobs

    @property
    def bucket(self) -> FolderBucket:
        return FolderBucket(self.folder)

    @property
    def command(self) -> list[str]:
        """Of a scripted worker."""
        return [sys.executable, str(SCRIPTED_WORKER), str(self.folder.parent)]

    @property
    def log(self) -> list[Event]:
        """What the scripted workers did."""
        path = self.folder.parent / "log"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [Event(*json.loads(line)) for line in lines]

    def happened(self, what: str, name: str, second: int = 0) -> bool:
        """Whether a worker did this with a window."""
        return (what, name, second) in {event[:3] for event in self.log}

    def open(self) -> None:
        """Let those go on that wait."""
        (self.folder.parent / "open").touch()

    def lay(self, name: str, seconds: float = 1.0) -> str:
        """A recording in `input/` that is complete; gives its key."""
        lay(self.folder, name, seconds=seconds)
        return f"input/{name}"

    def submit(self, *names: str, seconds: float = 1.0, **changes: Any) -> list[str]:
        """Lay recordings and make them jobs; gives their ids."""
        return [self.submit_key(self.lay(name, seconds), **changes) for name in names]

    def submit_key(self, key: str, **changes: Any) -> str:
        """What is there already as a job; gives its id."""
        job_id, job = job_for(self.bucket, key, **changes)
        self.jobs.submit([(job_id, job)])
        return job_id

    def supervisor(self, seen: Seen, **changes: Any) -> Supervisor:
        """Of scripted workers; see `Limits` and `Supervisor` for what can be changed."""
        limits = {name: changes.pop(name) for name in Limits.__slots__ if name in changes}
        given = {"bucket": self.bucket, "command": self.command, **changes}
        return Supervisor(self.jobs, self.url, Limits(**limits), seen, **given)

    def at(self, url: str, jobs: Jobs) -> Stage:
        """The same bucket with another database."""
        return replace(self, url=url, jobs=jobs)

    def run_once(self, **changes: Any) -> Seen:
        """Let scripted workers do everything that is there."""
        seen = Seen()
        self.supervisor(seen, **changes).run(once=True)
        return seen

    @contextmanager
    def running(self, **changes: Any) -> Iterator[Supervisor]:
        """A supervisor that works until the context ends."""
        stop = threading.Event()
        supervisor = self.supervisor(Seen(), stopping=stop.is_set, **changes)
        thread = threading.Thread(target=supervisor.run)
        thread.start()
        try:
            yield supervisor
        finally:
            stop.set()
            thread.join()

    def state(self, job_id: str) -> str:
        return self.jobs.find(job_id).state

    def text(self, name: str) -> str:
        """What a recording's document says."""
        document = (self.folder / "output" / f"{name}.json").read_bytes()
        return str(json.loads(document)["text"])

    def record(self, name: str) -> dict[str, Any]:
        """The error record of a recording."""
        found: dict[str, Any] = json.loads(
            (self.folder / "failed" / f"{name}.error.json").read_bytes()
        )
        return found


def job_for(bucket: Bucket, key: str, **changes: Any) -> tuple[str, Job]:
    """The first job of a recording, with its id."""
    given = {"group": SCRIPTED, "formats": ("txt", "json"), **changes}
    job = Job(bucket.url, key, bucket.stamp(key) or NOWHERE, **given)
    return numbered(job.digest, 1), job


def imagined(key: str, **changes: Any) -> tuple[str, Job]:
    """A job, with its id, of a recording that nobody looks at."""
    given = {"bucket": "file:///nowhere", "group": SCRIPTED, "formats": ("json",), **changes}
    job = Job(key=f"input/{key}", stamp=NOWHERE, **given)
    return numbered(job.digest, 1), job


def hold(jobs: Jobs, job_id: str, worker: str) -> None:
    """Let a worker have a job, as if it had taken it from its queue."""
    change(jobs, job_id, status="PENDING", executor_id=worker, started_at_epoch_ms=_now())


def end(
    jobs: Jobs, job_id: str, outcome: str = "done", at: float | None = None, **more: Any
) -> None:
    """Let a job end, as if a worker had done it.

    Args:
        outcome: what its workflow gives; `failed` for the error that is in `more`.
        at: seconds since 1970.
    """
    moment = _now() if at is None else round(at * 1000)
    if outcome == "failed":
        error = {"name": "Failed", "message": "failed", "code": "x", "data": more["error"]}
        change(jobs, job_id, status="ERROR", error=json.dumps(error), completed_at=moment)
    else:
        output = json.dumps({"outcome": outcome, **more})
        change(jobs, job_id, status="SUCCESS", output=output, completed_at=moment)


def queue_of(jobs: Jobs, job_id: str) -> str:
    """Where a job waits or comes from."""
    return jobs.of_ids([job_id])[job_id].queue_name or ""


def notes_of(jobs: Jobs, job_id: str) -> dict[str, Any]:
    """What its workers have noted of a job."""
    return jobs.of_ids([job_id])[job_id].attributes or {}


def change(jobs: Jobs, job_id: str, **values: Any) -> None:
    """Change columns of a job in DBOS's own table."""
    schema = None if jobs.engine.dialect.name == "sqlite" else "dbos"
    columns: list[sa.ColumnClause[Any]] = [sa.column(name) for name in ("workflow_uuid", *values)]
    table = sa.table("workflow_status", *columns, schema=schema)
    change = sa.update(table).where(table.c.workflow_uuid == job_id).values(values)
    with jobs.engine.begin() as connection:
        assert connection.execute(change).rowcount == 1


def _now() -> int:
    return round(time.time() * 1000)


SCRIPTED_STENO = """
import functools, sys
sys.path.insert(0, {tests!r})
from stenopool.cli import main
from stenopool.pipeline import process, supervisor
supervisor.Supervisor = functools.partial(supervisor.Supervisor, command={command!r})
process.begin = functools.partial(process.begin, command={command!r})
main()
"""


@dataclass(frozen=True)
class ScriptedSteno(Steno):
    """Runs `steno` as users do, but with scripted workers.

    Attributes:
        folder: tells the workers what to do.
    """

    folder: Path = Path()

    @property
    def worker(self) -> list[str]:
        """The command of a worker."""
        return [sys.executable, str(SCRIPTED_WORKER), str(self.folder)]

    @property
    def command(self) -> list[str]:
        program = SCRIPTED_STENO.format(tests=str(Path(__file__).parent), command=self.worker)
        return [sys.executable, "-c", program]


def lay(bucket: Path, *names: str, seconds: float = 2.0) -> None:
    """Recordings in the `input/` of a folder that are complete."""
    for name in names:
        path = bucket / "input" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        age(write_wav(path, tone(seconds, rate=RATE), rate=RATE))


def age(path: Path) -> Path:
    """Let a file be so old that nobody can be writing to it."""
    then = time.time() - LONG_AGO
    os.utime(path, (then, then))
    return path


def is_gone(pid: int) -> bool:
    """Whether there is no process of this id."""
    return birth_of(pid) is None


def wait_for(true: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until something has come true."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it never came true"
        time.sleep(0.02)


@contextmanager
def opened(url: str) -> Iterator[Jobs]:
    """The jobs in a database, whose connections are closed at the end."""
    engine = open_database(url)
    try:
        yield Jobs(engine)
    finally:
        engine.dispose()


def sqlite_url(folder: Path, name: str = "jobs.sqlite") -> str:
    """URL of a new database in a folder, with all tables."""
    path = folder / name
    with path.open("xb") as file:  # never one that somebody has open
        file.write(_empty_database())
    return f"sqlite:///{path}"


@cache
def _empty_database() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "jobs.sqlite"
        open_database(f"sqlite:///{path}").dispose()
        return path.read_bytes()


@dataclass
class Postgres:
    """A real server, with one database that tests use one after the other.

    Attributes:
        url: of the database; it has all tables.
    """

    server: Any
    url: str
    numbers: Iterator[int] = field(default_factory=count)

    def new(self) -> str:
        """URL of a database without tables."""
        name = f"test_{next(self.numbers)}"
        self.server.psql(f"CREATE DATABASE {name}")
        return str(self.server.get_uri(name))

    def clear(self) -> None:
        """Let the next test find nothing."""
        with opened(self.url) as jobs, jobs.engine.begin() as connection:
            inspector = sa.inspect(connection)
            for schema in ("dbos", "public"):
                for table in inspector.get_table_names(schema):
                    if table != "dbos_migrations":
                        connection.execute(sa.text(f'DELETE FROM "{schema}"."{table}"'))  # noqa: S608


@contextmanager
def postgres_server() -> Iterator[Postgres]:
    """Start one, and remove it at the end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about where it keeps its lock
        from pgserver import get_server  # type: ignore[attr-defined]
    # Not below pytest's folders: another user runs it, and paths of sockets must be short.
    server = get_server(tempfile.mkdtemp(prefix="steno-pg-"), cleanup_mode="delete")
    try:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            server.psql(f"ALTER SYSTEM SET {setting} = off")
        server.psql("SELECT pg_reload_conf()")
        found = Postgres(server, "")
        found.url = found.new()
        open_database(found.url).dispose()
        yield found
    finally:
        server.cleanup()
