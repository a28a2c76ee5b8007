"""A user's inference functions, in a process of their own: they may crash, hang or leak there.

What they say and what they are told is described in `inference`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import secrets
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stenopool.errors import StenoError, UsageError, restored
from stenopool.pipeline.events import event
from stenopool.service.access import Caller
from stenopool.service.inference import InferenceFailed

MODEL_DIR = "/opt/ml/model"
PROGRAM = "inference.py"
USUAL_SECONDS = 3600.0  # as long as an asynchronous endpoint waits
LONGEST_LINE = 256 << 20
PAUSE_SECONDS = 5.0  # between attempts to load what cannot be loaded

Hear = Callable[[Path, Mapping[str, Any], Caller], Awaitable[dict[str, Any]]]
"""Transcribes a recording with these options for whoever asks; gives the transcript as data."""


def model_dir(environment: Mapping[str, str] = os.environ) -> Path:
    """Where SageMaker puts the model."""
    return Path(environment.get("SM_MODEL_DIR") or MODEL_DIR)


def program(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The user's code, if there is any.

    Raises:
        UsageError: it is named, and is not there.
    """
    name = environment.get("SAGEMAKER_PROGRAM", "")
    folder = environment.get("SAGEMAKER_SUBMIT_DIRECTORY", "")
    usual = model_dir(environment) / "code"
    # The SDK names an archive in S3 here, whose content stands in the usual place.
    place = usual if not folder or "://" in folder else Path(folder)
    path = place / (name or PROGRAM)
    if path.is_file():
        return path
    if name:
        raise UsageError(
            f"`SAGEMAKER_PROGRAM` is `{name}`, and there is no `{path}`",
            do="Put it there, or unset the variable",
        )
    return None


def longest_seconds(environment: Mapping[str, str] = os.environ) -> float:
    """How long an answer may take.

    Raises:
        UsageError: the variable is no number.
    """
    given = environment.get("SAGEMAKER_MODEL_SERVER_TIMEOUT", "")
    if not given:
        return USUAL_SECONDS
    if not given.isdecimal() or int(given) == 0:
        raise UsageError(
            f"`SAGEMAKER_MODEL_SERVER_TIMEOUT` is `{given}`", do="Give whole seconds, or unset it"
        )
    return float(given)


@dataclass
class _Asked:
    """A request that the functions work on."""

    who: Caller
    future: asyncio.Future[dict[str, Any]]
    hearing: set[asyncio.Task[None]] = field(default_factory=set)


class Functions:
    """The process of the user's functions: started when there is a request, and again if it dies.

    Args:
        program: the user's code.
        model_dir: what `model_fn` is given.
        hear: transcribes what they want to have transcribed.
        seconds: that an answer may take; then the process is ended.
    """

    def __init__(
        self, program: Path, model_dir: Path, hear: Hear, seconds: float = USUAL_SECONDS
    ) -> None:
        self._command = (
            sys.executable,
            "-m",
            "stenopool.service.inference",
            str(program),
            str(model_dir),
        )
        self._hear = hear
        self._seconds = seconds
        self._process: asyncio.subprocess.Process | None = None
        self._listener: asyncio.Task[None] | None = None
        self._given: asyncio.Future[tuple[str, ...]] | None = None
        self._starting = asyncio.Lock()
        self._asked: dict[str, _Asked] = {}
        self._failure: tuple[StenoError, float] | None = None

    async def given(self) -> tuple[str, ...]:
        """Names of the functions that there are; the process runs then.

        Raises:
            InferenceFailed: they cannot be loaded.
        """
        async with self._starting:
            if self._given is None or self._process is None or self._process.returncode is not None:
                self._given = await self._start()
        return await asyncio.shield(self._given)

    async def answer(self, who: Caller, accept: str, **what: object) -> tuple[bytes, str]:
        """The answer to a request, and its media type.

        Args:
            what: `data` for `predict_fn`; or `body`, a path, and `content_type` for `input_fn`.

        Raises:
            InferenceFailed: a function failed, or its process died.
            StenoError: that a function has raised.
        """
        await self.given()
        id = secrets.token_hex(8)
        asked = _Asked(who, asyncio.get_running_loop().create_future())
        self._asked[id] = asked
        try:
            await self._write({"ask": id, "accept": accept, **what})
            async with asyncio.timeout(self._seconds):
                said = await asked.future
        except TimeoutError as error:
            await self.stop()
            raise InferenceFailed(
                f"no answer within {self._seconds:g} s",
                do="Raise `SAGEMAKER_MODEL_SERVER_TIMEOUT`, or make the functions faster",
            ) from error
        finally:
            self._asked.pop(id, None)
            for task in asked.hearing:
                task.cancel()
        if "error" in said:
            raise restored(said["error"])
        return base64.b64decode(said["answer"]), str(said["type"])

    async def stop(self) -> None:
        """End the process."""
        with suppress(ProcessLookupError):
            if self._process is not None:
                self._process.kill()
        if self._listener is not None:
            await asyncio.shield(self._listener)

    async def _start(self) -> asyncio.Future[tuple[str, ...]]:
        if self._failure and time.monotonic() - self._failure[1] < PAUSE_SECONDS:
            raise self._failure[0]
        if self._listener is not None:
            await self._listener  # whoever waited for the last process has been told
        given = asyncio.get_running_loop().create_future()
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LONGEST_LINE,
            start_new_session=True,
        )
        event("inference_started", pid=self._process.pid)
        self._listener = asyncio.create_task(self._listen(self._process, given))
        return given

    async def _listen(
        self, process: asyncio.subprocess.Process, given: asyncio.Future[tuple[str, ...]]
    ) -> None:
        stdout = process.stdout
        died: StenoError | None = None
        try:
            while stdout is not None and (line := await stdout.readline()):
                said = json.loads(line)
                if "ready" in said:
                    given.set_result(tuple(said["ready"]))
                elif "failed" in said:
                    died = restored(said["failed"])
                else:
                    self._take(said)
        except ValueError:  # a line that is too long, or is none of ours
            process.kill()
        status = await process.wait()
        event("inference_ended", pid=process.pid, status=status)
        died = died or InferenceFailed(
            f"the process of the inference functions ended with status {status}",
            do="See the server's log",
        )
        if not given.done():
            self._failure = died, time.monotonic()
            given.set_exception(died)
            given.exception()  # nobody may be waiting
        for asked in self._asked.values():
            if not asked.future.done():
                asked.future.set_exception(died)

    def _take(self, said: dict[str, Any]) -> None:
        asked = self._asked.get(said["ask"])
        if asked is None:
            return  # nobody waits any more
        if "hear" in said:
            asked.hearing.add(asyncio.create_task(self._heard(said, asked.who)))
        elif not asked.future.done():
            asked.future.set_result(said)

    async def _heard(self, said: dict[str, Any], who: Caller) -> None:
        answer: dict[str, Any] = {"heard": said["hear"]}
        try:
            transcript = await self._hear(Path(said["path"]), said["options"], who)
            answer["transcript"] = transcript
        except StenoError as error:
            answer["error"] = error.record()
        except asyncio.CancelledError:
            answer["error"] = InferenceFailed("given up", do="Ask again").record()
        except OSError as error:
            what = f"`{said['path']}`: {error.strerror}"
            answer["error"] = InferenceFailed(what, do="Give the path of a file").record()
        await self._write(answer)

    async def _write(self, what: dict[str, Any]) -> None:
        process = self._process
        with suppress(OSError):  # it has died, which is told to all who wait
            if process is not None and process.stdin is not None:
                process.stdin.write(json.dumps(what).encode() + b"\n")
                await process.stdin.drain()
