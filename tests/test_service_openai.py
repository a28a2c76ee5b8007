"""OpenAI's endpoints, as the official Python client sees them; real model unless said otherwise."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.audio import (
    Transcription,
    TranscriptionTextDeltaEvent,
    TranscriptionTextDoneEvent,
    TranscriptionVerbose,
    Translation,
    TranslationVerbose,
)

from commands import OPENING, samples
from serving import Server, served
from sounds import tone, wav_bytes, write_media, write_wav
from stenopool.models.catalogue import CATALOGUE
from stenopool.service.answers import Format

SECONDS = 12
FORMATS = get_args(Format)


@pytest.fixture(scope="module")
def speech(speech_wav: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first sentences of one reader."""
    path = tmp_path_factory.mktemp("speech") / "two cities.wav"
    return write_wav(path, samples(speech_wav, SECONDS), rate=48_000)


@pytest.fixture(scope="module")
def server(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`steno serve --model tiny.en`."""
    folder = tmp_path_factory.mktemp("served")
    environment = {"STENO_MODELS_DIR": str(models_dir)}
    with served(folder, "--model", "tiny.en", environment=environment) as server:
        yield server


@pytest.fixture(scope="module")
def instant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose text tells the options that its worker was given."""
    with served(tmp_path_factory.mktemp("instant"), instant=True) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[OpenAI]:
    with OpenAI(api_key="any", base_url=f"{server.url}/v1", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def told(instant: Server) -> Iterator[OpenAI]:
    """The client of the instant server."""
    with OpenAI(api_key="any", base_url=f"{instant.url}/v1", max_retries=0) as client:
        yield client


# --- formats -----------------------------------------------------------------------------------


def test_json(client: OpenAI, speech: Path) -> None:
    answer = client.audio.transcriptions.with_raw_response.create(file=speech, model="whisper-1")
    assert answer.headers["content-type"] == "application/json"
    found = Transcription.model_validate_json(answer.content, strict=True)
    assert found.text.startswith(OPENING)
    assert found.usage
    assert found.usage.to_dict() == {"type": "duration", "seconds": SECONDS}
    assert found.logprobs is None
    assert client.audio.transcriptions.create(file=speech, model="whisper-1") == found


def test_text(client: OpenAI, speech: Path) -> None:
    text = client.audio.transcriptions.create(
        file=speech, model="whisper-1", response_format="text"
    )
    assert isinstance(text, str)
    assert text.startswith(OPENING)
    assert text.endswith("\n")


def test_srt(client: OpenAI, speech: Path) -> None:
    text = client.audio.transcriptions.create(file=speech, model="whisper-1", response_format="srt")
    assert re.match(r"1\n00:00:0\d,\d{3} --> 00:00:0\d,\d{3}\nIt was the best", text)
    assert text.count(" --> ") > 2


def test_vtt(client: OpenAI, speech: Path) -> None:
    text = client.audio.transcriptions.create(file=speech, model="whisper-1", response_format="vtt")
    assert re.match(r"WEBVTT\n\n00:00:0\d\.\d{3} --> 00:00:0\d\.\d{3}\nIt was the best", text)


@pytest.mark.parametrize(
    ("granularities", "has_segments", "has_words"),
    [
        ([], True, False),
        (["segment"], True, False),
        (["word"], False, True),
        (["word", "segment"], True, True),
    ],
    ids=["none", "segment", "word", "both"],
)
def test_verbose_json(
    client: OpenAI, speech: Path, granularities: Any, has_segments: bool, has_words: bool
) -> None:
    answer = client.audio.transcriptions.with_raw_response.create(
        file=speech,
        model="tiny.en",
        response_format="verbose_json",
        timestamp_granularities=granularities or openai.omit,
    )
    found = TranscriptionVerbose.model_validate_json(answer.content)
    assert found.text.startswith(OPENING)
    assert (found.language, round(found.duration)) == ("english", SECONDS)
    assert (bool(found.segments), bool(found.words)) == (has_segments, has_words)
    if found.segments:
        assert [one.id for one in found.segments] == [*range(len(found.segments))]
        assert " ".join(one.text for one in found.segments) == found.text
        assert all(0 <= one.start <= one.end <= found.duration for one in found.segments)
    if found.words:
        assert [one.word for one in found.words[:3]] == ["It", "was", "the"]
        starts = [one.start for one in found.words]
        assert starts == sorted(starts)


def test_logprobs_are_of_each_word(client: OpenAI, speech: Path) -> None:
    found = client.audio.transcriptions.create(file=speech, model="whisper-1", include=["logprobs"])
    assert found.logprobs
    assert "".join(one.token or "" for one in found.logprobs).strip() == found.text
    assert all(bytes(map(int, one.bytes or [])).decode() == one.token for one in found.logprobs)
    assert all(one.logprob is not None and one.logprob <= 0 for one in found.logprobs)


@pytest.mark.parametrize("format", FORMATS)
def test_identical_requests_have_identical_answers(
    server: Server, speech: Path, format: str
) -> None:
    data = {"response_format": format}
    sound = speech.read_bytes()
    with server.client() as client:
        answers = [
            client.post("/v1/audio/transcriptions", files={"file": ("a.wav", sound)}, data=data)
            for _ in range(2)
        ]
    assert answers[0].content == answers[1].content


# --- streaming ---------------------------------------------------------------------------------


def test_stream(client: OpenAI, speech: Path) -> None:
    with client.audio.transcriptions.create(
        file=speech, model="whisper-1", stream=True, include=["logprobs"]
    ) as stream:
        *deltas, done = list(stream)
    assert len(deltas) > 1
    assert isinstance(done, TranscriptionTextDoneEvent)
    TranscriptionTextDoneEvent.model_validate(done.model_dump())
    heard = ""
    for delta in deltas:
        assert isinstance(delta, TranscriptionTextDeltaEvent)
        TranscriptionTextDeltaEvent.model_validate(delta.model_dump())
        assert "".join(one.token or "" for one in delta.logprobs or []).strip() in delta.delta
        heard += delta.delta
    assert heard == done.text
    assert heard.startswith(OPENING)
    logprobs = [one for delta in deltas for one in getattr(delta, "logprobs", None) or []]
    assert [one.token for one in logprobs] == [one.token for one in done.logprobs or []]


def test_stream_is_of_server_sent_events(server: Server, speech: Path) -> None:
    with (
        server.client() as client,
        client.stream(
            "POST",
            "/v1/audio/transcriptions",
            files={"file": speech.read_bytes()},
            data={"stream": "true"},
        ) as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.iter_lines() if line]
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert [one["type"] for one in events][-2:] == ["transcript.text.delta", "transcript.text.done"]
    assert all("logprobs" not in one for one in events)


def test_error_of_a_stream_is_an_error_status(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.audio.transcriptions.create(file=b"no sound", model="whisper-1", stream=True)
    assert error.value.code == "not_media"


def test_error_within_a_stream_is_raised(told: OpenAI) -> None:
    stream = told.audio.transcriptions.create(file=b"!late ", model="whisper-1", stream=True)
    assert next(stream).type == "transcript.text.delta"
    with pytest.raises(openai.APIError, match="a defect"):
        list(stream)


def test_async_client(server: Server, speech: Path) -> None:
    async def main() -> None:
        async with AsyncOpenAI(api_key="any", base_url=f"{server.url}/v1") as client:
            create = client.audio.transcriptions.create
            found, verbose, text = await asyncio.gather(
                create(file=speech, model="whisper-1"),
                create(file=speech, model="whisper-1", response_format="verbose_json"),
                create(file=speech, model="whisper-1", response_format="text"),
            )
            assert found.text == verbose.text == text.rstrip("\n")
            stream = await create(file=speech, model="whisper-1", stream=True)
            events = [event async for event in stream]
            assert getattr(events[-1], "text", "") == found.text

    asyncio.run(main())


def test_many_at_a_time_have_the_text_that_each_has_alone(
    server: Server, client: OpenAI, speech: Path
) -> None:
    alone = client.audio.transcriptions.create(file=speech, model="whisper-1").text

    async def main() -> list[str]:
        async with AsyncOpenAI(api_key="any", base_url=f"{server.url}/v1") as many:
            create = many.audio.transcriptions.create
            asked = (create(file=speech, model="whisper-1") for _ in range(6))
            return [one.text for one in await asyncio.gather(*asked)]

    assert asyncio.run(main()) == [alone] * 6


# --- options -----------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["en", "English"])
def test_language_is_taken(told: OpenAI, language: str) -> None:
    found = told.audio.transcriptions.create(file=b"x", model="whisper-1", language=language)
    assert "In en." in found.text


def test_unknown_language_is_refused(client: OpenAI, speech: Path) -> None:
    with pytest.raises(openai.BadRequestError, match="unknown language: `klingon`"):
        client.audio.transcriptions.create(file=speech, model="tiny.en", language="klingon")


def test_language_that_the_model_does_not_know_is_refused(client: OpenAI, speech: Path) -> None:
    with pytest.raises(openai.BadRequestError, match="knows English only") as error:
        client.audio.transcriptions.create(file=speech, model="tiny.en", language="de")
    assert error.value.code == "unsupported_option"


def test_prompt_is_taken(told: OpenAI) -> None:
    found = told.audio.transcriptions.create(file=b"x", model="whisper-1", prompt="Stenopool")
    assert 'initial_prompt is "Stenopool".' in found.text


def test_prompt_that_is_too_long_is_refused(client: OpenAI, speech: Path) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.audio.transcriptions.create(
            file=speech, model="whisper-1", prompt="Stenopool " * 500
        )
    assert error.value.code == "usage"


def test_temperature_is_taken(told: OpenAI) -> None:
    found = told.audio.transcriptions.create(file=b"x", model="whisper-1", temperature=0.3)
    assert "temperatures is [0.3]." in found.text


def test_temperature_of_nought_is_the_default(told: OpenAI) -> None:
    found = told.audio.transcriptions.create(file=b"x", model="whisper-1", temperature=0)
    assert "temperatures" not in found.text


@pytest.mark.parametrize("temperature", [-0.1, 1.1, float("nan"), float("inf")])
def test_temperature_that_is_none_is_refused(told: OpenAI, temperature: float) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature") as error:
        told.audio.transcriptions.create(file=b"x", model="whisper-1", temperature=temperature)
    assert error.value.code == "invalid_request"


def test_options_of_newer_models_are_taken(told: OpenAI) -> None:
    found = told.audio.transcriptions.create(
        file=b"x",
        model="gpt-transcribe",
        keywords=["Stenopool", "Whisper"],
        languages=["de"],
        chunking_strategy={"type": "server_vad", "threshold": 0.3},
    )
    assert 'hotwords is "Stenopool, Whisper".' in found.text
    assert "vad_threshold is 0.3." in found.text
    assert "In de." in found.text
    told.audio.transcriptions.create(file=b"x", model="whisper-1", chunking_strategy="auto")


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("languages", {"languages": ["de", "en"]}),
        ("known_speaker_names", {"known_speaker_names": ["Ann"]}),
        (
            "silence_duration_ms",
            {"chunking_strategy": {"type": "server_vad", "silence_duration_ms": 200}},
        ),
        ("srt", {"response_format": "srt", "include": ["logprobs"]}),
        ("vtt", {"response_format": "vtt", "stream": True}),
        ("json", {"timestamp_granularities": ["word"]}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_honoured_is_refused_by_name(
    told: OpenAI, name: str, given: dict[str, Any]
) -> None:
    with pytest.raises(openai.BadRequestError, match=f"`{name}|{name}`|{name}") as error:
        told.audio.transcriptions.create(file=b"x", model="whisper-1", **given)
    assert error.value.code == "unsupported_option"


@pytest.mark.parametrize("format", ["diarized_json", "docx", ""])
def test_unknown_format_is_refused(instant: Server, format: str) -> None:
    answer = httpx.post(
        f"{instant.url}/v1/audio/transcriptions",
        files={"file": b"x"},
        data={"response_format": format},
    )
    assert answer.status_code == (200 if format == "" else 400)


def test_containers_and_names_of_all_kinds(client: OpenAI, tmp_path: Path) -> None:
    video = write_media(tmp_path / "a.mp4", tone(1.0), codec="aac", video_seconds=1.0)
    for file in (
        video,
        ("../../etc/passwd", video.read_bytes()),
        ("\N{SNOWMAN} a.b.c.MP4", video.read_bytes(), "text/html"),
        wav_bytes(tone(1.0)),
    ):
        found = client.audio.transcriptions.create(file=file, model="whisper-1")
        assert found.text == ""


# --- translations ------------------------------------------------------------------------------

DEPRECATED = pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # by OpenAI


@DEPRECATED
def test_model_that_cannot_translate_says_so(client: OpenAI, speech: Path) -> None:
    with pytest.raises(openai.BadRequestError, match="cannot translate"):
        client.audio.translations.create(file=speech, model="tiny.en")


@DEPRECATED
def test_translation_json(told: OpenAI) -> None:
    answer = told.audio.translations.with_raw_response.create(
        file=b"x", model="whisper-1", prompt="Hello", temperature=0.2
    )
    found = Translation.model_validate_json(answer.content, strict=True)
    assert 'task is "translate".' in found.text
    assert 'initial_prompt is "Hello".' in found.text
    assert "temperatures is [0.2]." in found.text


@DEPRECATED
def test_translation_verbose_json(told: OpenAI) -> None:
    answer = told.audio.translations.with_raw_response.create(
        file=b"x", model="whisper-1", response_format="verbose_json"
    )
    found = TranslationVerbose.model_validate_json(answer.content)
    assert found.language == "english"
    assert found.segments


@DEPRECATED
@pytest.mark.parametrize(
    ("format", "beginning"), [("text", "1 bytes."), ("srt", "1\n00:00:00,000"), ("vtt", "WEBVTT")]
)
def test_translation_as_text(told: OpenAI, format: Any, beginning: str) -> None:
    text = told.audio.translations.create(file=b"x", model="whisper-1", response_format=format)
    assert isinstance(text, str)
    assert text.startswith(beginning)


def test_translation_streams(instant: Server) -> None:
    answer = httpx.post(
        f"{instant.url}/v1/audio/translations", files={"file": b"x"}, data={"stream": "true"}
    )
    last = json.loads(answer.text.rstrip().rpartition("data: ")[2])
    assert 'task is "translate".' in TranscriptionTextDoneEvent.model_validate(last).text


# --- models ------------------------------------------------------------------------------------


def test_models(told: OpenAI) -> None:
    names = [one.id for one in told.models.list()]
    assert {"whisper-1", "tiny.en", "base"} <= set(names)
    assert "silero-vad" not in names
    assert len(names) == len(set(names))
    for name in names:
        assert told.models.retrieve(name).id == name
    assert {name for name, one in CATALOGUE.items() if one.kind == "whisper"} <= set(names)


@pytest.mark.parametrize("name", ["no-such", "silero-vad", "../../etc", "\N{SNOWMAN}"])
def test_unknown_model(told: OpenAI, name: str) -> None:
    with pytest.raises(openai.NotFoundError):
        told.models.retrieve(name)
    with pytest.raises(openai.NotFoundError, match="no such model"):
        told.audio.transcriptions.create(file=b"x", model=name)


def test_model_that_is_not_here_is_an_error_of_the_server(client: OpenAI, speech: Path) -> None:
    with pytest.raises(openai.InternalServerError) as error:
        client.audio.transcriptions.create(file=speech, model="large-v3")
    assert (error.value.status_code, error.value.code) == (503, "model_not_pulled")


# --- errors ------------------------------------------------------------------------------------


def test_recording_that_is_none_is_refused_without_paths_of_the_server(
    server: Server, client: OpenAI
) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.audio.transcriptions.create(file=b"no sound at all", model="whisper-1")
    assert error.value.code == "not_media"
    assert str(server.folder) not in str(error.value)
    assert server.keeps_nothing()


def test_errors_have_the_form_of_openai(instant: Server) -> None:
    for answer in (
        httpx.get(f"{instant.url}/nowhere"),
        httpx.put(f"{instant.url}/v1/models"),
        httpx.post(f"{instant.url}/v1/audio/transcriptions"),
        httpx.post(f"{instant.url}/v1/audio/transcriptions", files={"file": b"!defect "}),
    ):
        error = answer.json()["error"]
        assert error.keys() == {"message", "type", "param", "code", "hint"}
        assert answer.headers["x-request-id"]


def test_crash_of_a_worker_is_an_error_of_that_request_only(told: OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as error:
        told.audio.transcriptions.create(file=b"!crash ", model="whisper-1")
    assert (error.value.status_code, error.value.code) == (503, "engine_failed")
    assert told.audio.transcriptions.create(file=b"x", model="whisper-1").text
