"""For those who run the server: is it alive, is it ready, what does it do."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.concurrency import run_in_threadpool

from stenopool.service.access import Caller, caller

alive = APIRouter(tags=["Operation"])
router = APIRouter(tags=["Operation"])


@alive.get("/healthz")
async def healthz() -> dict[str, str]:
    """Whether the server runs."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(request: Request) -> Response:
    """Whether it can do what it is asked for: the database and the bucket can be reached, and
    somebody looks after the workers."""
    serving = request.app.state.serving
    troubles = [] if request.app.state.is_supervised() else ["supervisor"]
    for name, check in (("database", serving.jobs.counts), ("bucket", serving.bucket.prepare)):
        try:
            await run_in_threadpool(check)
        except Exception:  # noqa: BLE001  whatever it is, the server is not ready
            troubles.append(name)
    status = {"status": "not ready" if troubles else "ready", "troubles": troubles}
    return JSONResponse(status, 503 if troubles else 200)


@router.get("/metrics")
async def metrics(request: Request, who: Annotated[Caller, Depends(caller("metrics"))]) -> Response:
    """Figures in Prometheus's format."""
    text = await run_in_threadpool(request.app.state.metrics.text)
    return Response(text, media_type=CONTENT_TYPE_LATEST)
