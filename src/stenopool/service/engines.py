"""Requests on their way to a worker process.

A worker reads the windows of many requests together, the urgent ones first and those of different
owners in turn (`decoding.batching`). What is here only bounds how many it is given, and how many
may wait for that: a queue that only grows helps nobody.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stenopool.decoding.batching import LONG, SHORT
from stenopool.errors import Busy, EngineFailed, restored
from stenopool.pipeline.desk import AT_ONCE
from stenopool.pipeline.job import Group
from stenopool.pipeline.pool import Child, Pool

SHORT_BYTES = 2_000_000  # about a minute of 16 kHz audio: those go first
COMING_SECONDS = 120.0  # for a process to load its model, pulling it included
LOOK_SECONDS = 0.02
GUESSED_SECONDS = 1.0  # of a request, before one has ended


@dataclass
class Engines:
    """Takes requests to the processes of a pool.

    Attributes:
        waiting: requests that may wait for a place, at most.
        places: requests that are with a process at the same time, of one model.
        failures: of models that could not be loaded: record, and when.
    """

    pool: Pool
    waiting: int = 200
    places: int = AT_ONCE
    failures: dict[Group, tuple[dict[str, Any], float]] = field(default_factory=dict)
    _places: dict[Group, asyncio.Semaphore] = field(default_factory=dict)
    _waiting: int = 0
    _seconds: float = GUESSED_SECONDS  # that a request takes, on average

    def failed(self, group: Group, record: dict[str, Any]) -> None:
        """A process could not load its model."""
        self.failures[group] = record, time.monotonic()

    async def transcribe(
        self, path: Path, group: Group, options: Mapping[str, Any], owner: str
    ) -> AsyncIterator[dict[str, Any]]:
        """The answers to a request: `{"segment": …}` again and again, then `{"transcript": …}`.

        Args:
            path: of the recording, on this machine.
            options: changes from the defaults of `Options`.
            owner: whose request it is; owners are served in turn.

        Raises:
            Busy: too many wait already.
            StenoError: what the worker met.
        """
        priority = SHORT if path.stat().st_size <= SHORT_BYTES else LONG
        request = {
            "ask": secrets.token_hex(8),
            "path": str(path),
            "options": dict(options),
            "priority": priority,
            "owner": owner,
        }
        async with self._place(group):
            begun = time.monotonic()
            child = await self.process(group)
            async for said in _answers(child, request):
                if "error" in said:
                    error = restored(said["error"])
                    error.what = error.what.replace(str(path), "the recording")
                    raise error
                yield said
            self._seconds += 0.1 * (time.monotonic() - begun - self._seconds)

    def retry_after(self) -> int:
        """Seconds after which a place may be free."""
        return max(1, round(self._seconds * self._waiting / self.places))

    @property
    def queued(self) -> int:
        """Requests that wait for a place."""
        return self._waiting

    @asynccontextmanager
    async def _place(self, group: Group) -> AsyncIterator[None]:
        places = self._places.setdefault(group, asyncio.Semaphore(self.places))
        if places.locked() and self._waiting >= self.waiting:
            raise Busy("too many requests wait", do="Try again later")
        self._waiting += 1
        try:
            await places.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            places.release()

    async def process(self, group: Group) -> Child:
        """A process that holds a model, once there is one.

        Raises:
            StenoError: it cannot load the model, or did not come up in time.
        """
        begun = time.monotonic()
        while (child := self.pool.ready(group)) is None:
            record, at = self.failures.get(group, ({}, 0.0))
            if at > begun:
                raise restored(record)
            if time.monotonic() - begun > COMING_SECONDS:
                raise EngineFailed(
                    f"no worker process for `{group.model}` came up in time", do="See the log"
                )
            await asyncio.sleep(LOOK_SECONDS)
        return child


async def _answers(child: Child, request: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    loop = asyncio.get_running_loop()
    said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def answer(what: dict[str, Any]) -> None:  # on the child's thread
        loop.call_soon_threadsafe(said.put_nowait, what)

    child.ask(request, answer)
    try:
        while True:
            what = await said.get()
            yield what
            if "segment" not in what:
                return
    finally:
        child.drop(request["ask"])
