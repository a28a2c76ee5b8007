"""Object stores for tests: one that speaks S3 over HTTP, and ones that are in trouble."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from types import MappingProxyType

import pytest
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer

from stenopool.bucket import open_bucket
from stenopool.bucket.objects import ObjectBucket

HANGS_UP = 0  # instead of a status of HTTP

_NUMBERS = count()


@dataclass(frozen=True)
class S3Server:
    """A server of this process that speaks S3, with a bucket.

    Attributes:
        endpoint: its address.
        bucket: the bucket's name.
        environment: variables with which clients find it.
    """

    endpoint: str
    bucket: str

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}"

    @property
    def environment(self) -> Mapping[str, str]:
        return MappingProxyType(
            {
                "AWS_ENDPOINT_URL": self.endpoint,
                "AWS_ACCESS_KEY_ID": "test",
                "AWS_SECRET_ACCESS_KEY": "test",
                "AWS_REGION": "us-east-1",
            }
        )

    def with_bucket(self) -> S3Server:
        """The same server with another bucket, which is new and empty."""
        bucket = f"bucket-{next(_NUMBERS)}"
        self._backend.create_bucket(bucket, "us-east-1")
        return S3Server(self.endpoint, bucket)

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let clients of this process find it."""
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)

    def put(self, key: str, data: bytes = b"x") -> None:
        """Put an object of any name at all, which clients and even URLs may not be able to say."""
        self._backend.put_object(self.bucket, key, data)

    def keys(self) -> list[str]:
        """All names there are."""
        return sorted(self._backend.buckets[self.bucket].keys)

    @property
    def _backend(self):  # type: ignore[no-untyped-def]
        return s3_backends[DEFAULT_ACCOUNT_ID]["aws"]


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """A server with an empty bucket; all servers of a process share their objects."""
    log = logging.getLogger("werkzeug")
    before, log.level = log.level, logging.ERROR  # else it prints every request
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield S3Server(f"http://{host}:{port}", "").with_bucket()
    finally:
        server.stop()
        log.level = before


def opened(url: str = "s3://bucket") -> ObjectBucket:
    """A bucket of an object store."""
    bucket = open_bucket(url)
    assert isinstance(bucket, ObjectBucket)
    return bucket


@dataclass
class Answering:
    """A server that says the same to everyone.

    Attributes:
        endpoint: its address.
        asked: the methods of the requests so far.
    """

    endpoint: str = ""
    asked: list[str] = field(default_factory=list)

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let clients of this process find it."""
        S3Server(self.endpoint, "bucket").use(monkeypatch)


@contextmanager
def answering(
    status: int, body: str = "", *, length: int | None = None, headers: Mapping[str, str] = {}
) -> Iterator[Answering]:
    """A server that answers every request like this.

    Args:
        status: of HTTP, or `HANGS_UP`.
        body: what follows.
        length: what it says about the length of the body, where that is a lie.
        headers: more of them.
    """
    seen = Answering()

    class Handler(BaseHTTPRequestHandler):
        def handle_one_request(self) -> None:
            self.raw_requestline = self.rfile.readline()
            if not self.raw_requestline or not self.parse_request():
                self.close_connection = True
                return
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            seen.asked.append(self.command)
            self.close_connection = True
            if status != HANGS_UP:
                self._answer()

        def _answer(self) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        seen.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield seen
        finally:
            server.shutdown()
            thread.join()
