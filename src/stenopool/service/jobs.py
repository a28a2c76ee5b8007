"""`/v1/jobs`: recordings that are transcribed in their turn, however long they are.

Whoever has submitted a job, and nobody else, sees it.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

from stenopool.errors import Busy, UnknownName, UsageError
from stenopool.pipeline.jobs import ACTIVE, STATES, JobView
from stenopool.pipeline.keys import output_key
from stenopool.service.access import Caller, caller
from stenopool.service.asking import ASKED, asked
from stenopool.service.intake import Intake
from stenopool.service.remote import Remote
from stenopool.service.submissions import (
    FETCHING,
    STORING,
    Submission,
    Submissions,
    WrongState,
    state_of,
)
from stenopool.service.webhooks import Delivery, Webhooks, links, secrets_of
from stenopool.settings import settings
from stenopool.text import encodable
from stenopool.transcript import Transcript
from stenopool.writers import render

Format = Literal["json", "txt", "srt", "vtt", "tsv"]
LOOK_SECONDS = 1.0  # between looks at a job whose events are followed
QUIET_SECONDS = 15.0  # after which a line is sent that means nothing, so that proxies see life
LONGEST_PAGE = 200
OPEN_STATES = (FETCHING, *ACTIVE)
ALL_STATES = (FETCHING, *STATES)

_MEDIA = {
    "json": "application/json",
    "txt": "text/plain; charset=utf-8",
    "srt": "application/x-subrip; charset=utf-8",
    "vtt": "text/vtt; charset=utf-8",
    "tsv": "text/tab-separated-values; charset=utf-8",
}
_CURSOR = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,20})?)-([0-9a-f]{32})")
_LAST = "end"  # id of the last event

router = APIRouter(tags=["Jobs"])

Who = Annotated[Caller, Depends(caller("jobs"))]
States = Annotated[list[str] | None, Query(description=f"Repeatable: {', '.join(ALL_STATES)}.")]


class IdempotencyConflict(UsageError):  # noqa: N818  the names say what happened
    """Another request had the same `Idempotency-Key`."""

    code: ClassVar[str] = "idempotency_conflict"


def check_settings() -> None:
    """Refuse to serve with settings that cannot be used.

    Raises:
        UsageError: one has a value that it cannot have.
    """
    secrets_of(settings().webhook_secret)


@asynccontextmanager
async def at_work(app: FastAPI) -> AsyncIterator[None]:
    """Makes what the endpoints use, and does what goes on behind them."""
    state, given = app.state, settings()
    remote = Remote(private=given.allow_private_urls)
    state.submissions = submissions = Submissions(state.serving.jobs)
    secrets = secrets_of(given.webhook_secret)
    state.webhooks = Webhooks(submissions.jobs.engine, remote, secrets)
    state.intake = Intake(
        submissions, state.serving.bucket, state.uploads, remote, given.history_days
    )
    workers = [state.webhooks, state.intake]
    tasks = [asyncio.create_task(one.run()) for one in workers]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for one in workers:
            await one.stop()
        await remote.close()


@router.post("/v1/jobs", status_code=202, openapi_extra=ASKED)
async def submit(request: Request, who: Who) -> JSONResponse:
    """Submit a recording.

    It comes as a form (`file`), as a body of any other type, or as JSON that names a `url` or a
    `key` of the bucket. With `Idempotency-Key` a request can be repeated safely.
    """
    intake: Intake = request.app.state.intake
    async with asked(request, who) as (made, path):
        if path is not None:
            earlier = await intake.store(made, path)
        elif made.wanted.url:
            earlier = await run_in_threadpool(request.app.state.submissions.add, made)
        else:
            earlier = await run_in_threadpool(intake.adopt, made)
    if earlier is not None:
        _refuse_other(earlier, made)
    shown = await run_in_threadpool(_found, request, who, (earlier or made).id)
    headers = {"Location": f"/v1/jobs/{shown['id']}"}
    if earlier is not None:
        headers["Idempotent-Replayed"] = "true"
    return JSONResponse(shown, 202, headers)


@router.get("/v1/jobs")
def list_jobs(
    request: Request,
    who: Who,
    state: States = None,
    limit: Annotated[int, Query(ge=1, le=LONGEST_PAGE)] = 50,
    cursor: Annotated[str, Query(description="`next` of the page before.")] = "",
) -> dict[str, Any]:
    """The jobs that were submitted with this key, the newest first."""
    for one in state or ():
        if one not in ALL_STATES:
            raise UnknownName(f"no state `{one}`", do=f"Use one of: {', '.join(ALL_STATES)}")
    submissions: Submissions = request.app.state.submissions
    found = submissions.listed(who.id, state or (), limit + 1, _place(cursor))
    page, more = found[:limit], len(found) > limit
    hooks = request.app.state.webhooks.last([one.id for one, _ in page])
    return {
        "object": "list",
        "data": [document(one, view, hooks.get(one.id)) for one, view in page],
        "next": _cursor(page[-1][0]) if more else None,
    }


@router.get("/v1/jobs/{id}")
def show(id: str, request: Request, who: Who) -> dict[str, Any]:
    """One job."""
    return _found(request, who, id)


@router.get("/v1/jobs/{id}/events")
async def events(id: str, request: Request, who: Who) -> Response:
    """What happens to a job, as server-sent events: `progress` again and again, then `end`.

    The data of each is the whole job, so that nothing is missed by who comes late.
    """
    first = await run_in_threadpool(_found, request, who, id)
    if request.headers.get("last-event-id") == _LAST and first["state"] not in OPEN_STATES:
        return Response(status_code=204)  # tells browsers not to come again
    return StreamingResponse(
        _told(request, who, first),
        media_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},
    )


@router.get("/v1/jobs/{id}/result")
def result(id: str, request: Request, who: Who, format: Format = "json") -> Response:
    """The transcript of a job that is done."""
    one = request.app.state.submissions.find(id, who.id)
    if one.state != "done":
        raise WrongState(f"job `{id}` is {one.state or one.stage}", do="Wait until it is done")
    content = request.app.state.serving.bucket.read(output_key(one.key, "json"))
    if content is None:
        raise UnknownName(f"the transcript of job `{id}` is gone", do="Submit the recording again")
    if format != "json":
        content = render(Transcript.from_dict(json.loads(content)), format).encode()
    return Response(content, media_type=_MEDIA[format])


@router.post("/v1/jobs/{id}/cancel")
def cancel(id: str, request: Request, who: Who) -> dict[str, Any]:
    """Stop a job that has not ended."""
    request.app.state.intake.cancel(request.app.state.submissions.find(id, who.id))
    return _found(request, who, id)


@router.post("/v1/jobs/{id}/retry")
def retry(id: str, request: Request, who: Who) -> dict[str, Any]:
    """Do a job once more that has ended and is not done."""
    request.app.state.intake.retry(request.app.state.submissions.find(id, who.id))
    return _found(request, who, id)


@router.delete("/v1/jobs/{id}", status_code=204)
def delete(id: str, request: Request, who: Who) -> Response:
    """Forget a job that has ended, with its recording and its documents."""
    request.app.state.intake.delete(request.app.state.submissions.find(id, who.id))
    return Response(status_code=204)


@router.post("/v1/jobs/{id}/webhook/replay", status_code=202)
def replay(id: str, request: Request, who: Who) -> dict[str, Any]:
    """Send the last webhook of a job again, under the same id."""
    one = request.app.state.submissions.find(id, who.id)
    request.app.state.webhooks.replay(one.id)
    return _found(request, who, id)


def document(one: Submission, view: JobView | None, hook: Delivery | None) -> dict[str, Any]:
    """A job as its owner sees it."""
    return {
        "id": one.id,
        "object": "job",
        "state": state_of(one, view),
        "phase": view.phase if view else "",
        "key": encodable(one.key),
        "job": one.job or None,
        "model": one.wanted.group.model,
        "formats": one.wanted.formats,
        "options": one.wanted.options,
        "done_seconds": view.done_seconds if view else 0.0,
        "total_seconds": view.total_seconds if view else None,
        "eta_seconds": view.eta_seconds() if view else None,
        "attempts": view.attempts if view else one.attempts,
        "compute_seconds": view.compute_seconds if view else 0.0,
        "error": one.error or (view.error if view else None),
        "created": one.created,
        "started": view.started if view else None,
        "finished": one.ended or (view.finished if view else None),
        "webhook": _hook(one, hook),
        "links": links(one.id),
    }


def _hook(one: Submission, hook: Delivery | None) -> dict[str, Any] | None:
    if not one.webhook:
        return None
    if hook is None:
        return {"url": one.webhook, "state": "planned"}
    said = {name: getattr(hook, name) for name in ("id", "state", "attempts", "status", "error")}
    return {"url": one.webhook, **said}


def _found(request: Request, who: Caller, id: str) -> dict[str, Any]:
    submissions: Submissions = request.app.state.submissions
    one = submissions.find(id, who.id)
    hook = request.app.state.webhooks.last([id]).get(id) if one.webhook else None
    return document(one, submissions.views([one]).get(id), hook)


def _refuse_other(earlier: Submission, made: Submission) -> None:
    if earlier.fingerprint != made.fingerprint:
        raise IdempotencyConflict(
            "another request had this `Idempotency-Key`", do="Give each request a key of its own"
        )
    if earlier.stage == STORING:
        raise Busy("the same request is being worked on", do="Try again in a moment")


async def _told(request: Request, who: Caller, first: dict[str, Any]) -> AsyncIterator[str]:
    shown, quiet = first, 0.0
    yield _event(shown)
    while shown["state"] in OPEN_STATES and not getattr(request.app.state, "closing", False):
        await asyncio.sleep(LOOK_SECONDS)
        quiet += LOOK_SECONDS
        try:
            seen = await run_in_threadpool(_found, request, who, first["id"])
        except UnknownName:
            return  # it was deleted
        if _outline(seen) != _outline(shown):
            yield _event(seen)
        elif quiet >= QUIET_SECONDS:
            yield ": still there\n\n"
        else:
            continue
        shown, quiet = seen, 0.0


def _outline(shown: dict[str, Any]) -> dict[str, Any]:
    """What is news if it changes: an estimate changes with every look."""
    return {name: value for name, value in shown.items() if name != "eta_seconds"}


def _event(shown: dict[str, Any]) -> str:
    going = shown["state"] in OPEN_STATES
    head = "event: progress\n" if going else f"event: end\nid: {_LAST}\n"
    return f"{head}data: {json.dumps(shown, ensure_ascii=False)}\n\n"


def _cursor(last: Submission) -> str:
    return f"{last.created!r}-{last.id}"


def _place(cursor: str) -> tuple[float, str] | None:
    if not cursor:
        return None
    if not (place := _CURSOR.fullmatch(cursor)):
        raise UsageError("this is no cursor", do="Use `next` of the page before")
    return float(place[1]), place[2]
