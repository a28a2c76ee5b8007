"""A proxy for HTTP that makes trouble when it is told to: one request for each connection."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args
from urllib.parse import urlsplit

Fault: TypeAlias = Literal["none", "500", "503", "slow", "cut"]
FAULTS: tuple[Fault, ...] = get_args(Fault)

SLOW_SECONDS = 1.0
LONGEST_HEAD = 2**16  # bytes
_ANSWERS = {"500": ("Internal Server Error", "InternalError"), "503": ("Slow Down", "SlowDown")}


@dataclass(frozen=True)
class Message:
    """A request or an answer, whole.

    Attributes:
        first: its first line.
        headers: the others, without those about the connection.
    """

    first: bytes
    headers: tuple[bytes, ...]
    body: bytes = b""

    @property
    def data(self) -> bytes:
        lines = [self.first, *self.headers, b"Connection: close", b"", self.body]
        return b"\r\n".join(lines)


@dataclass
class Proxy:
    """Passes requests on, or does not.

    Attributes:
        upstream: address of the server.
        fault: what happens to requests from now on.
        seen: how many requests there were with each fault.
    """

    upstream: str
    fault: Fault = "none"
    seen: Counter[str] = field(default_factory=Counter)
    endpoint: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        writer.transport.set_write_buffer_limits(0)  # what is sent is sent, before a cut
        try:
            await self._answered(await _message(reader), writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # either side has hung up
        finally:
            writer.close()

    async def _answered(self, request: Message, writer: asyncio.StreamWriter) -> None:
        fault = self.fault
        self.seen[fault] += 1
        if fault in _ANSWERS:
            await _sent(writer, _refusal(fault, request))
            return
        if fault == "slow":
            await asyncio.sleep(SLOW_SECONDS)
        if fault != "cut":
            await _sent(writer, await self._passed(request.data))
        elif request.body and self.seen[fault] % 2:
            await self._passed(request.data[: -len(request.body) // 2], whole=False)
            writer.transport.abort()
        else:  # it is done, but nobody is told
            await _sent(writer, _half(await self._passed(request.data)))
            writer.transport.abort()

    async def _passed(self, data: bytes, *, whole: bool = True) -> bytes:
        """The server's answer; for half a request there is none."""
        address = urlsplit(self.upstream)
        reader, writer = await asyncio.open_connection(
            address.hostname, address.port, limit=LONGEST_HEAD
        )
        try:
            await _sent(writer, data)
            return _closing(await reader.read()) if whole else b""
        finally:
            writer.close()


@contextmanager
def proxy(upstream: str) -> Iterator[Proxy]:
    """A proxy that runs in a thread of its own, for as long as the context lasts."""
    found = Proxy(upstream)
    loop = asyncio.new_event_loop()
    serving = asyncio.start_server(found.serve, "127.0.0.1", 0, limit=LONGEST_HEAD)
    server = loop.run_until_complete(serving)
    found.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    thread = threading.Thread(target=loop.run_forever, name="proxy", daemon=True)
    thread.start()
    try:
        yield found
    finally:
        asyncio.run_coroutine_threadsafe(_ended(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _ended(server: asyncio.Server) -> None:
    server.close()
    own = asyncio.current_task()
    others = [one for one in asyncio.all_tasks() if one is not own]
    for one in others:
        one.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def _sent(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


async def _message(reader: asyncio.StreamReader) -> Message:
    first, *headers = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[:-2]
    found = _fields(headers)
    if b"chunked" in found.get(b"transfer-encoding", b""):
        body = b"".join([piece async for piece in _chunks(reader)])
    else:
        body = await reader.readexactly(int(found.get(b"content-length", b"0")))
    return Message(first, _kept(headers), body)


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """A body of unknown length, as it stands in the stream."""
    while True:
        size = await reader.readuntil(b"\r\n")
        data = await reader.readexactly(int(size.partition(b";")[0], 16) + 2)
        yield size + data
        if len(data) == len(b"\r\n"):
            return


def _closing(answer: bytes) -> bytes:
    """An answer that says that the connection ends with it."""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *headers = head.split(b"\r\n")
    return Message(first, _kept(headers), body).data


def _half(answer: bytes) -> bytes:
    """An answer up to the middle of its body, or of its first line if it has none."""
    head, border, body = answer.partition(b"\r\n\r\n")
    return head + border + body[: len(body) // 2] if body else head[: len(b"HTTP/1.1")]


def _refusal(status: str, request: Message) -> bytes:
    reason, code = _ANSWERS[status]
    body = f"<Error><Code>{code}</Code><Message>chaos</Message></Error>".encode()
    headers = (b"Content-Type: application/xml", f"Content-Length: {len(body)}".encode())
    empty = request.first.startswith(b"HEAD ")
    return Message(f"HTTP/1.1 {status} {reason}".encode(), headers, b"" if empty else body).data


def _fields(headers: list[bytes]) -> dict[bytes, bytes]:
    pairs = (line.partition(b":") for line in headers)
    return {name.strip().lower(): value.strip().lower() for name, _, value in pairs}


def _kept(headers: list[bytes]) -> tuple[bytes, ...]:
    own = (b"connection:", b"keep-alive:")
    return tuple(line for line in headers if not line.lower().startswith(own))
