"""A stream of speech on its way to the worker process that reads it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
from collections.abc import Callable
from typing import Any

from stenopool.errors import EngineFailed, StenoError, restored
from stenopool.pipeline.pool import Child

AHEAD_SECONDS = 30.0  # of audio that a client may send before it is taken in
CLOSE_SECONDS = 60.0


class Stream:
    """The stream in the worker process, and how much of it is under way."""

    def __init__(self, child: Child, told: Callable[[dict[str, Any]], Any]) -> None:
        self._child = child
        self._told = told
        self._id = secrets.token_hex(8)
        self._said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._sent = 0.0  # seconds of audio
        self._heard = 0.0
        self._moved = asyncio.Event()
        self._committed: asyncio.Future[bool] | None = None
        self._opened = asyncio.Event()
        self._closed = asyncio.Event()
        self._error: StenoError | None = None
        self._reader: asyncio.Task[None] | None = None

    async def open(self, opening: dict[str, Any]) -> None:
        loop = asyncio.get_running_loop()

        def answer(what: dict[str, Any]) -> None:  # on the child's thread
            loop.call_soon_threadsafe(self._said.put_nowait, what)

        self._reader = asyncio.create_task(self._read())
        self._child.ask({"live": self._id, "open": opening}, answer)
        await self._opened.wait()
        if self._error:
            raise self._error

    def say(self, **what: object) -> None:
        self._child.say(self._id, **what)

    async def hear(self, samples: bytes) -> None:
        """Hand over 16-bit samples at 16 kHz; waits while too much is under way."""
        if self._closed.is_set():
            raise self._error or EngineFailed("the stream has ended", do="Connect again")
        self._sent += len(samples) / 32_000
        self.say(audio=base64.b64encode(samples).decode())
        while self._sent - self._heard > AHEAD_SECONDS and not self._closed.is_set():
            self._moved.clear()
            await self._moved.wait()

    async def commit(self) -> bool:
        if self._closed.is_set():
            return False
        self._committed = asyncio.get_running_loop().create_future()
        self.say(commit=True)
        return await self._committed

    async def close(self, *, commit: bool = False) -> None:
        self.say(close="commit" if commit else "now")
        if commit:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), CLOSE_SECONDS)
        elif self._reader:
            self._reader.cancel()

    async def _read(self) -> None:
        while True:
            what = await self._said.get()
            if "heard" in what:
                self._heard = what["heard"]
                self._moved.set()
            elif "committed" in what and self._committed and not self._committed.done():
                self._committed.set_result(bool(what["committed"]))
            elif "opened" in what:
                self._opened.set()
            elif "event" in what:
                await self._told(what)
            if "error" in what:
                self._error = restored(what["error"])
                if self._opened.is_set():
                    await self._told(what)
            if "closed" in what or "error" in what:
                self._end()
                return

    def _end(self) -> None:
        self._closed.set()
        self._opened.set()
        self._moved.set()
        if self._committed and not self._committed.done():
            self._committed.set_result(False)
