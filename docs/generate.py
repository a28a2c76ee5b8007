"""Write the reference pages that are made from docstrings: `python docs/generate.py`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from stenopool import errors
from stenopool.cli.options import option_texts
from stenopool.decoding.options import Options
from stenopool.settings import Settings

FOLDER = Path(__file__).parent / "reference"
NOTE = "<!-- Made by docs/generate.py from the docstrings. -->\n"


def pages() -> dict[str, str]:
    """The text of each generated page, by file name."""
    return {
        "options.md": "\n".join([NOTE, "# Options", "", *_options()]) + "\n",
        "errors.md": "\n".join([NOTE, "# Errors", "", *_errors()]) + "\n",
        "settings.md": "\n".join([NOTE, "# Settings", "", *_settings()]) + "\n",
    }


def _options() -> Iterator[str]:
    yield "The fields of `stenopool.Options`; on the command line `--beam-size 1` and so on."
    yield ""
    yield "| option | default | |"
    yield "|---|---|---|"
    texts = option_texts()
    for field in fields(Options):
        default = (
            " ".join(map(str, field.default)) if field.name == "temperatures" else field.default
        )
        shown = "" if default in (None, "") else f"`{default}`"
        yield f"| `{field.name}` | {shown} | {texts[field.name]} |"


def _errors() -> Iterator[str]:
    yield "The code stands in error records, in `--json` output and in messages, and never changes."
    yield ""
    yield "| code | exit status | transient | |"
    yield "|---|---|---|---|"
    for error in _below(errors.StenoError):
        transient = "yes" if error.transient else ""
        summary = (error.__doc__ or "").splitlines()[0]
        yield f"| `{error.code}` | {error.exit_status} | {transient} | {summary} |"


def _below(base: type[errors.StenoError]) -> Iterator[type[errors.StenoError]]:
    for error in base.__subclasses__():
        if error.__module__ == errors.__name__:
            yield error
            yield from _below(error)


def _settings() -> Iterator[str]:
    yield "Environment variables."
    yield ""
    yield "| variable | default | |"
    yield "|---|---|---|"
    for name, field in Settings.model_fields.items():
        text = re.sub(r"\s+", " ", field.description or "")
        yield f"| `STENO_{name.upper()}` | {_default(field.default)} | {text} |"


def _default(value: object) -> str:
    if isinstance(value, Path):
        return "the user's cache folder"  # another one on each machine
    return "" if value == "" else f"`{value}`"


if __name__ == "__main__":
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
