"""`/v1/audio/…` and `/v1/models`, as OpenAI's clients expect them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Annotated, Any, Literal, TypeAlias

from fastapi import APIRouter, Depends, File, Form, Request, Response, UploadFile
from fastapi.responses import StreamingResponse
from starlette.requests import HTTPConnection

from stenopool.decoding.options import Options
from stenopool.errors import Defect, StenoError, UnknownName, UnsupportedOption
from stenopool.models import CATALOGUE, Store
from stenopool.pipeline.job import Group, changes
from stenopool.service.access import Caller, caller
from stenopool.service.answers import Format, document, logprob
from stenopool.service.guard import Door, unless_gone
from stenopool.service.problems import body, status_of
from stenopool.transcript import Transcript, Word

ALIASES = (
    "whisper-1",
    "gpt-transcribe",
    "gpt-4o-transcribe",
    "gpt-4o-mini-transcribe",
    "gpt-4o-mini-transcribe-2025-12-15",
)

router = APIRouter(tags=["OpenAI"], route_class=Door)

Recording = Annotated[UploadFile, File(description="Any audio or video that FFmpeg reads.")]
Model = Annotated[str, Form(description="A model's name; `whisper-1` is the server's default.")]
Prompt = Annotated[str, Form(description="Text that came before: style and spelling.")]
ResponseFormat = Annotated[Format, Form()]
Temperature = Annotated[
    float, Form(ge=0, le=1, description="0 tries higher ones where the result looks wrong.")
]
Stream = Annotated[bool, Form(description="Server-sent events, a segment each.")]
Texts: TypeAlias = list[str] | None


def newer(
    keywords: Annotated[
        Texts, Form(alias="keywords[]", description="Names and terms to listen for.")
    ] = None,
    languages: Annotated[
        Texts, Form(alias="languages[]", description="One at most: it is `language`.")
    ] = None,
    threshold: Annotated[
        float | None,
        Form(alias="chunking_strategy[threshold]", description="Of voice activity detection."),
    ] = None,
    padding: Annotated[int, Form(alias="chunking_strategy[prefix_padding_ms]")] = 0,
    silence: Annotated[int, Form(alias="chunking_strategy[silence_duration_ms]")] = 0,
    speakers: Annotated[Texts, Form(alias="known_speaker_names[]")] = None,
) -> dict[str, Any]:
    """Options by the names that OpenAI's newer models have for them.

    Raises:
        UnsupportedOption: nothing here corresponds to one.
    """
    refused = {
        "languages[]": len(languages or ()) > 1,
        "chunking_strategy[prefix_padding_ms]": padding,
        "chunking_strategy[silence_duration_ms]": silence,
        "known_speaker_names[]": speakers,
    }
    for name, given in refused.items():
        if given:
            raise UnsupportedOption(f"`{name}` cannot be honoured", do="Leave it out")
    options: dict[str, Any] = {"hotwords": ", ".join(keywords or ())}
    if languages:
        options["language"] = languages[0]
    if threshold is not None:
        options["vad_threshold"] = threshold
    return options


Newer = Annotated[dict[str, Any], Depends(newer)]


@router.post("/v1/audio/transcriptions")
async def transcriptions(
    request: Request,
    who: Annotated[Caller, Depends(caller("transcribe"))],
    file: Recording,
    more: Newer,
    model: Model = "whisper-1",
    language: Annotated[str, Form(description="Code or English name; else detected.")] = "",
    prompt: Prompt = "",
    response_format: ResponseFormat = "json",
    temperature: Temperature = 0.0,
    granularities: Annotated[
        list[Literal["word", "segment"]] | None, Form(alias="timestamp_granularities[]")
    ] = None,
    include: Annotated[list[Literal["logprobs"]] | None, Form(alias="include[]")] = None,
    stream: Stream = False,
) -> Response:
    """The text of a recording, in its own language."""
    given = {**more, "language": language} if language else more
    asked = _Asked(request, who, file, model, _options(prompt, temperature, given))
    return await asked.answer(_Form(response_format, granularities or [], bool(include), stream))


@router.post("/v1/audio/translations")
async def translations(
    request: Request,
    who: Annotated[Caller, Depends(caller("transcribe"))],
    file: Recording,
    model: Model = "whisper-1",
    prompt: Prompt = "",
    response_format: ResponseFormat = "json",
    temperature: Temperature = 0.0,
    stream: Stream = False,
) -> Response:
    """The text of a recording in English, whatever is spoken."""
    options = _options(prompt, temperature, {"task": "translate"})
    asked = _Asked(request, who, file, model, options)
    return await asked.answer(_Form(response_format, stream=stream))


@router.get("/v1/models")
async def models(
    request: Request, who: Annotated[Caller, Depends(caller("transcribe"))]
) -> dict[str, Any]:
    """The models that can be named."""
    return {"object": "list", "data": [_model(name) for name in (*ALIASES, *_names())]}


@router.get("/v1/models/{name}")
async def model(
    name: str, request: Request, who: Annotated[Caller, Depends(caller("transcribe"))]
) -> dict[str, Any]:
    """One of them."""
    if name not in ALIASES and name not in _names() and not Store().registry.has(name):
        raise _no_model(name)
    return _model(name)


class _Form:
    """How an answer is to look.

    Raises:
        UnsupportedOption: it cannot look so.
    """

    def __init__(
        self,
        format: Format,
        granularities: Sequence[str] = (),
        logprobs: bool = False,
        stream: bool = False,
    ) -> None:
        self.format = format
        self.granularities = granularities
        self.logprobs = logprobs
        self.stream = stream
        if granularities and format != "verbose_json":
            raise UnsupportedOption(
                f"`{format}` has no timestamps to choose",
                do="Set `response_format` to `verbose_json`, or leave out the granularities",
            )
        if logprobs and format not in {"json", "verbose_json"}:
            raise UnsupportedOption(
                f"`{format}` has no place for log-probabilities",
                do="Set `response_format` to `json`, or leave out `include`",
            )
        if stream and format not in {"json", "text"}:
            raise UnsupportedOption(
                f"`{format}` cannot be streamed",
                do="Set `response_format` to `json`, or leave out `stream`",
            )


class _Asked:
    """A request for the text of a recording."""

    def __init__(
        self, request: Request, who: Caller, file: UploadFile, model: str, options: Options
    ) -> None:
        self._request = request
        self._state = request.app.state
        self._who = who
        self._file = file
        self._group = group_of(request, model)
        self._options = options

    async def answer(self, form: _Form) -> Response:
        """The response; the recording is kept until it is complete."""
        async with AsyncExitStack() as stack:
            path = await stack.enter_async_context(self._state.uploads.of_form(self._file))
            said = self._noted(
                self._state.engines.transcribe(
                    path, self._group, changes(self._options), self._who.id
                )
            )
            if form.stream:
                # So far an error is an error's status; later it is an event.
                first = await unless_gone(self._request, anext(said))
                events = _events(_chained(first, said), stack.pop_all(), form)
                return StreamingResponse(events, media_type="text/event-stream")
            transcript = await unless_gone(self._request, _last(said))
        content, media = document(
            transcript, form.format, form.granularities, logprobs=form.logprobs
        )
        return Response(content, media_type=media)

    async def _noted(self, said: AsyncIterator[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
        async for one in said:
            if "transcript" in one:
                seconds = float(one["transcript"]["duration"])
                await self._state.access.used(self._who, seconds)
            yield one


def group_of(request: HTTPConnection, model: str) -> Group:
    """The processes that hold a model.

    Raises:
        UnknownName: none has this name, or it is not served.
    """
    group: Group = request.app.state.default
    if model in ALIASES or model == group.model:
        return group
    store = Store()
    if model not in _names() and not store.registry.has(model):
        raise _no_model(model)
    return Group(store.pinned(model), group.engine, group.device)


def _names() -> list[str]:
    known = [name for name, entry in CATALOGUE.items() if entry.kind == "whisper"]
    return [*known, *map(str, Store().registry.all())]


def _no_model(name: str) -> UnknownName:
    return UnknownName(f"no such model: `{name}`", do="See `GET /v1/models`")


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "stenopool"}


def _options(prompt: str, temperature: float, given: Mapping[str, Any]) -> Options:
    usual = Options()
    temperatures = (temperature,) if temperature else usual.temperatures
    try:
        return Options.of(**given, initial_prompt=prompt, temperatures=temperatures)
    except UnknownName as error:  # no language: but 404 would say that there is no such model
        raise UnsupportedOption(error.what, do=error.do) from error


async def _chained(
    first: dict[str, Any], rest: AsyncIterator[dict[str, Any]]
) -> AsyncIterator[dict[str, Any]]:
    yield first
    async for one in rest:
        yield one


async def _last(said: AsyncIterator[dict[str, Any]]) -> Transcript:
    found = None
    async for one in said:  # to its end: it has something to clear away
        found = one.get("transcript", found)
    if found is None:
        raise Defect("a worker gave no transcript", do="Please report it")
    return Transcript.from_dict(found)


async def _events(
    said: AsyncIterator[dict[str, Any]], stack: AsyncExitStack, form: _Form
) -> AsyncIterator[str]:
    """Server-sent events: `transcript.text.delta` for each segment, then `transcript.text.done`."""
    async with stack:
        sent = False
        try:
            async for one in said:
                if "segment" in one:
                    yield _event(_delta(one["segment"], form, first=not sent))
                    sent = True
                else:
                    transcript = Transcript.from_dict(one["transcript"])
                    yield _event(_done(transcript, form))
        except StenoError as error:  # too late for a status
            record = error.record()
            yield _event(
                body(status_of(error), str(record["message"]), str(record["code"])), "error"
            )


def _delta(segment: dict[str, Any], form: _Form, *, first: bool) -> dict[str, Any]:
    text = segment["text"] if first else f" {segment['text']}"
    event: dict[str, Any] = {"type": "transcript.text.delta", "delta": text}
    if form.logprobs:
        event["logprobs"] = [logprob(Word(**word)) for word in segment["words"]]
    return event


def _done(transcript: Transcript, form: _Form) -> dict[str, Any]:
    # Without `usage`: in this event it counts tokens, and OpenAI's clients read nothing else.
    event: dict[str, Any] = {"type": "transcript.text.done", "text": transcript.text}
    if form.logprobs:
        event["logprobs"] = [logprob(word) for one in transcript.segments for word in one.words]
    return event


def _event(data: dict[str, Any], name: str = "") -> str:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data, ensure_ascii=False)}\n\n"
