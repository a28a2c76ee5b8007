"""HTTP/1.1 on the wire, within limits that uvicorn's faster parser does not have."""

from __future__ import annotations

import asyncio
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_HEADER_BYTES = 64 << 10
HEADER_SECONDS = 30.0

_FLOODED = b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
_LATE = b"HTTP/1.1 408 Request Timeout\r\n"
_END = b"content-length: 0\r\nconnection: close\r\n\r\n"


class Server(uvicorn.Server):
    """Tells the application when it is about to end: it waits for streams that have no end."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._application = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._application.state.closing = True
        super().handle_exit(sig, frame)


class BoundedHttp(HttpToolsProtocol):
    """Refuses headers that do not end, and clients that do not say what they want.

    What is no body may not go on for ever: headers, trailers, extensions of chunks.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401  those of uvicorn
        super().__init__(*arguments, **named)
        self._extra = 0  # bytes since there last was a body, or headers ended
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._go_on()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._extra += len(data)
        super().data_received(data)
        if self._extra > MOST_HEADER_BYTES:
            self._refuse(_FLOODED)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._wait()

    def on_headers_complete(self) -> None:
        self._extra = 0
        self._go_on()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._extra = 0
        super().on_body(body)

    def _wait(self) -> None:
        if self._patience is None:
            self._patience = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def _give_up(self) -> None:
        if self._extra:
            self._refuse(_LATE)
        else:  # not even a request
            self.transport.close()

    def _go_on(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _refuse(self, status: bytes) -> None:
        self._go_on()
        if not self.transport.is_closing():
            self.transport.write(status + _END)
            self.transport.close()
