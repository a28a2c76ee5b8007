"""What stands before every endpoint: limits for what comes in, an id for each request, a log line.

FastAPI reads the whole body before it looks at anything else. `Door` asks for the key first, and
reads no more of a form or of JSON than an endpoint can mean.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ClassVar, TypeVar

from fastapi import params
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stenopool.errors import StenoError, UsageError
from stenopool.pipeline.events import event
from stenopool.service import problems
from stenopool.service.uploads import TooLarge, kept

T = TypeVar("T")

SLACK = 1 << 20  # of a form, besides its file
PATIENCE_SECONDS = 60.0  # for the next bytes of a body
MOST_FIELD_BYTES = 64 << 10
MOST_FIELDS = 100
MOST_FILES = 10
MOST_JSON_BYTES = 4 << 20


class TooSlow(UsageError):  # noqa: N818  the names say what happened
    """The rest of the body did not come."""

    code: ClassVar[str] = "too_slow"


class Guard:
    """Around all requests: an id for each, limits for bodies, a line in the log. Never content.

    Args:
        most_bytes: of a body.
        patience: seconds until the next bytes of a body have come.
    """

    def __init__(self, app: ASGIApp, most_bytes: int, patience: float = PATIENCE_SECONDS) -> None:
        self._app = app
        self._most = most_bytes + SLACK
        self._patience = patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(receive, self._most, self._patience)
        reply = _Reply(send, secrets.token_hex(8))
        begun = time.monotonic()
        try:
            body.expect(scope)
            await self._app(scope, body.next, reply.send)
        except (TooLarge, TooSlow) as error:  # of whoever reads it outside of all endpoints
            if reply.status:
                raise
            await problems.answer(error)(scope, receive, reply.send)
        except Exception:
            reply.status = reply.status or 500  # which is said further out
            raise
        finally:
            event(
                "request",
                id=reply.id,
                method=scope["method"],
                path=scope["path"],
                status=reply.status,
                seconds=round(time.monotonic() - begun, 3),
                bytes=body.taken,
            )


class _Body:
    """What comes in of one request."""

    def __init__(self, receive: Receive, most: int, patience: float) -> None:
        self.taken = 0
        self._receive = receive
        self._most = most
        self._patience = patience
        self._whole = False

    def expect(self, scope: Scope) -> None:
        """Refuse what says itself that it is too large."""
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value[:20]) > self._most:
                raise _too_large()

    async def next(self) -> Message:
        """The next message; when the body is whole, whoever waits waits for the client to go."""
        if self._whole:
            return await self._receive()
        try:
            async with asyncio.timeout(self._patience):
                message = await self._receive()
        except TimeoutError as error:
            raise TooSlow(
                f"nothing more of the body came for {self._patience:g} s", do="Send it again"
            ) from error
        self._whole = not message.get("more_body", False)
        self.taken += len(message.get("body", b""))
        if self.taken > self._most:
            raise _too_large()
        return message


class _Reply:
    """What goes out; each has an id, which is in the log as well."""

    def __init__(self, send: Send, id: str) -> None:
        self.id = id
        self.status = 0
        self._send = send

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            more = [(b"x-request-id", self.id.encode())]
            if self.status == problems.TOO_SLOW:  # what still comes is for nobody
                more.append((b"connection", b"close"))
            message["headers"] = [*message["headers"], *more]
        await self._send(message)


class Door(APIRoute):
    """A route that admits whoever asks before it reads the body, and reads it within limits.

    For `APIRouter(route_class=Door)`; the scope is that of `access.caller`.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        scopes = [_scope_of(one.call) for one in self.dependant.dependencies]
        field = self.body_field
        is_form = field is not None and isinstance(field.field_info, params.Form)

        async def guarded(request: Request) -> Response:
            for scope in filter(None, scopes):
                request.state.caller = await request.app.state.access.admit(request, scope)
            if is_form:
                await read_form(request)
            elif field is not None:
                request = Request(request.scope, bounded(request.receive))
            return await handle(request)

        return guarded


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """What the work gives; it is cancelled when the client goes, for whom alone it is done.

    The body has been read before. The status that a client who has gone would get is nginx's 499.
    """
    doing = asyncio.ensure_future(work)
    going = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((doing, going), return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise HTTPException(499, "the client has gone")
        return doing.result()
    finally:
        for one in (doing, going):
            one.cancel()
        await asyncio.gather(doing, going, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _scope_of(dependency: object) -> str:
    return str(getattr(dependency, "scope", ""))


async def read_form(request: Request) -> None:
    """Parse the form; the request keeps it."""
    try:
        with kept():
            await request.form(
                max_files=MOST_FILES, max_fields=MOST_FIELDS, max_part_size=MOST_FIELD_BYTES
            )
    except (StenoError, HTTPException):
        raise
    except ClientDisconnect as error:
        raise HTTPException(400, "the client has gone") from error
    except Exception as error:  # whatever a parser stumbles on, the sender has written it
        raise HTTPException(400, "the body is not a form") from error


def bounded(receive: Receive) -> Receive:
    """What gives a body of JSON, and no more than one can mean."""
    taken = 0

    async def next() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > MOST_JSON_BYTES:
            raise HTTPException(413, "the JSON is too large") from _too_large()
        return message

    return next


def _too_large() -> TooLarge:
    return TooLarge("the body is too large", do="Put large recordings into the bucket")
