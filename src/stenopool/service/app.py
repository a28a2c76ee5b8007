"""The server: endpoints over a supervisor, which runs the worker processes."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from starlette.exceptions import HTTPException

from stenopool import __version__
from stenopool.bucket import Bucket
from stenopool.errors import StenoError
from stenopool.pipeline.job import Group
from stenopool.pipeline.jobs import Jobs, JobView
from stenopool.pipeline.pool import Limits
from stenopool.pipeline.process import COMMAND
from stenopool.pipeline.supervisor import Supervisor
from stenopool.service import jobs, openai, operation, problems, realtime, sagemaker
from stenopool.service.access import Access
from stenopool.service.engines import Engines
from stenopool.service.guard import PATIENCE_SECONDS, Guard
from stenopool.service.metrics import Metrics
from stenopool.service.uploads import Uploads
from stenopool.settings import settings

DESCRIPTION = "Recordings become transcripts that can be trusted, on your own machine."


@dataclass(frozen=True, slots=True)
class Serving:
    """How the server runs.

    Attributes:
        group: the model that is used where none is named.
        bucket: where the recordings of jobs are put.
        limits: of the worker processes.
        most_bytes: of one upload.
        patience_seconds: until the next bytes of a body have come.
        waiting: requests that may wait.
        origins: web pages that may call the server.
        sagemaker: nothing is served but SageMaker's contract, without keys.
        command: of a worker process.
    """

    jobs: Jobs
    database: str
    group: Group
    bucket: Bucket
    limits: Limits
    most_bytes: int = 4 << 30
    patience_seconds: float = PATIENCE_SECONDS
    waiting: int = 200
    origins: Sequence[str] = ()
    sagemaker: bool = False
    command: Sequence[str] = COMMAND
    duties: Sequence[Callable[[], object]] = ()


def create_app(serving: Serving) -> FastAPI:
    """The application."""
    jobs.check_settings()
    app = FastAPI(
        title="Stenopool",
        version=__version__,
        description=DESCRIPTION,
        lifespan=_lifespan(serving),
        openapi_url=None if serving.sagemaker else "/openapi.json",
    )
    for kind, handler in (
        (StenoError, problems.on_steno_error),
        (HTTPException, problems.on_http_error),
        (RequestValidationError, problems.on_invalid),
        (Exception, problems.on_defect),
    ):
        app.add_exception_handler(kind, handler)
    for router in _routers(serving):
        app.include_router(router)
    app.add_middleware(Guard, most_bytes=serving.most_bytes, patience=serving.patience_seconds)
    if serving.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(serving.origins),
            allow_methods=["*"],
            allow_headers=["*"],
        )
    return app


def _routers(serving: Serving) -> list[APIRouter]:
    if serving.sagemaker:
        return [operation.alive, sagemaker.container, sagemaker.endpoints]
    return [
        operation.alive,
        operation.router,
        openai.router,
        jobs.router,
        realtime.router,
        sagemaker.container,
        sagemaker.endpoints,
        sagemaker.later,
    ]


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
            history_days=settings().history_days,
            duties=serving.duties,
            stopping=stop.is_set,
            brisk=True,
        )
        app.state.supervisor = supervisor
        app.state.engines = Engines(supervisor.pool, waiting=serving.waiting)
        supervisor.on_failure = app.state.engines.failed
        everyone = sagemaker.Everyone()
        app.state.access = everyone if serving.sagemaker else Access(serving.jobs.engine)
        app.state.sessions = realtime.Sessions()
        app.state.uploads = Uploads(serving.most_bytes)
        app.state.default = serving.group
        app.state.serving = serving
        app.state.metrics = Metrics(supervisor, app.state.engines)
        thread = threading.Thread(target=supervisor.run, name="supervisor", daemon=True)
        thread.start()
        app.state.is_supervised = thread.is_alive
        try:
            async with AsyncExitStack() as stack:
                if not serving.sagemaker:
                    await stack.enter_async_context(jobs.at_work(app))
                await stack.enter_async_context(sagemaker.at_work(app))
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
