"""The options of a transcription as options of a command: one for each field of `Options`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from stenopool.cli.console import report_pull
from stenopool.decoding.options import Options

if TYPE_CHECKING:
    from stenopool.decoding.transcriber import Transcriber

EngineName = Annotated[
    str, typer.Option("--engine", help="`auto`, `openvino`, `ctranslate2` or `torch`.")
]
DeviceName = Annotated[str, typer.Option("--device", help="`auto`, `cpu` or `cuda`.")]


def default_model() -> str:
    """The model where nobody names one; see `Store.default`."""
    from stenopool.models import Store

    return Store().default()


ModelName = Annotated[
    str,
    typer.Option(
        "--model",
        default_factory=default_model,
        show_default="base, until another is promoted",
        help="Name (see `steno models list`) or folder of a model.",
    ),
]
Attention = Annotated[
    str,
    typer.Option(
        "--attention", help="Of the PyTorch engine: `sdpa` (default), `eager` or `flash`."
    ),
]
Assistant = Annotated[
    str,
    typer.Option(
        "--assistant",
        help="Smaller model that drafts what the model checks: the same text, sooner "
        "(`--engine torch`).",
    ),
]
Threads = Annotated[int, typer.Option("--threads", min=0, help="Cores to use; 0 is all.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no talk on stderr.")]

_ENTRY = re.compile(r"^        (\w+): (.*?)(?=^        \w+: |\Z)", re.DOTALL | re.MULTILINE)


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one option for each field of `Options`; it is called with `options=`.

    Help texts are the entries of the docstring of `Options`, defaults are its defaults.
    """

    def call(**given: Any) -> None:  # noqa: ANN401  whatever the command line holds
        chosen = {field.name: given.pop(field.name) for field in fields(Options)}
        chosen["temperatures"] = tuple(chosen["temperatures"])
        command(**given, options=Options(**chosen))

    hints = get_type_hints(command, include_extras=True)
    own = [
        parameter.replace(annotation=hints[name])
        for name, parameter in inspect.signature(command).parameters.items()
        if name != "options"
    ]
    parameters = [*own, *_parameters()]
    call.__name__, call.__doc__ = command.__name__, command.__doc__
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {one.name: one.annotation for one in parameters}
    return call


def loaded(
    model: str,
    options: Options,
    *,
    engine: str,
    device: str,
    threads: int,
    attention: str = "",
    assistant: str = "",
) -> Transcriber:
    """The transcriber that a command asks for, with its options checked before any work.

    Raises:
        UsageError, ModelError, EngineError: by name.
    """
    from stenopool.decoding.transcriber import Transcriber

    transcriber = Transcriber(
        model,
        engine=engine,
        device=device,
        threads=threads,
        report=report_pull,
        attention=attention,
        assistant=assistant or None,
    )
    transcriber.resolved(options)
    return transcriber


def option_texts() -> dict[str, str]:
    """What the docstring of `Options` says of each field."""
    return {name: " ".join(text.split()) for name, text in _ENTRY.findall(Options.__doc__ or "")}


def _parameters() -> list[inspect.Parameter]:
    hints = get_type_hints(Options)
    texts = option_texts()
    return [_parameter(field, hints[field.name], texts[field.name]) for field in fields(Options)]


def _parameter(field: Field[Any], kind: Any, text: str) -> inspect.Parameter:  # noqa: ANN401
    default = None if field.default is MISSING else field.default
    if isinstance(default, tuple):
        kind, default = list[float], list(default)
    names = [] if _is_switch(kind) else [f"--{field.name.replace('_', '-')}"]
    option = typer.Option(*names, help=text[0].upper() + text[1:], rich_help_panel="Transcription")
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, option],
    )


def _is_switch(kind: Any) -> bool:  # noqa: ANN401
    return kind is bool or kind == bool | None
