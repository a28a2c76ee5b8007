"""SageMaker's contract for containers, and its endpoints as boto3's `sagemaker-runtime` asks them.

Where there is an `inference.py`, its functions answer, in a process of their own.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from stenopool.decoding.options import Options
from stenopool.errors import Defect, EngineError, StenoError, UnsupportedOption, UsageError
from stenopool.pipeline import keys
from stenopool.pipeline.job import changes
from stenopool.pipeline.watch import Defaults
from stenopool.service import functions, problems
from stenopool.service.access import Caller, caller
from stenopool.service.functions import Functions
from stenopool.service.guard import Door, unless_gone
from stenopool.service.inference import MEDIA, output_fn
from stenopool.service.invocation import (
    ASKED,
    attributes_of,
    key_of,
    media_of,
    options_of,
    received,
)
from stenopool.service.remote import Remote
from stenopool.service.submissions import GIVEN, Submission, Wanted
from stenopool.settings import settings
from stenopool.transcript import Transcript

HEADER = "x-amzn-sagemaker-"

# What AWS's clients make of a status.
_ERRORS = {
    401: "AccessDeniedException",
    403: "AccessDeniedException",
    429: "ThrottlingException",
    503: "ServiceUnavailable",
}


class NotReady(EngineError):  # noqa: N818  the names say what happened
    """The model is not loaded yet."""

    code: ClassVar[str] = "not_ready"
    transient: ClassVar[bool] = True


class Everyone:
    """In place of `Access` where whoever reaches the server may ask: SageMaker has checked them."""

    async def admit(self, connection: HTTPConnection, scope: str) -> Caller:
        """Who asks."""
        return Caller("sagemaker")

    async def used(self, who: Caller, seconds: float) -> None:
        """Nobody counts."""


class AmazonDoor(Door):
    """A `Door` whose errors AWS's clients understand."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def understood(request: Request) -> Response:
            try:
                return await handle(request)
            except StenoError as error:
                response = await problems.on_steno_error(request, error)
            content = json.loads(bytes(response.body))
            content["message"] = content["error"]["message"]
            status = response.status_code
            kind = "ModelError" if content["error"]["code"] == "inference_failed" else ""
            kind = kind or _ERRORS.get(status, "ValidationError" if status < 500 else "")
            headers = {"x-amzn-errortype": kind or "InternalFailure"}
            if "retry-after" in response.headers:
                headers["retry-after"] = response.headers["retry-after"]
            return JSONResponse(content, status, headers)

        return understood


container = APIRouter(tags=["SageMaker"], route_class=Door)
endpoints = APIRouter(tags=["SageMaker"], route_class=AmazonDoor)
later = APIRouter(tags=["SageMaker"], route_class=AmazonDoor)

Who = Annotated[Caller, Depends(caller("transcribe"))]
Submitter = Annotated[Caller, Depends(caller("jobs"))]

_TEXT = {"schema": {"type": "string"}}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The transcript, in the format that is accepted.",
        "content": {kind: {} if kind == "application/json" else _TEXT for kind in MEDIA},
    }
}


@asynccontextmanager
async def at_work(app: FastAPI) -> AsyncIterator[None]:
    """Makes what answers invocations, until the server ends."""
    invoker = Invoker(app)
    app.state.invoker = invoker
    try:
        yield
    finally:
        await invoker.stop()


@container.get("/ping")
async def ping(request: Request) -> Response:
    """Whether invocations are answered at once. The first one begins to load the model."""
    trouble = request.app.state.invoker.trouble()
    return problems.answer(trouble) if trouble else Response(status_code=200)


@container.post("/invocations", responses=_ANSWERS, openapi_extra=ASKED)
async def invocations(request: Request, who: Who) -> Response:
    """The transcript of a recording, which is the body, or part of a form, or named by JSON."""
    answer: Response = await request.app.state.invoker.answer(request, who)
    return answer


@endpoints.post("/endpoints/{name}/invocations", responses=_ANSWERS, openapi_extra=ASKED)
async def endpoint_invocations(name: str, request: Request, who: Who) -> Response:
    """`/invocations`, as `invoke_endpoint` asks for them; any name will do."""
    answer: Response = await request.app.state.invoker.answer(request, who)
    answer.headers["x-amzn-invoked-production-variant"] = "AllTraffic"
    return answer


