"""A server in this process, so that tests can change what it does: `with house(stage) as home`.

Its workers are scripted: see `scripted_worker`. What it is told by webhooks, a receiver remembers.
"""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import uvicorn

from pipelines import PATIENCE, RATE, SCRIPTED, Stage, wait_for
from sounds import tone, wav_bytes
from stenopool.pipeline.pool import Limits
from stenopool.service.app import Serving, create_app

ENDED = ("done", "failed", "cancelled", "left", "gone", "broken")
OK, FAILING = 204, 500


@dataclass
class House:
    """A server and the stage that it plays on."""

    stage: Stage
    url: str
    state: Any
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def client(self) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, timeout=30, headers=self.headers)

    def call(self, method: str, path: str, **more: Any) -> httpx2.Response:
        with self.client as client:
            return client.request(method, f"/v1/jobs{path}", **more)

    def get(self, path: str = "", **more: Any) -> Any:
        """The JSON of an answer that is no error."""
        answer = self.call("GET", path, **more)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str = "", **more: Any) -> Any:
        answer = self.call("POST", path, **more)
        assert answer.is_success, answer.text
        return answer.json()

    def submit(self, name: str = "a.wav", seconds: float = 1.0, **fields: Any) -> Any:
        """A recording as a form; gives the job."""
        return self.post(files={"file": (name, sound(seconds))}, data=fields)

    def ended(self, id: str) -> Any:
        """A job, once it has ended."""
        wait_for(lambda: self.get(f"/{id}")["state"] in ENDED)
        return self.get(f"/{id}")


@contextmanager
def house(stage: Stage, **changes: Any) -> Iterator[House]:
    """A server that listens until the context ends; see `Serving` for what can be changed."""
    given = {"limits": Limits(), "command": stage.command, "waiting": 10, **changes}
    app = create_app(Serving(stage.jobs, stage.url, SCRIPTED, stage.bucket, **given))
    config = uvicorn.Config(
        app, port=0, log_config=None, ws="none", timeout_graceful_shutdown=20, lifespan="on"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: server.started or not thread.is_alive())
        port = server.servers[0].sockets[0].getsockname()[1]
        yield House(stage, f"http://127.0.0.1:{port}", app.state)
    finally:
        app.state.closing = True
        server.should_exit = True
        thread.join()


def sound(seconds: float = 1.0) -> bytes:
    """A recording."""
    return wav_bytes(tone(seconds, rate=RATE), rate=RATE)


@dataclass
class Call:
    """A request that a receiver got."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def data(self) -> Any:
        return json.loads(self.body)


@dataclass
class Receiver:
    """A server of somebody else.

    Attributes:
        statuses: of its next answers; then `OK`.
        pages: what it has to give, by path: a status, headers and a body.
        pause: seconds before each answer to a POST, and after each piece of one to a GET.
        gate: nothing is answered while it is closed.
    """

    url: str = ""
    calls: list[Call] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    pages: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    pause: float = 0.0
    gate: threading.Event = field(default_factory=threading.Event)

    @property
    def ids(self) -> list[str]:
        return [one.headers["webhook-id"] for one in self.calls if "webhook-id" in one.headers]


@contextmanager
def receiver(*statuses: int, secure: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """A real server on this machine."""
    seen = Receiver(statuses=list(statuses))
    seen.gate.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self._note()
            time.sleep(seen.pause)
            self._answer(seen.statuses.pop(0) if seen.statuses else OK, {}, b"")

        def do_GET(self) -> None:
            self._note()
            self._answer(*seen.pages.get(self.path, (404, {}, b"")))

        def _note(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            seen.calls.append(Call(self.path, headers, self.rfile.read(length), time.time()))
            seen.gate.wait(PATIENCE)

        def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            for at in range(0, len(body), 1 << 16):
                self.wfile.write(body[at : at + (1 << 16)])
                time.sleep(seen.pause)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            pass  # the client has gone

    with Server(("127.0.0.1", 0), Handler) as server:
        if secure:
            server.socket = secure.wrap_socket(server.socket, server_side=True)
        seen.url = f"http{'s' if secure else ''}://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield seen
        finally:
            seen.gate.set()
            server.shutdown()
            thread.join()
