"""What an operator sees of the server: traces of requests, and whether it is ready."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from serving import served
from stenopool.service import operation

INSTRUMENT = str(Path(sys.executable).with_name("opentelemetry-instrument"))
TO_THE_CONSOLE = {
    "OTEL_SERVICE_NAME": "speech",
    "OTEL_TRACES_EXPORTER": "console",
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_LOGS_EXPORTER": "none",
}


def test_each_request_is_a_span_of_a_trace_without_content(tmp_path: Path) -> None:
    caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    traced = served(tmp_path, instant=True, environment=TO_THE_CONSOLE, wrapper=(INSTRUMENT,))
    with traced as server, server.client() as client:
        client.get("/v1/models", headers={"traceparent": caller}).raise_for_status()
        client.post("/v1/jobs", content=b"secret", headers={"Content-Type": "audio/wav"})
    found = {one["name"]: one for one in spans(server.log)}
    assert found["GET /v1/models"]["context"]["trace_id"] == f"0x{caller.split('-')[1]}"
    assert found["POST /v1/jobs"]["resource"]["attributes"]["service.name"] == "speech"
    assert "secret" not in server.log


def spans(log: str) -> Iterator[dict[str, Any]]:
    """The JSON objects among other lines."""
    decoder = json.JSONDecoder()
    at = log.find("{\n")
    while at >= 0:
        found, end = decoder.raw_decode(log, at)
        yield found
        at = log.find("{\n", end)


# --- ready -------------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["", "supervisor", "database", "bucket"])
def test_server_says_what_keeps_it_from_being_ready(trouble: str) -> None:
    def check(name: str) -> Callable[[], None]:
        def checked() -> None:
            if name == trouble:
                raise OSError("away")

        return checked

    serving = SimpleNamespace(
        jobs=SimpleNamespace(counts=check("database")),
        bucket=SimpleNamespace(prepare=check("bucket")),
    )
    app = FastAPI()
    app.state.serving = serving
    app.state.is_supervised = lambda: trouble != "supervisor"
    app.include_router(operation.router)
    found = TestClient(app).get("/readyz")
    assert found.status_code == (503 if trouble else 200)
    assert found.json()["troubles"] == ([trouble] if trouble else [])
