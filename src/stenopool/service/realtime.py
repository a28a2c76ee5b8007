"""`WS /v1/realtime`: speech as it is spoken, by the events of OpenAI's transcription sessions.

Both forms of the session are understood: `session.update` (type `transcription`) and the older
`transcription_session.update`. Audio is 16-bit PCM, G.711 or Opus packets, mono, in base64.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from starlette.concurrency import run_in_threadpool

from stenopool.audio.live_input import Format, LiveInput
from stenopool.decoding.options import Options
from stenopool.errors import EngineFailed, StenoError, UsageError, restored
from stenopool.pipeline.job import changes
from stenopool.pipeline.pool import Child
from stenopool.service.access import Caller
from stenopool.service.openai import group_of

AHEAD_SECONDS = 30.0  # of audio that a client may send before it is taken in
LONGEST_MESSAGE = 15 << 20  # bytes, as with OpenAI
CLOSE_SECONDS = 60.0
REFUSED = 4401  # close code: no key

router = APIRouter()


@dataclass
class Session:
    """What the client has asked for."""

    id: str = field(default_factory=lambda: f"sess_{secrets.token_hex(12)}")
    format: Format = field(default_factory=Format)
    model: str = "whisper-1"
    language: str = ""
    prompt: str = ""
    turns: dict[str, Any] = field(default_factory=dict)
    is_old: bool = False  # the older form of the events

    def update(self, given: dict[str, Any], *, old: bool) -> None:
        """Take in what the client says of the session.

        Raises:
            UsageError: something in it cannot be.
        """
        self.is_old = old
        audio = given if old else _object(_object(given, "audio"), "input")
        names = ("input_audio_format", "input_audio_transcription") if old else _NEW_NAMES
        if (form := audio.get(names[0])) is not None:
            self.format = Format.of(form)
        if (transcription := audio.get(names[1])) is not None:
            said = transcription if isinstance(transcription, dict) else {}
            self.model = str(said.get("model") or self.model)
            self.language = str(said.get("language") or "")
            self.prompt = str(said.get("prompt") or "")
        if "turn_detection" in audio:
            self.turns = _turns(audio["turn_detection"])

    def options(self) -> Options:
        return Options.of(language=self.language or "auto", initial_prompt=self.prompt)

    def to_dict(self) -> dict[str, Any]:
        """As it is told to the client."""
        transcription = {"model": self.model, "language": self.language, "prompt": self.prompt}
        turns = None
        if self.turns.get("automatic", True):
            turns = {
                "type": "server_vad",
                "threshold": self.turns.get("threshold", 0.5),
                "silence_duration_ms": round(1000 * self.turns.get("silence_seconds", 0.5)),
            }
        if self.is_old:
            return {
                "id": self.id,
                "object": "realtime.transcription_session",
                "input_audio_format": self.format.old_name,
                "input_audio_transcription": transcription,
                "turn_detection": turns,
            }
        return {
            "id": self.id,
            "object": "realtime.session",
            "type": "transcription",
            "audio": {
                "input": {
                    "format": self.format.to_dict(),
                    "transcription": transcription,
                    "turn_detection": turns,
                }
            },
        }


_NEW_NAMES = ("format", "transcription")


@router.websocket("/v1/realtime")
async def realtime(socket: WebSocket) -> None:
    """One session."""
    state = socket.app.state
    try:
        who = await state.access.admit(socket, "realtime")
    except StenoError as error:
        await socket.accept()
        await socket.send_text(json.dumps(_error(error)))
        await socket.close(REFUSED, error.code)
        return
    protocols = socket.headers.get("sec-websocket-protocol", "")
    await socket.accept("realtime" if "realtime" in protocols else None)
    await _Conversation(socket, who).run()


class _Conversation:
    """The events of one connection, in both directions."""

    def __init__(self, socket: WebSocket, who: Caller) -> None:
        self._socket = socket
        self._who = who
        self._session = Session()
        self._stream: _Stream | None = None
        self._input: LiveInput | None = None
        self._sending = asyncio.Lock()
        self._before: str | None = None  # the last item
        self._texts: dict[int, str] = {}

    async def run(self) -> None:
        """Until the client goes away."""
        old = self._socket.query_params.get("intent") == "transcription"
        self._session.is_old = old
        name = "transcription_session.created" if old else "session.created"
        await self._send({"type": name, "session": self._session.to_dict()})
        try:
            while True:
                text = await self._socket.receive_text()
                try:
                    await self._take(text)
                except StenoError as error:
                    await self._send(_error(error))
        except (WebSocketDisconnect, RuntimeError, KeyError):
            pass  # gone; or a message that is not text, after which nothing makes sense
        finally:
            if self._stream:
                await self._stream.close()

    async def _take(self, text: str) -> None:
        said = _parsed(text)
        match said.get("type"):
            case "session.update" | "transcription_session.update" as name:
                await self._update(said, old=name.startswith("transcription"))
            case "input_audio_buffer.append":
                await self._append(said)
            case "input_audio_buffer.commit":
                if not self._stream or not await self._stream.commit():
                    raise UsageError("there is no audio to commit", do="Append audio first")
            case "input_audio_buffer.clear":
                if self._stream:
                    self._stream.say(clear=True)
                await self._send({"type": "input_audio_buffer.cleared"})
            case name:
                raise UsageError(f"unknown event: `{name}`", do="See the documentation")

    async def _update(self, said: dict[str, Any], *, old: bool) -> None:
        self._session.update(_object(said, "session"), old=old)
        group_of(self._socket, self._session.model)  # refuses unknown ones
        self._session.options()
        if self._stream:  # what was said so far is finished with the options that it began with
            stream, self._stream, self._input = self._stream, None, None
            await stream.close(commit=True)
        name = "transcription_session.updated" if old else "session.updated"
        await self._send({"type": name, "session": self._session.to_dict()})

    async def _append(self, said: dict[str, Any]) -> None:
        try:
            data = base64.b64decode(said.get("audio", ""), validate=True)
        except (binascii.Error, TypeError, ValueError) as error:
            raise UsageError("`audio` is not base64", do="Encode the bytes") from error
        if self._input is None:
            self._input = LiveInput(self._session.format)
        if self._stream is None:
            self._stream = await self._opened()
        samples = await run_in_threadpool(self._input.take, data)
        await self._stream.hear(samples)

    async def _opened(self) -> _Stream:
        session = self._session
        group = group_of(self._socket, session.model)
        child = await self._socket.app.state.engines.process(group)
        stream = _Stream(child, self._event)
        await stream.open(
            {
                "options": changes(session.options()),
                "turns": session.turns,
                "owner": self._who.id,
            }
        )
        return stream

    async def _event(self, what: dict[str, Any]) -> None:
        """Something that the worker tells."""
        if "error" in what:
            await self._send(_error(restored(what["error"])))
            return
        event = what["event"]
        number = int(event["utterance"])
        item = f"item_{self._session.id[5:13]}_{number}"
        for made in self._made(event, item, number):
            await self._send(made)
        if event["kind"] == "completed":
            await self._socket.app.state.access.used(self._who, float(event["seconds"]))

    def _made(self, event: dict[str, Any], item: str, number: int) -> list[dict[str, Any]]:
        buffer, heard = "input_audio_buffer", "conversation.item.input_audio_transcription"
        at = round(1000 * event["seconds"])
        match event["kind"]:
            case "started":
                return [{"type": f"{buffer}.speech_started", "audio_start_ms": at, "item_id": item}]
            case "stopped":
                before, self._before = self._before, item
                return [
                    {"type": f"{buffer}.speech_stopped", "audio_end_ms": at, "item_id": item},
                    {"type": f"{buffer}.committed", "item_id": item, "previous_item_id": before},
                ]
            case "text":
                return [_item(f"{heard}.delta", item, delta=event["text"])]
            case "completed":
                usage = {"type": "duration", "seconds": event["seconds"]}
                text = event["text"]
                return [_item(f"{heard}.completed", item, transcript=text, usage=usage)]
            case _:
                error = {"type": "server_error", "code": "failed", "message": event["text"]}
                return [_item(f"{heard}.failed", item, error=error)]

    async def _send(self, event: dict[str, Any]) -> None:
        event = {"event_id": f"event_{secrets.token_hex(8)}", **event}
        async with self._sending:
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # it has gone
                await self._socket.send_text(json.dumps(event, ensure_ascii=False))


class _Stream:
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


def _turns(given: object) -> dict[str, Any]:
    if given is None:
        return {"automatic": False}
    if not isinstance(given, dict) or given.get("type", "server_vad") != "server_vad":
        raise UsageError("only `server_vad` detects turns here", do="Set it, or `null` for none")
    threshold = given.get("threshold", 0.5)
    silence = given.get("silence_duration_ms", 500)
    for name, value, low, high in (
        ("threshold", threshold, 0.01, 0.99),
        ("silence_duration_ms", silence, 50, 10_000),
    ):
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not low <= value <= high
        ):
            raise UsageError(f"`{name}` is not a number in range", do=f"Give {low} to {high}")
    return {"threshold": float(threshold), "silence_seconds": silence / 1000}


def _object(data: dict[str, Any], name: str) -> dict[str, Any]:
    found = data.get(name, {})
    if not isinstance(found, dict):
        raise UsageError(f"`{name}` is not an object", do="See the documentation")
    return found


def _parsed(text: str) -> dict[str, Any]:
    if len(text) > LONGEST_MESSAGE:
        raise UsageError("the event is too large", do="Append less audio at once")
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError("not JSON", do="Send one JSON object a message") from error
    if not isinstance(said, dict):
        raise UsageError("not a JSON object", do="Send one JSON object a message")
    return said


def _item(kind: str, item: str, **more: object) -> dict[str, Any]:
    return {"type": kind, "item_id": item, "content_index": 0, **more}


def _error(error: StenoError) -> dict[str, Any]:
    kind: Literal["invalid_request_error", "server_error"]
    kind = "invalid_request_error" if error.exit_status in {2, 3} else "server_error"
    return {
        "type": "error",
        "error": {"type": kind, "code": error.code, "message": error.what, "hint": error.do},
    }
