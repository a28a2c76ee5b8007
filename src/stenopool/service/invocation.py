"""What comes with an invocation: a recording or where one is, options, and the wanted format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote

from fastapi import Request
from fastapi.concurrency import contextmanager_in_threadpool
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import FormData, UploadFile

from stenopool.bucket import Bucket, Key
from stenopool.decoding.options import Options
from stenopool.errors import UnknownName, UnsupportedOption, UsageError
from stenopool.pipeline import keys
from stenopool.service.access import Caller, NotAllowed
from stenopool.service.guard import bounded, read_form
from stenopool.service.inference import MEDIA
from stenopool.service.remote import Remote

ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"
JSON = "application/json"


class NotAcceptable(UsageError):  # noqa: N818  the names say what happened
    """None of the formats that are accepted can be given."""

    code: ClassVar[str] = "not_acceptable"


class Location(BaseModel):
    """Where a recording is: one of `s3` and `url`."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    s3: str = Field(default="", max_length=4096)
    """In the server's own bucket: `s3://bucket/name`."""

    url: str = Field(default="", max_length=4096)
    """Anywhere on the public internet."""

    options: dict[str, Any] = Field(default_factory=dict)
    """Changes from the default options, such as `{"language": "de"}`."""


def _documented() -> dict[str, Any]:
    recording = {"schema": {"type": "string", "format": "binary"}}
    form = {"file": recording["schema"], "language": {"type": "string"}}
    content = {
        "audio/wav": recording,
        "application/octet-stream": recording,
        JSON: {"schema": Location.model_json_schema()},
        "multipart/form-data": {
            "schema": {"type": "object", "required": ["file"], "properties": form}
        },
    }
    attributes = {
        "name": "X-Amzn-SageMaker-Custom-Attributes",
        "in": "header",
        "schema": {"type": "string"},
        "description": 'Options as JSON, such as `{"language": "de"}`.',
    }
    return {"requestBody": {"required": True, "content": content}, "parameters": [attributes]}


ASKED = _documented()
"""For the OpenAPI document: FastAPI does not see what is read here."""


def media_of(accept: str) -> str:
    """The media type of an answer.

    Raises:
        NotAcceptable: none that is accepted can be given.
    """
    wanted = [_weighed(one) for one in accept.split(",") if one.strip()] or [("*/*", 1.0)]
    for kind, weight in sorted(wanted, key=lambda one: -one[1]):
        top = kind.removesuffix("*")
        found = [one for one in MEDIA if one == kind or (kind != top and one.startswith(top))]
        if weight > 0 and (found or kind == "*/*"):
            return found[0] if found else JSON
    raise NotAcceptable(f"no answer can be `{accept}`", do=f"Accept one of: {', '.join(MEDIA)}")


def _weighed(accepted: str) -> tuple[str, float]:
    kind, *parameters = (one.strip().lower() for one in accepted.split(";"))
    for one in parameters:
        if one.startswith("q="):
            try:
                return kind, float(one[2:])
            except ValueError:
                return kind, 0.0
    return kind, 1.0


async def received(
    request: Request, who: Caller, remote: Remote, stack: AsyncExitStack
) -> tuple[Path, Options]:
    """The recording, which is there until the stack ends, and how to transcribe it.

    Raises:
        RequestValidationError: of FastAPI: the JSON is not as the OpenAPI document says.
        StenoError: the recording cannot be had, or an option cannot be what it is.
    """
    given = attributes_of(request)
    uploads = request.app.state.uploads
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == JSON:
        body = await Request(request.scope, bounded(request.receive)).body()
        location = _location(body)
        options = options_of({**given, **location.options})
        if location.url:
            path = stack.enter_context(uploads.new(""))
            await remote.fetch(location.url, path, uploads.most_bytes)
            return path, options
        if who.key is not None and "jobs" not in who.key.scopes:
            raise NotAllowed("this key may not read the bucket", do="Use a key with `jobs`")
        bucket = request.app.state.serving.bucket
        local = bucket.local(key_of(bucket, location.s3))
        return await stack.enter_async_context(contextmanager_in_threadpool(local)), options
    if kind != "multipart/form-data":
        options = options_of(given)
        return await stack.enter_async_context(uploads.of_body(request)), options
    await read_form(request)
    form = await stack.enter_async_context(request.form())
    options = options_of({**given, **_of_texts(form)})
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise UsageError("the form has no `file`", do="Send the recording as `file`")
    return await stack.enter_async_context(uploads.of_form(file)), options


def attributes_of(request: Request) -> dict[str, Any]:
    """The options in the custom attributes.

    Raises:
        UsageError: they are no JSON object.
    """
    text = request.headers.get(ATTRIBUTES, "")
    if not text:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UsageError("the custom attributes are no JSON object", do='Say {"language": "de"}')
    return found


def options_of(given: Mapping[str, Any]) -> Options:
    """Options by name.

    Raises:
        UsageError: there is none of this name, or it cannot have this value.
    """
    try:
        return Options.of(**given)
    except UnknownName as error:  # 404 would say something else
        raise UnsupportedOption(error.what, do=error.do) from error
    except TypeError as error:
        raise UsageError("an option has a value of the wrong type", do="Correct it") from error


def key_of(bucket: Bucket, location: str) -> Key:
    """The name of what is in the server's own bucket.

    Raises:
        NotAllowed: it is somewhere else, or is not to be read.
    """
    inside = location.removeprefix(f"{bucket.url}/")
    if bucket.url.startswith("file:"):
        inside = unquote(inside)
    if inside == location or keys.is_hidden(inside):
        raise NotAllowed(
            "this is not in the bucket that is served", do="Name something in it, or give a `url`"
        )
    return inside


def _location(body: bytes) -> Location:
    try:
        found = Location.model_validate_json(body)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False)) from error
    if bool(found.s3) == bool(found.url):
        raise UsageError("no recording, or two", do='Say {"s3": "s3://…"} or {"url": "https://…"}')
    return found


def _of_texts(form: FormData) -> dict[str, Any]:
    """The options in a form, where everything is text."""
    usual = Options()
    texts = {entry.name for entry in fields(Options) if isinstance(getattr(usual, entry.name), str)}
    found: dict[str, Any] = {}
    for name, value in form.multi_items():
        if name == "file":
            continue
        if not isinstance(value, str):
            raise UsageError(f"`{name}` is a file", do="Send one file, as `file`")
        try:
            found[name] = value if name in texts else json.loads(value)
        except (ValueError, RecursionError):
            found[name] = value  # which is refused by name, or is text after all
    return found
