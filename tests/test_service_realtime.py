"""`WS /v1/realtime` as clients see it, with a real model and real speech."""

from __future__ import annotations

import asyncio
import base64
import json
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from openai import OpenAI
from starlette.websockets import WebSocketDisconnect
from websockets import ConnectionClosedError
from websockets.sync.client import ClientConnection, connect

from commands import OPENING, resampled, samples, words
from serving import Server, served
from stenopool.pipeline.database import open_database
from stenopool.service.access import Access, Caller
from stenopool.service.realtime import REFUSED, TAKEN_OVER, Conversation, Sessions

RATE = 24_000  # what OpenAI's clients send
SECONDS = 12
STEP_SECONDS = 0.25
PATIENCE = 60.0
TEXT = "conversation.item.input_audio_transcription"


@pytest.fixture(scope="module")
def speech(speech_wav: Path) -> NDArray[np.int16]:
    """The first sentences of one reader, at the clients' rate, and a pause: (samples,)."""
    wave = resampled(samples(speech_wav, SECONDS), 48_000, RATE)
    return np.concatenate([wave * 32_767, np.zeros(RATE)]).astype("<i2")


@pytest.fixture(scope="module")
def server(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`steno serve --model tiny.en`."""
    folder = tmp_path_factory.mktemp("served")
    environment = {"STENO_MODELS_DIR": str(models_dir)}
    with served(folder, "--model", "tiny.en", environment=environment) as server:
        yield server


class Client:
    """One connection, and what came over it."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.events: list[dict[str, Any]] = []

    def say(self, kind: str, **more: object) -> None:
        self.socket.send(json.dumps({"type": kind, **more}))

    def hear(self) -> dict[str, Any]:
        event = json.loads(self.socket.recv(PATIENCE))
        self.events.append(event)
        return dict(event)

    def until(self, kind: str) -> dict[str, Any]:
        """The next event of a kind."""
        while (event := self.hear())["type"] != kind:
            assert event["type"] != "error", event
        return event

    def send(self, wave: NDArray[np.int16], pause: float = 0.0) -> None:
        """Audio, in pieces, with a pause of so many seconds after each."""
        step = round(STEP_SECONDS * RATE)
        for start in range(0, len(wave), step):
            self.append(wave[start : start + step].tobytes())
            time.sleep(pause)

    def append(self, data: bytes) -> None:
        self.say("input_audio_buffer.append", audio=base64.b64encode(data).decode())

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The events of a kind so far."""
        return [one for one in self.events if one["type"] == kind]


@contextmanager
def connected(server: Server, query: str = "", **more: Any) -> Iterator[Client]:
    address = f"ws://127.0.0.1:{server.port}/v1/realtime{query}"
    with connect(address, open_timeout=PATIENCE, max_size=None, **more) as socket:
        yield Client(socket)


def session(**audio: object) -> Mapping[str, Any]:
    """A session in English, with more settings of its audio."""
    usual = {
        "format": {"type": "audio/pcm", "rate": RATE},
        "transcription": {"model": "whisper-1", "language": "en"},
    }
    return {"type": "transcription", "audio": {"input": {**usual, **audio}}}


def read_all(client: Client) -> str:
    """Commit what is open, and give the text of all items."""
    client.say("input_audio_buffer.commit")
    client.until("input_audio_buffer.committed")
    return " ".join(one["transcript"] for one in completed(client))


def completed(client: Client) -> list[dict[str, Any]]:
    """The texts of all committed items, in the order of what was said.

    They may come in any order, as with OpenAI.
    """
    items = [one["item_id"] for one in client.of("input_audio_buffer.committed")]
    while not (found := texts(client)).keys() >= set(items):
        client.hear()
    return [found[item] for item in items]


def texts(client: Client) -> dict[str, dict[str, Any]]:
    return {one["item_id"]: one for one in client.of(f"{TEXT}.completed")}


def test_speech_becomes_text_that_is_not_taken_back(
    server: Server, speech: NDArray[np.int16]
) -> None:
    with connected(server) as client:
        created = client.until("session.created")["session"]
        assert created["type"] == "transcription"
        client.say("session.update", session=session())
        updated = client.until("session.updated")["session"]
        assert updated["audio"]["input"]["turn_detection"]["type"] == "server_vad"
        client.send(speech, pause=STEP_SECONDS)
        client.until("input_audio_buffer.committed")
        first = completed(client)[0]
    assert client.of("input_audio_buffer.speech_started")[0]["audio_start_ms"] < 1000
    assert first["transcript"].startswith(OPENING[:20])
    assert 1 < first["usage"]["seconds"] <= SECONDS + 1
    mine = [one for one in client.of(f"{TEXT}.delta") if one["item_id"] == first["item_id"]]
    deltas = [one["delta"] for one in mine]
    told = "".join(deltas).split()
    assert len(deltas) > 1  # it was told while it was spoken
    assert told[:4] == first["transcript"].split()[:4]


def test_older_form_of_the_events_and_telephone_audio(
    server: Server, speech: NDArray[np.int16]
) -> None:
    telephone = np.interp(np.arange(0, len(speech), 3), np.arange(len(speech)), speech)
    scaled = np.abs(telephone) / 32_768  # G.711's mu-law, by its formula
    curve = np.sign(telephone) * np.log1p(255 * scaled) / np.log(256)
    coded = (~(np.where(curve < 0, 0x80, 0) | (127 * np.abs(curve)).astype(int))) & 0xFF
    given = {
        "input_audio_format": "g711_ulaw",
        "input_audio_transcription": {"model": "whisper-1", "language": "en"},
    }
    with connected(server, "?intent=transcription") as client:
        client.until("transcription_session.created")
        client.say("transcription_session.update", session=given)
        told = client.until("transcription_session.updated")["session"]
        assert told["input_audio_format"] == "g711_ulaw"
        client.append(coded.astype(np.uint8).tobytes())
        client.until("input_audio_buffer.committed")
        assert "best of times" in completed(client)[0]["transcript"]


def test_utterances_end_when_they_are_committed(server: Server, speech: NDArray[np.int16]) -> None:
    with connected(server) as client:
        client.say("session.update", session=session(turn_detection=None))
        client.until("session.updated")
        client.send(speech)
        text = read_all(client)
    assert text.startswith(OPENING)
    assert len(client.of(f"{TEXT}.completed")) == 1
    assert not client.of("input_audio_buffer.speech_started")


def test_what_is_cleared_is_not_read(server: Server, speech: NDArray[np.int16]) -> None:
    with connected(server) as client:
        client.say("session.update", session=session(turn_detection=None))
        client.until("session.updated")
        client.send(speech)
        client.say("input_audio_buffer.clear")
        client.until("input_audio_buffer.cleared")
        client.send(speech[: RATE * 4])
        text = read_all(client)
    assert "times" in text
    assert "wisdom" not in text  # which comes after these seconds


@pytest.mark.parametrize(
    ("message", "about"),
    [
        ("no JSON", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"type": "of another kind"}', "unknown event"),
        ('{"type": "input_audio_buffer.append", "audio": "%%"}', "base64"),
        ('{"type": "input_audio_buffer.append", "audio": 7}', "base64"),
        ('{"type": "input_audio_buffer.commit"}', "no audio"),
        ('{"type": "session.update", "session": 1}', "not an object"),
        ('{"type": "session.update", "session": {"audio": {"input": {"format": 1}}}}', "format"),
    ],
)
def test_what_is_wrong_is_said_and_the_session_goes_on(
    server: Server, message: str, about: str
) -> None:
    with connected(server) as client:
        client.until("session.created")
        client.socket.send(message)
        event = client.hear()
        assert event["type"] == "error"
        assert about in event["error"]["message"]
        client.say("session.update", session=session())
        client.until("session.updated")


def test_model_that_is_not_served(server: Server) -> None:
    with connected(server) as client:
        client.until("session.created")
        wanted = session(transcription={"model": "of nobody"})
        client.say("session.update", session=wanted)
        assert "of nobody" in client.hear()["error"]["message"]


def test_session_goes_on_after_its_connection_broke(
    server: Server, speech: NDArray[np.int16]
) -> None:
    half = RATE * 5
    with connected(server) as client:
        client.say("session.update", session=session(turn_detection=None))
        client.until("session.updated")
        client.send(speech)
        whole = read_all(client)
    with connected(server) as client:
        created = client.until("session.created")
        client.say("session.update", session=session(turn_detection=None))
        client.until("session.updated")
        client.send(speech[:half])
        client.socket.socket.close()  # as when a cable is pulled
    query = f"?session={created['session']['id']}&after={created['event_id']}"
    with connected(server, query) as client:
        resumed = client.until("session.resumed")
        assert resumed["session"]["id"] == created["session"]["id"]
        assert client.hear()["type"] == "session.updated"  # what was sent after that event
        taken = round(resumed["audio_end_ms"] * RATE / 1000)
        assert 0 <= taken <= half
        client.send(speech[taken:])
        # Where readings happen to stop, a mark or a word may differ; half a sentence must not.
        resumed_words, whole_words = words(read_all(client)), words(whole)
    assert SequenceMatcher(None, resumed_words, whole_words, autojunk=False).ratio() > 0.9


class Line:
    """A connection as the server sees it, whose client has sent these seconds of audio before it
    went away, if it does."""

    query_params: Mapping[str, str] = {}

    def __init__(self, *pieces: float, goes: bool) -> None:
        self.told: list[dict[str, Any]] = []
        self._said = [base64.b64encode(bytes(2 * round(one * RATE))).decode() for one in pieces]
        self._goes = goes

    async def receive_text(self) -> str:
        if self._said:
            audio = self._said.pop(0)
            return json.dumps({"type": "input_audio_buffer.append", "audio": audio})
        if self._goes:
            raise WebSocketDisconnect
        await asyncio.Event().wait()
        raise AssertionError

    async def send_text(self, text: str) -> None:
        self.told.append(json.loads(text))

    async def close(self, *_: object) -> None:
        return


def test_audio_that_is_on_its_way_when_another_connection_takes_over_is_heard_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard = 0.0

    class Hearing:
        async def hear(self, samples: bytes) -> None:
            nonlocal heard
            heard += len(samples) / 32_000
            await asyncio.sleep(0.01)

    async def opened(_: object) -> Hearing:
        await asyncio.sleep(0.01)
        return Hearing()

    monkeypatch.setattr(Conversation, "_opened", opened)

    async def both() -> None:
        conversation = Conversation(Caller(""), Sessions())
        old, new = Line(*[1.0] * 20, goes=True), Line(goes=False)
        first = asyncio.create_task(conversation.run(cast(Any, old)))
        while heard < 5:
            await asyncio.sleep(0)
        second = asyncio.create_task(conversation.run(cast(Any, new)))
        while not new.told:
            await asyncio.sleep(0)
        (resumed,) = (one for one in new.told if one["type"] == "session.resumed")
        at_resuming = heard
        await first
        assert heard == at_resuming < 20
        assert resumed["audio_end_ms"] == pytest.approx(1000 * heard, abs=1)
        second.cancel()

    asyncio.run(both())


def test_connection_that_is_only_thought_to_be_there_gives_way(server: Server) -> None:
    with connected(server) as old:
        id = old.until("session.created")["session"]["id"]
        with connected(server, f"?session={id}") as new:
            new.until("session.resumed")
            with pytest.raises(ConnectionClosedError) as closed:
                old.hear()
            assert closed.value.rcvd
            assert closed.value.rcvd.code == TAKEN_OVER
            new.say("session.update", session=session())
            new.until("session.updated")


def test_session_that_was_closed_is_gone(server: Server) -> None:
    with connected(server) as client:
        id = client.until("session.created")["session"]["id"]
    with connected(server, f"?session={id}") as client:
        assert id in client.hear()["error"]["message"]
        with pytest.raises(ConnectionClosedError):
            client.hear()


def test_nobody_goes_on_with_the_session_of_another(models_dir: Path, tmp_path: Path) -> None:
    environment = {"STENO_MODELS_DIR": str(models_dir)}
    with served(tmp_path, "--model", "tiny.en", environment=environment) as server:
        access = Access(open_database(f"sqlite:///{tmp_path / 'jobs.sqlite'}"))
        ours, theirs = (access.create(name)[1] for name in ("us", "them"))
        with connected(server, additional_headers={"Authorization": f"Bearer {ours}"}) as mine:
            id = mine.until("session.created")["session"]["id"]
            query = f"?session={id}"
            stranger = {"Authorization": f"Bearer {theirs}"}
            with connected(server, query, additional_headers=stranger) as client:
                assert "no session" in client.hear()["error"]["message"]
            with connected(server, query) as client:
                assert client.hear()["error"]["code"] == "not_authenticated"
                with pytest.raises(ConnectionClosedError) as closed:
                    client.hear()
            assert closed.value.rcvd
            assert closed.value.rcvd.code == REFUSED


def test_official_python_client(server: Server, speech: NDArray[np.int16]) -> None:
    client = OpenAI(api_key="any", base_url=f"{server.url}/v1")
    with warnings.catch_warnings():  # of how it uses its own dependency
        warnings.simplefilter("ignore", DeprecationWarning)
        told = spoken_with(client, speech)
    assert told.startswith(OPENING[:20])


def spoken_with(client: OpenAI, speech: NDArray[np.int16]) -> str:
    """The text of the first item."""
    with client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        connection.session.update(session=session())  # type: ignore[arg-type]
        step = round(STEP_SECONDS * RATE)
        for start in range(0, len(speech), step):
            audio = base64.b64encode(speech[start : start + step].tobytes()).decode()
            connection.input_audio_buffer.append(audio=audio)
        first, texts = "", dict[str, str]()
        for event in connection:
            assert event.type != "error", event
            if event.type == "input_audio_buffer.committed" and not event.previous_item_id:
                first = event.item_id
            if event.type == "conversation.item.input_audio_transcription.completed":
                texts[event.item_id] = event.transcript
            if first in texts:
                return texts[first]
    return ""
