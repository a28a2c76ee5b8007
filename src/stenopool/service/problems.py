"""Errors as HTTP answers, in the form that OpenAI's clients understand."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from stenopool.errors import Defect, StenoError
from stenopool.text import encodable

TOO_SLOW = 408

_STATUSES = {
    "busy": 429,
    "too_large": 413,
    "too_slow": TOO_SLOW,
    "unknown_name": 404,
    "not_acceptable": 406,
    "inference_failed": 500,
    "wrong_state": 409,
    "superseded": 409,
    "idempotency_conflict": 422,
    "not_authenticated": 401,
    "not_allowed": 403,
    "over_quota": 429,
}
_STATUSES_BY_EXIT = {2: 400, 3: 400, 4: 503, 5: 503, 6: 507, 7: 503}
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def status_of(error: StenoError) -> int:
    """The HTTP status that goes with an error."""
    return _STATUSES.get(error.code) or _STATUSES_BY_EXIT.get(error.exit_status, 500)


def body(status: int, message: str, code: str, hint: str = "") -> dict[str, Any]:
    """The body of an error: `{"error": {"message", "type", "param", "code", "hint"}}`."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {
        "error": {
            "message": encodable(message),
            "type": kind,
            "param": None,
            "code": code,
            "hint": hint,
        }
    }


def answer(error: StenoError, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error as a response."""
    record, status = error.record(), status_of(error)
    content = body(status, str(record["message"]), str(record["code"]), str(record["hint"]))
    return JSONResponse(content, status, headers)


async def on_steno_error(request: Request, error: Exception) -> JSONResponse:
    """Of anything below."""
    if not isinstance(error, StenoError):
        raise error
    headers = {}
    if status_of(error) == 429:
        headers["Retry-After"] = str(request.app.state.engines.retry_after())
    return answer(error, headers)


async def on_http_error(request: Request, error: Exception) -> JSONResponse:
    """Of the framework: no such path, wrong method."""
    if not isinstance(error, HTTPException):
        raise error
    if isinstance(error.__cause__, StenoError):  # met while the framework read the body
        return await on_steno_error(request, error.__cause__)
    content = body(error.status_code, str(error.detail), f"http_{error.status_code}")
    return JSONResponse(content, error.status_code, error.headers)


async def on_invalid(request: Request, error: Exception) -> JSONResponse:
    """Of a request that is not as the OpenAPI document says."""
    if not isinstance(error, RequestValidationError):
        raise error
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return JSONResponse(body(400, f"{where}: {first['msg']}", "invalid_request"), 400)


async def on_defect(request: Request, error: Exception) -> JSONResponse:
    """Of anything that nobody thought of; its traceback is in the log."""
    return answer(Defect("something went wrong in the server", do="See its log, and report it"))
