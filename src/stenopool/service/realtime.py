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
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from starlette.concurrency import run_in_threadpool

from stenopool.audio.live_input import Format, LiveInput
from stenopool.decoding.live import SILENCE_SECONDS
from stenopool.decoding.options import Options
from stenopool.errors import StenoError, UnknownName, UsageError, restored
from stenopool.pipeline.job import changes
from stenopool.service.access import Caller
from stenopool.service.openai import group_of
from stenopool.service.streams import Stream

LONGEST_MESSAGE = 15 << 20  # bytes, as with OpenAI
BYTES_PER_SECOND = 32_000  # of 16-bit samples at 16 kHz
KEPT_SECONDS = 60.0  # that a session waits for its client, when the connection has broken
MOST_BROKEN = 100  # sessions that wait
MOST_EVENTS = 1000  # that a client may have missed
REFUSED, TAKEN_OVER = 4401, 4409  # close codes
NOT_TEXT = 1003
GONE_FOR_GOOD = frozenset({1000, 1001, NOT_TEXT})  # the client has closed, the page is left

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
            silence = self.turns.get("silence_seconds", SILENCE_SECONDS)
            turns = {
                "type": "server_vad",
                "threshold": self.turns.get("threshold", 0.5),
                "silence_duration_ms": round(1000 * silence),
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
    """One session, from its beginning or from where its connection broke."""
    sessions: Sessions = socket.app.state.sessions
    try:
        who = await socket.app.state.access.admit(socket, "realtime")
        asked = socket.query_params.get("session")
        conversation = sessions.of(asked, who) if asked else Conversation(who, sessions)
        conversation.after(socket.query_params.get("after"))
    except StenoError as error:
        await socket.accept()
        await socket.send_text(json.dumps(_error(error)))
        await socket.close(REFUSED, error.code)
        return
    protocols = socket.headers.get("sec-websocket-protocol", "")
    await socket.accept("realtime" if "realtime" in protocols else None)
    await conversation.run(socket)


class Sessions:
    """Conversations whose connection is there, or has broken a short while ago."""

    def __init__(self) -> None:
        self._open: dict[str, Conversation] = {}
        self._ends: dict[str, asyncio.Task[None]] = {}  # of those without a connection
        self._closing: set[asyncio.Task[None]] = set()

    def of(self, id: str, who: Caller) -> Conversation:
        """A conversation that its owner comes back to.

        Raises:
            UnknownName: there is none of this name and owner, or no more.
        """
        found = self._open.get(id)
        if found is None or found.who.id != who.id:
            raise UnknownName(
                f"no session `{id[:40]}`",
                do="Open a new one: sessions wait for a minute after their connection has broken",
            )
        return found

    def keep(self, conversation: Conversation) -> None:
        """It has a connection."""
        if ending := self._ends.pop(conversation.id, None):
            ending.cancel()
        self._open[conversation.id] = conversation

    def broken(self, conversation: Conversation) -> None:
        """Its connection has broken: it ends, unless its client comes back."""
        while len(self._ends) >= MOST_BROKEN:
            self._end_now(next(iter(self._ends)))
        self._ends[conversation.id] = asyncio.create_task(self._later(conversation))

    async def end(self, conversation: Conversation) -> None:
        """Nobody will come back."""
        self._open.pop(conversation.id, None)
        await conversation.close()

    async def _later(self, conversation: Conversation) -> None:
        await asyncio.sleep(KEPT_SECONDS)
        self._ends.pop(conversation.id, None)
        await self.end(conversation)

    def _end_now(self, id: str) -> None:
        self._ends.pop(id).cancel()
        conversation = self._open.pop(id)
        task = asyncio.create_task(conversation.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


class Conversation:
    """The events of one session, in both directions, over one connection after the other.

    Attributes:
        who: whose it is.
    """

    def __init__(self, who: Caller, sessions: Sessions) -> None:
        self.who = who
        self._sessions = sessions
        self._session = Session()
        self._socket: WebSocket | None = None  # while it is connected
        self._connection: WebSocket  # the last one
        self._over = asyncio.Event()  # another connection takes over from the last one
        self._turn = asyncio.Lock()  # of the connection that is heard
        self._stream: Stream | None = None
        self._input: LiveInput | None = None
        self._sending = asyncio.Lock()
        self._sent: deque[dict[str, Any]] = deque(maxlen=MOST_EVENTS)
        self._taken = 0.0  # seconds of audio
        self._before: str | None = None  # the last item

    @property
    def id(self) -> str:
        return self._session.id

    def after(self, event: str | None) -> list[dict[str, Any]]:
        """What was sent after an event; everything that is known, where none is named.

        Raises:
            UsageError: that event is too long ago, or was never sent.
        """
        sent = list(self._sent)
        if event is None:
            return sent
        for at, one in enumerate(sent):
            if one["event_id"] == event:
                return sent[at + 1 :]
        raise UsageError(f"no event `{event[:40]}`", do="Open a new session")

    async def run(self, socket: WebSocket) -> None:
        """Until the connection ends, or another one takes over."""
        self._over.set()  # if there is one, it is broken, only we have not seen it yet
        over = self._over = asyncio.Event()
        self._sessions.keep(self)
        async with self._turn:  # an event that came before is taken in, in whole
            if not over.is_set():
                self._connection = socket
                await self._greet(socket)
                code = await self._hear(socket, over)
            if not over.is_set():
                self._socket = None
                if code in GONE_FOR_GOOD:
                    await self._sessions.end(self)
                else:
                    self._sessions.broken(self)
                return
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # it has gone
            await socket.close(TAKEN_OVER, "the session goes on over another connection")

    async def close(self) -> None:
        """Nothing more will be read."""
        if self._stream:
            await self._stream.close()

    async def _greet(self, socket: WebSocket) -> None:
        if not self._sent:
            self._socket = socket
            old = socket.query_params.get("intent") == "transcription"
            self._session.is_old = old
            name = "transcription_session.created" if old else "session.created"
            await self._send({"type": name, "session": self._session.to_dict()})
            return
        async with self._sending:  # so that nothing new comes before what was missed
            self._socket = socket
            heard = round(1000 * self._taken)
            resumed = {"type": "session.resumed", "session": self._session.to_dict()}
            for event in [{**resumed, "audio_end_ms": heard}, *self._missed(socket)]:
                await self._write(event)

    def _missed(self, socket: WebSocket) -> list[dict[str, Any]]:
        with contextlib.suppress(UsageError):  # so much came meanwhile that it is forgotten
            return self.after(socket.query_params.get("after"))
        return [*self._sent]

    async def _hear(self, socket: WebSocket, over: asyncio.Event) -> int:
        """Take in events until the connection ends or is over; gives its close code."""
        leaving = asyncio.create_task(over.wait())
        try:
            while (text := await _text(socket, leaving)) is not None:
                try:
                    await self._take(text)
                except StenoError as error:
                    await self._send(_error(error))
        except WebSocketDisconnect as gone:
            return gone.code
        except (RuntimeError, KeyError):
            return NOT_TEXT  # a message that is not text, after which nothing makes sense
        finally:
            leaving.cancel()
        return TAKEN_OVER

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
        group_of(self._connection, self._session.model)  # refuses unknown ones
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
        self._taken += len(samples) / BYTES_PER_SECOND
        await self._stream.hear(samples)

    async def _opened(self) -> Stream:
        session = self._session
        group = group_of(self._connection, session.model)
        child = await self._connection.app.state.engines.process(group)
        stream = Stream(child, self._event)
        await stream.open(
            {
                "options": changes(session.options()),
                "turns": session.turns,
                "owner": self.who.id,
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
            await self._connection.app.state.access.used(self.who, float(event["seconds"]))

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
            self._sent.append(event)
            await self._write(event)

    async def _write(self, event: dict[str, Any]) -> None:
        if self._socket is not None:
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # it has gone
                await self._socket.send_text(json.dumps(event, ensure_ascii=False))


async def _text(socket: WebSocket, leaving: asyncio.Task[Any]) -> str | None:
    """What comes next; None if the connection is left before anything does."""
    receiving = asyncio.create_task(socket.receive_text())
    try:
        await asyncio.wait((receiving, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not leaving.done():
            return receiving.result()
    finally:
        receiving.cancel()
    # Taken, so that a client that went just then is no error that nobody looked at.
    await asyncio.gather(receiving, return_exceptions=True)
    return None


def _turns(given: object) -> dict[str, Any]:
    if given is None:
        return {"automatic": False}
    if not isinstance(given, dict) or given.get("type", "server_vad") != "server_vad":
        raise UsageError("only `server_vad` detects turns here", do="Set it, or `null` for none")
    threshold = given.get("threshold", 0.5)
    silence = given.get("silence_duration_ms")
    for name, value, low, high in (
        ("threshold", threshold, 0.01, 0.99),
        ("silence_duration_ms", 500 if silence is None else silence, 50, 10_000),
    ):
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not low <= value <= high
        ):
            raise UsageError(f"`{name}` is not a number in range", do=f"Give {low} to {high}")
    chosen = {} if silence is None else {"silence_seconds": silence / 1000}
    return {"threshold": float(threshold), **chosen}


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
