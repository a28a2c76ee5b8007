"""The server: endpoints over a supervisor, which runs the worker processes."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stenopool import __version__
from stenopool.bucket import Bucket
from stenopool.errors import StenoError
from stenopool.pipeline.events import event
from stenopool.pipeline.job import Group
from stenopool.pipeline.jobs import Jobs, JobView
from stenopool.pipeline.pool import COMMAND, Limits
from stenopool.pipeline.supervisor import Supervisor
from stenopool.service import openai, problems, realtime
from stenopool.service.access import Access
from stenopool.service.engines import Engines
from stenopool.service.uploads import TooLarge, Uploads

DESCRIPTION = "Recordings become transcripts that can be trusted, on your own machine."


@dataclass(frozen=True, slots=True)
class Serving:
    """How the server runs.

    Attributes:
        group: the model that is used where none is named.
        bucket: where the recordings of jobs are put.
        limits: of the worker processes.
        most_bytes: of one upload.
        waiting: requests that may wait.
        origins: web pages that may call the server.
        command: of a worker process.
    """

    jobs: Jobs
    database: str
    group: Group
    bucket: Bucket
    limits: Limits
    most_bytes: int = 4 << 30
    waiting: int = 200
    origins: Sequence[str] = ()
    command: Sequence[str] = COMMAND
    duties: Sequence[Callable[[], object]] = ()


def create_app(serving: Serving) -> FastAPI:
    """The application."""
    app = FastAPI(
        title="Stenopool", version=__version__, description=DESCRIPTION, lifespan=_lifespan(serving)
    )
    for kind, handler in (
        (StenoError, problems.on_steno_error),
        (HTTPException, problems.on_http_error),
        (RequestValidationError, problems.on_invalid),
    ):
        app.add_exception_handler(kind, handler)
    app.include_router(openai.router)
    app.include_router(realtime.router)
    app.add_middleware(_Guard, most_bytes=serving.most_bytes)
    if serving.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(serving.origins),
            allow_methods=["*"],
            allow_headers=["*"],
        )
    _operation(app)
    return app


def _lifespan(serving: Serving) -> Any:  # noqa: ANN401  a context manager of the framework
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        stop = threading.Event()
        supervisor = Supervisor(
            serving.jobs,
            serving.database,
            serving.limits,
            _Silent(),
            bucket=serving.bucket,
            command=serving.command,
            duties=serving.duties,
            stopping=stop.is_set,
            brisk=True,
        )
        app.state.supervisor = supervisor
        app.state.engines = Engines(supervisor.pool, waiting=serving.waiting)
        supervisor.on_failure = app.state.engines.failed
        app.state.access = Access(serving.jobs.engine)
        app.state.uploads = Uploads(serving.most_bytes)
        app.state.default = serving.group
        app.state.serving = serving
        thread = threading.Thread(target=supervisor.run, name="supervisor", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            app.state.uploads.close()

    return lifespan


class _Silent:
    """Observer of the supervisor; what happens is in the logs."""

    def running(self, jobs: Sequence[JobView]) -> None:
        return

    def ended(self, job: JobView) -> None:
        return


def _operation(app: FastAPI) -> None:
    @app.get("/healthz", tags=["Operation"])
    async def healthz() -> dict[str, str]:
        """Whether the server runs."""
        return {"status": "ok"}


class _Guard:
    """Around all requests: an id for each, a limit for bodies, a line in the log. Never content."""

    def __init__(self, app: ASGIApp, most_bytes: int) -> None:
        self._app = app
        self._most = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = secrets.token_hex(8)
        begun = time.monotonic()
        status, taken = 0, 0

        async def limited() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._most + SLACK:
                raise TooLarge("the body is too large", do="Put large recordings into the bucket")
            return message

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id.encode()),
                ]
            await send(message)

        try:
            await self._app(scope, limited, named)
        except TooLarge as error:
            if status:
                raise
            await problems.answer(error)(scope, receive, named)
        finally:
            event(
                "request",
                id=request_id,
                method=scope["method"],
                path=scope["path"],
                status=status,
                seconds=round(time.monotonic() - begun, 3),
                bytes=taken,
            )


SLACK = 1 << 20  # of a form, besides its file
