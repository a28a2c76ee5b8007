"""The database that jobs live in: SQLite beside the bucket, or PostgreSQL for many machines.

DBOS keeps workflows and queues there in its own tables; those beginning with `steno_` are ours.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

import sqlalchemy as sa
from dbos import DBOS, DBOSClient, DBOSPortableJSONSerializer
from dbos import error as dbos_error
from platformdirs import user_data_path

from stenopool.errors import UsageError
from stenopool.files import make_folder
from stenopool.pipeline import job
from stenopool.text import encodable

if TYPE_CHECKING:
    from dbos import DBOSConfig

APPLICATION = "stenopool"
SQLITE = "sqlite:///"
POSTGRES = ("postgresql://", "postgres://")
BUSY_MILLISECONDS = 30_000

# DBOS's own default is pickle: whoever may write to the database could run code in a worker.
_JSON = DBOSPortableJSONSerializer()

metadata = sa.MetaData()
workers = sa.Table(
    "steno_workers",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("born", sa.Text, nullable=False),  # boot and start of the process: pids come again
    sa.Column("group", sa.Text, nullable=False),
    sa.Column("beat", sa.BigInteger, nullable=False),  # counts up while the worker lives
    sa.Column("since", sa.Float, nullable=False),  # seconds since 1970, for people
)
batches = sa.Table(
    "steno_batches",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("bucket", sa.Text, nullable=False),
    sa.Column("schedule", sa.Text, nullable=False),  # its name; empty for none
    sa.Column("created", sa.Float, nullable=False),  # seconds since 1970
    sa.Column("children", sa.JSON, nullable=False),  # of each: recordings, seconds
)
schedules = sa.Table(
    "steno_schedules",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("cron", sa.Text, nullable=False),
    sa.Column("timezone", sa.Text, nullable=False),
    sa.Column("request", sa.JSON, nullable=False),
    sa.Column("paused", sa.Boolean, nullable=False),
    sa.Column("last", sa.Float, nullable=False),  # the moment up to which runs were begun
)
keys = sa.Table(
    "steno_keys",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("hash", sa.Text, nullable=False, unique=True),
    sa.Column("scopes", sa.JSON, nullable=False),
    sa.Column("requests_per_minute", sa.Integer, nullable=False),
    sa.Column("audio_minutes_per_day", sa.Float, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("revoked", sa.Float, nullable=True),
)
usage = sa.Table(
    "steno_usage",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("day", sa.Integer, primary_key=True),  # since 1970
    sa.Column("seconds", sa.Float, nullable=False),  # of audio
)
submissions = sa.Table(
    "steno_submissions",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),  # id of an API key
    sa.Column("idempotency", sa.Text, nullable=True),
    sa.Column("fingerprint", sa.Text, nullable=False),  # of what was asked for
    sa.Column("stage", sa.Text, nullable=False),
    sa.Column("due", sa.Float, nullable=False),  # until then one server has it in hand
    sa.Column("attempts", sa.Integer, nullable=False),  # to fetch it
    sa.Column("key", sa.Text, nullable=False),  # of the recording
    sa.Column("wanted", sa.JSON, nullable=False),
    sa.Column("webhook", sa.Text, nullable=False),  # URL; empty for none
    sa.Column("job", sa.Text, nullable=False),  # its last one; empty while there is none
    sa.Column("state", sa.Text, nullable=False),  # how it has ended; empty until then
    sa.Column("error", sa.JSON, nullable=True),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("ended", sa.Float, nullable=True),
    sa.UniqueConstraint("owner", "idempotency"),
    sa.Index("steno_submissions_by_owner", "owner", "created", "id"),
    sa.Index("steno_submissions_by_stage", "stage", "due"),
    sa.Index("steno_submissions_by_job", "job"),
)
deliveries = sa.Table(
    "steno_webhooks",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),  # what receivers know it by
    sa.Column("submission", sa.Text, nullable=False, index=True),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("due", sa.Float, nullable=False),  # of the next attempt
    sa.Column("begun", sa.Float, nullable=False),
    sa.Column("status", sa.Integer, nullable=True),  # of the last answer
    sa.Column("error", sa.Text, nullable=False),
    sa.Index("steno_webhooks_by_state", "state", "due"),
)


# What the database may answer at any moment; DBOS has an error of its own for a query that hangs.
DATABASE_ERRORS = (sa.exc.SQLAlchemyError, dbos_error.DBOSException)


def default_database(bucket_url: str) -> str:
    """A SQLite file in a folder's bucket, in the user's data folder for any other bucket."""
    if bucket_url.startswith("file://"):
        path = os.fsdecode(unquote_to_bytes(bucket_url.removeprefix("file://")))
        folder = Path(path) / ".stenopool"
    else:
        digest = hashlib.sha256(bucket_url.encode()).hexdigest()[:16]
        folder = user_data_path("stenopool") / "jobs" / digest
    return f"{SQLITE}{folder / 'jobs.sqlite'}"


def open_database(url: str) -> sa.Engine:
    """An engine for the database at a URL, with every table made.

    Raises:
        UsageError: the URL is none of SQLite or PostgreSQL, nobody answers there, or what is there
            cannot be used.
    """
    engine = _engine(url)
    try:
        _migrate(engine)
        _make_tables(engine)
    except sa.exc.DatabaseError as error:
        raise UsageError(
            f"cannot open the database `{engine.url.render_as_string()}`: {error.orig}",
            do="Check the URL, and that the server runs and lets this user in",
        ) from error
    return engine


def client(engine: sa.Engine) -> DBOSClient:
    """What lists, submits and changes jobs, without running any."""
    return DBOSClient(system_database_engine=engine, serializer=_JSON, application_name=APPLICATION)


def configuration(engine: sa.Engine, executor: str) -> DBOSConfig:
    """How DBOS runs in a worker process."""
    return {
        "name": APPLICATION,
        "system_database_url": engine.url.render_as_string(hide_password=False),
        "system_database_engine": engine,
        "executor_id": executor,
        "application_version": job.PROTOCOL,  # DBOS hands over no jobs of another one
        "serializer": _JSON,
        "log_level": "CRITICAL",  # it logs each failed recording, with a traceback
        "run_migrations": False,
        # Queues are polled; nothing here waits for events.
        "notification_listener_polling_interval_sec": 60.0,
        "scheduler_polling_interval_sec": 3600.0,
    }


def _engine(url: str) -> sa.Engine:
    if url.startswith(SQLITE):
        path = url.removeprefix(SQLITE)
        if encodable(path) != path:
            raise UsageError(
                f"`{path}` is not UTF-8, and no place for a database",
                do="Name another one with `--database` or `STENO_DATABASE`",
            )
        make_folder(Path(path).absolute().parent)
        engine = sa.create_engine(sa.URL.create("sqlite", database=path))  # `?` and `%` as they are
        sa.event.listen(engine, "connect", _set_up_sqlite)
        return engine
    for scheme in POSTGRES:
        if url.startswith(scheme):
            return _postgres("postgresql+psycopg://" + url.removeprefix(scheme))
    raise UsageError(
        f"not a database: `{url.partition('://')[0]}://…`",
        do="Use `sqlite:///path/to/file` or `postgresql://user@host/name`",
    )


def _postgres(address: str) -> sa.Engine:
    try:
        engine = sa.create_engine(address, pool_size=10, max_overflow=20, pool_pre_ping=True)
        sa.event.listen(engine, "handle_error", _say_that_it_is_away)
        return engine
    except (ValueError, sa.exc.ArgumentError) as error:
        raise UsageError(
            "not the address of a PostgreSQL database", do="Use `postgresql://user@host:5432/name`"
        ) from error


def _say_that_it_is_away(context: sa.ExceptionContext) -> None:
    """A connection that could not be made is one that was lost: DBOS then tries again.

    By itself it does not know all the texts of psycopg that mean this, such as an unknown host.
    """
    if context.connection is None:
        context.is_disconnect = True


def _set_up_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401  a DBAPI connection
    connection.isolation_level = "IMMEDIATE"
    for pragma in (
        f"busy_timeout={BUSY_MILLISECONDS}",
        "foreign_keys=ON",
        "journal_mode=WAL",
        "synchronous=FULL",  # a job that was accepted outlives a power cut
    ):
        connection.execute(f"PRAGMA {pragma}")


def _make_tables(engine: sa.Engine) -> None:
    """Make our tables, where they are missing: one process at a time."""
    lock = {
        "sqlite": "BEGIN IMMEDIATE",  # sqlite3 itself begins no transaction for this
        "postgresql": f"SELECT pg_advisory_xact_lock({zlib.crc32(APPLICATION.encode())})",
    }
    with engine.begin() as connection:
        connection.execute(sa.text(lock[engine.dialect.name]))
        metadata.create_all(connection)


def _migrate(engine: sa.Engine) -> None:
    """Make DBOS's tables, which its client never does."""
    address = engine.url.set(drivername=engine.url.get_backend_name())
    DBOS.migrate(address.render_as_string(hide_password=False))