@later.post("/endpoints/{name}/async-invocations", status_code=202)
async def endpoint_async_invocations(name: str, request: Request, who: Submitter) -> Response:
    """As `invoke_endpoint_async` asks: a recording below `input/` of the bucket becomes a job."""
    state = request.app.state
    if state.invoker.has_functions:
        raise UnsupportedOption(
            "jobs do not know the functions of `inference.py`", do="Use `invoke_endpoint`"
        )
    bucket = state.serving.bucket
    key = key_of(bucket, request.headers.get(f"{HEADER}inputlocation", ""))
    if not key.startswith(keys.INPUT) or not keys.is_recording(key):
        raise UsageError("the recording is not below `input/`", do="Put it there")
    format = MEDIA[media_of(request.headers.get(f"{HEADER}accept", ""))]
    given = Defaults.of(state.default, [format], options_of(attributes_of(request)))
    wanted = Wanted("", key.rpartition("/")[2], given.group, given.formats, given.options)
    made = Submission(owner=who.id, key=key, wanted=wanted, stage=GIVEN)
    await run_in_threadpool(state.intake.adopt, made)
    return JSONResponse(
        {"InferenceId": request.headers.get(f"{HEADER}inference-id") or made.id},
        202,
        {
            f"{HEADER}outputlocation": f"{bucket.url}/{keys.output_key(key, format)}",
            f"{HEADER}failurelocation": f"{bucket.url}/{keys.record_key(key)}",
        },
    )


class Invoker:
    """Answers invocations: by the user's functions, or by the model alone."""

    def __init__(self, app: FastAPI) -> None:
        self._state = app.state
        self._remote = Remote(private=settings().allow_private_urls)
        self._functions: Functions | None = None
        if found := functions.program():
            self._functions = Functions(
                found, functions.model_dir(), self._heard, functions.longest_seconds()
            )
        self._trouble: StenoError | None = NotReady("the model is being loaded", do="Ask again")
        self._loading: asyncio.Task[None] | None = None
        self._begun = 0.0

    @property
    def has_functions(self) -> bool:
        """Whether there is an `inference.py`."""
        return self._functions is not None

    def trouble(self) -> StenoError | None:
        """Why an invocation would not be answered at once; what can be done about it is begun."""
        _, failed = self._state.engines.failures.get(self._state.default, ({}, 0.0))
        if self._trouble is None and failed > self._begun:
            self._trouble = NotReady("the model was lost", do="Ask again in some seconds")
        if self._trouble and (self._loading is None or self._loading.done()):
            self._begun = time.monotonic()
            self._loading = asyncio.create_task(self._load())
        return self._trouble

    async def answer(self, request: Request, who: Caller) -> Response:
        """The response to a request."""
        accept = request.headers.get("accept", "")
        called = await self._functions.given() if self._functions else ()
        if not self._functions or accept in {"", "*/*"}:
            accept = media_of(accept)  # before the body is read
        async with AsyncExitStack() as stack:
            if "input_fn" in called:
                body = await stack.enter_async_context(self._state.uploads.of_body(request))
                kind = request.headers.get("content-type", "application/octet-stream")
                work = self._called(who, accept, body=str(body), content_type=kind)
            else:
                path, options = await received(request, who, self._remote, stack)
                if self._functions:
                    data = {"path": str(path), "options": changes(options)}
                    work = self._called(who, accept, data=data)
                else:
                    work = self._usual(path, options, who, accept)
            content, media = await unless_gone(request, work)
        return Response(content, media_type=media)

    async def stop(self) -> None:
        """End what runs."""
        if self._loading is not None:
            self._loading.cancel()
            with suppress(asyncio.CancelledError):
                await self._loading
        if self._functions is not None:
            await self._functions.stop()
        await self._remote.close()

    async def _load(self) -> None:
        try:
            given = await self._functions.given() if self._functions else ()
            if "model_fn" not in given:
                await self._state.engines.process(self._state.default)
        except StenoError as error:
            self._trouble = error
        else:
            self._trouble = None

    async def _called(self, who: Caller, accept: str, **what: object) -> tuple[bytes | str, str]:
        if self._functions is None:
            raise Defect("there are no functions", do="Please report it")
        return await self._functions.answer(who, accept, **what)

    async def _usual(
        self, path: Path, options: Options, who: Caller, accept: str
    ) -> tuple[bytes | str, str]:
        found = await self._heard(path, changes(options), who)
        return output_fn(Transcript.from_dict(found), accept)

    async def _heard(self, path: Path, options: Mapping[str, Any], who: Caller) -> dict[str, Any]:
        found: dict[str, Any] | None = None
        said = self._state.engines.transcribe(path, self._state.default, options, who.id)
        async for one in said:
            found = one.get("transcript", found)
        if found is None:
            raise Defect("a worker gave no transcript", do="Please report it")
        await self._state.access.used(who, float(found["duration"]))
        return found
