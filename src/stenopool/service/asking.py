"""What a client asks for when it submits a job: a form, JSON, or a recording with a query."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import ImmutableMultiDict, UploadFile

from stenopool.bucket import Key
from stenopool.decoding.options import Options
from stenopool.errors import UsageError
from stenopool.pipeline import keys
from stenopool.pipeline.watch import Defaults
from stenopool.service.access import Caller
from stenopool.service.guard import bounded, read_form
from stenopool.service.intake import safe_name, upload_key
from stenopool.service.openai import group_of
from stenopool.service.remote import check_url
from stenopool.service.submissions import FETCHING, GIVEN, STORING, Submission, Wanted

LONGEST_KEY = 255  # characters of an idempotency key

Url = Annotated[str, StringConstraints(max_length=4096)]


class Fields(BaseModel):
    """What can be said of a job; all of it, but for one of `url` and `key`, may be left out."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    url: Url = ""
    """Where the recording is fetched from."""

    key: Annotated[str, StringConstraints(max_length=1024)] = ""
    """The recording, if it is in the bucket already: a name that begins with `input/`."""

    name: Annotated[str, StringConstraints(max_length=1024)] = ""
    """What the recording's file is called."""

    model: str = "whisper-1"
    """A model's name; `whisper-1` is the server's default."""

    formats: list[str] = Field(default_factory=lambda: ["json"])
    """Documents that are put into the bucket; results can be had in every format anyway."""

    options: dict[str, Any] = Field(default_factory=dict)
    """Changes from the default options, such as `{"language": "de"}`."""

    webhook_url: Url = ""
    """Is told when the job has ended."""


def _documented() -> dict[str, Any]:
    schema = Fields.model_json_schema()
    said = {name: one for name, one in schema["properties"].items() if name not in {"url", "key"}}
    form = {
        "type": "object",
        "required": ["file"],
        "properties": {"file": {"type": "string", "format": "binary"}, **said},
    }
    key = {
        "name": "Idempotency-Key",
        "in": "header",
        "schema": {"type": "string", "maxLength": LONGEST_KEY},
        "description": "A name of yours for this request: repeated, it makes no second job.",
    }
    content = {
        "multipart/form-data": {"schema": form},
        "application/json": {"schema": schema},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    }
    return {"requestBody": {"required": True, "content": content}, "parameters": [key]}


ASKED = _documented()
"""For the OpenAPI document: FastAPI does not see what is read here."""


@asynccontextmanager
async def asked(request: Request, who: Caller) -> AsyncIterator[tuple[Submission, Path | None]]:
    """What is to be submitted, and the recording if it came with it.

    Raises:
        RequestValidationError: of FastAPI: it is not as the OpenAPI document says.
        StenoError: something in it is unknown or has a wrong value.
    """
    async with AsyncExitStack() as stack:
        fields, path = await _received(request, stack)
        if path is None and bool(fields.url) == bool(fields.key):
            raise UsageError(
                "no recording", do="Send one as `file`, or give either its `url` or its `key`"
            )
        if path is not None and (fields.url or fields.key):
            raise UsageError(
                "two recordings", do="Give `url` or `key` without a file, or a file without them"
            )
        yield await _submission(request, who, fields, path), path


async def _received(request: Request, stack: AsyncExitStack) -> tuple[Fields, Path | None]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    uploads = request.app.state.uploads
    if kind == "application/json":
        body = await Request(request.scope, bounded(request.receive)).body()
        return _checked(body), None
    if kind != "multipart/form-data":
        fields = _of_strings(request.query_params)
        return fields, await stack.enter_async_context(uploads.of_body(request, fields.name))
    await read_form(request)
    form = await stack.enter_async_context(request.form())
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise UsageError("the form has no `file`", do="Send the recording as `file`")
    fields = _of_strings(
        ImmutableMultiDict([(name, one) for name, one in form.multi_items() if name != "file"])
    )
    path = await stack.enter_async_context(uploads.of_form(file))
    return fields.model_copy(update={"name": fields.name or file.filename or ""}), path


def _of_strings(given: ImmutableMultiDict[str, Any]) -> Fields:
    """Of a form or a query, where everything is text."""
    data: dict[str, Any] = {name: given[name] for name in given}
    if "formats" in given:
        data["formats"] = [name for one in given.getlist("formats") for name in str(one).split(",")]
    if "options" in given:
        try:
            data["options"] = json.loads(given["options"])
        except (ValueError, TypeError, RecursionError) as error:
            raise UsageError("`options` is not JSON", do='Write `{"language": "de"}`') from error
    return _checked(data)


def _checked(given: bytes | Mapping[str, Any]) -> Fields:
    try:
        if isinstance(given, bytes):
            return Fields.model_validate_json(given)
        return Fields.model_validate(given)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False)) from error


async def _submission(
    request: Request, who: Caller, fields: Fields, path: Path | None
) -> Submission:
    state = request.app.state
    stage, key, name = _place(fields, path)
    group = group_of(request, fields.model)
    given = Defaults.of(group, fields.formats, _options(fields))
    if fields.webhook_url:
        check_url(fields.webhook_url)
        if not state.webhooks.can_sign:
            raise UsageError(
                "this server has nothing to sign webhooks with", do="Set `STENO_WEBHOOK_SECRET`"
            )
    idempotency = request.headers.get("idempotency-key")
    if idempotency is not None and not 0 < len(idempotency) <= LONGEST_KEY:
        raise UsageError(
            "`Idempotency-Key` is empty or too long", do=f"Give 1 to {LONGEST_KEY} characters"
        )
    return Submission(
        owner=who.id,
        key=key,
        wanted=Wanted(fields.url, safe_name(name), given.group, given.formats, given.options),
        stage=stage,
        idempotency=idempotency,
        fingerprint=await run_in_threadpool(_fingerprint, fields, path) if idempotency else "",
        webhook=fields.webhook_url,
    )


def _place(fields: Fields, path: Path | None) -> tuple[str, Key, str]:
    """The first stage, where the recording is or is going to be, and its name."""
    if path is not None:
        return STORING, upload_key(fields.name), fields.name
    if fields.url:
        check_url(fields.url)
        name = fields.name or unquote(urlsplit(fields.url).path)
        return FETCHING, upload_key(name), name
    if not fields.key.startswith(keys.INPUT) or not keys.is_recording(fields.key):
        raise UsageError(
            f"`{fields.key}` is no recording of yours", do="Name one that is below `input/`"
        )
    return GIVEN, fields.key, fields.name


def _options(fields: Fields) -> Options:
    try:
        json.dumps(fields.options, allow_nan=False)
    except ValueError as error:
        raise UsageError("`options` has a number that is not finite", do="Leave it out") from error
    return Options.of(**fields.options)


def _fingerprint(fields: Fields, path: Path | None) -> str:
    """The same for the same request, the recording included."""
    digest = hashlib.sha256(json.dumps(fields.model_dump(), sort_keys=True).encode())
    if path is not None:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
