"""Where a run keeps its bucket and its jobs: this machine alone, or servers as in a cloud."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeAlias
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import psutil
import psycopg

Name: TypeAlias = Literal["local", "cloud"]
NAMES: tuple[Name, ...] = ("local", "cloud")
START_SECONDS = 30.0


@dataclass(frozen=True)
class Place:
    """A bucket and a database of one run.

    Attributes:
        bucket: URL or folder.
        database: URL.
        environment: variables with which processes find them.
    """

    bucket: str
    database: str
    environment: Mapping[str, str] = field(default_factory=dict)


class Backend(Protocol):
    """Makes places."""

    def place(self, name: str) -> Place:
        """A new, empty bucket and a new database."""


@dataclass(frozen=True)
class Folders:
    """A folder and a SQLite file for each run."""

    folder: Path

    def place(self, name: str) -> Place:
        bucket = self.folder / name
        bucket.mkdir(parents=True)
        return Place(str(bucket), f"sqlite:///{self.folder / name}.sqlite")


@dataclass(frozen=True)
class Cloud:
    """S3 over HTTP and PostgreSQL."""

    endpoint: str
    postgres: Postgres

    def place(self, name: str) -> Place:
        with urlopen(Request(f"{self.endpoint}/{name}", method="PUT")):  # noqa: S310  our own
            pass
        return Place(f"s3://{name}", self.postgres.database(name), environment(self.endpoint))


class Postgres:
    """A PostgreSQL server of our own, over a socket.

    Args:
        folder: for its data, which is made.
    """

    def __init__(self, folder: Path) -> None:
        from pgserver.postgres_server import get_server  # here, because it warns when imported

        self._server = get_server(folder)

    def database(self, name: str) -> str:
        """Make a database; gives its URL."""
        self._execute(f'CREATE DATABASE "{name}"')
        return str(self._server.get_uri(database=name))

    def _execute(self, command: str) -> None:
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(command.encode())

    def allow(self, connections: int) -> None:
        """Let so many clients in; 100 are usual."""
        self._execute(f"ALTER SYSTEM SET max_connections = {connections}")
        self.stop()
        self.start()

    def connections(self, name: str) -> int:
        """How many clients a database has."""
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            row = connection.execute(query, (name,)).fetchone()
        return int(row[0]) if row else 0

    def stop(self) -> None:
        """End the server at once, as a crash of its machine does; what was committed is kept."""
        process = psutil.Process(self._server.get_pid())
        process.send_signal(signal.SIGQUIT)
        process.wait(START_SECONDS)

    def start(self) -> None:
        """Start it again, at the same address."""
        self._server.ensure_postgres_running()

    def close(self) -> None:
        """End it for good."""
        self._server.cleanup()


def environment(endpoint: str) -> dict[str, str]:
    """Variables with which clients find an S3 server."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }


@contextmanager
def backend(name: Name, folder: Path) -> Iterator[Backend]:
    """What keeps buckets and jobs, for as long as the context lasts."""
    if name == "local":
        yield Folders(folder)
        return
    with postgres(folder) as server, s3_server(folder / "s3.log") as endpoint:
        os.environ.update(environment(endpoint))  # for what this process looks up
        yield Cloud(endpoint, server)


@contextmanager
def postgres(folder: Path) -> Iterator[Postgres]:
    """A PostgreSQL server."""
    server = Postgres(folder / "postgres")
    try:
        yield server
    finally:
        server.close()


@contextmanager
def s3_server(log: Path) -> Iterator[str]:
    """A process that speaks S3; gives its address."""
    port = free_port()
    code = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=file, stderr=file)
    endpoint = f"http://127.0.0.1:{port}"
    try:
        _wait_for(endpoint)
        yield endpoint
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _wait_for(endpoint: str) -> None:
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            with urlopen(endpoint):  # noqa: S310  our own
                return
        except HTTPError:
            return
        except (URLError, OSError):
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
