"""The documentation says what the code does: links, generated pages, commands, codes, flags."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import typer

import stenopool
from commands import load
from stenopool import errors
from stenopool.audio import media
from stenopool.cli import app
from stenopool.cli.console import READER_GONE
from stenopool.decoding import options, quality, whisper
from stenopool.settings import Settings

PROJECT = Path(__file__).parent.parent
DOCS = PROJECT / "docs"
PAGES = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")


GENERATED: dict[str, str] = load(DOCS / "generate.py").pages()


@pytest.mark.parametrize("name", GENERATED)
def test_generated_page_is_up_to_date(name: str) -> None:
    on_disk = (DOCS / "reference" / name).read_text(encoding="utf-8")
    assert on_disk == GENERATED[name], "run `python docs/generate.py`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = unquote(target).partition("#")
        linked = (page.parent / file) if file else page
        assert linked.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in set(anchors(linked)), f"{page.name} links to {target}"


def anchors(page: Path) -> Iterator[str]:
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = line.lstrip("#").strip().lower()
            yield re.sub(r"[^\w\- ]", "", heading).replace(" ", "-")


def test_there_are_links_to_check() -> None:
    assert sum(len(LINK.findall(page.read_text(encoding="utf-8"))) for page in PAGES) > 5


def test_every_page_is_linked_from_another() -> None:
    linked = {
        (page.parent / target.partition("#")[0]).resolve()
        for page in PAGES
        for target in LINK.findall(page.read_text(encoding="utf-8"))
    }
    assert [page.name for page in DOCS.rglob("*.md") if page.resolve() not in linked] == []


# --- commands ----------------------------------------------------------------------------------


def commands() -> Iterator[tuple[str, Any]]:
    """Each command that does something, as it is typed."""
    pending: list[tuple[str, Any]] = [("steno", typer.main.get_command(app))]
    while pending:
        name, command = pending.pop()
        below = getattr(command, "commands", {})
        pending += [(f"{name} {sub}", one) for sub, one in below.items()]
        if not below:
            yield name, command


COMMANDS = dict(commands())


def test_commands_are_found() -> None:
    assert {"steno transcribe", "steno run", "steno models pull"} <= COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_command_is_in_the_reference(name: str) -> None:
    page = (DOCS / "reference" / "commands.md").read_text(encoding="utf-8")
    whole, _, last = name.rpartition(" ")
    assert f"`{name}" in page or (f"`{whole} " in page and re.search(rf"`{last}[ `]", page))


@pytest.mark.parametrize("name", COMMANDS)
def test_command_has_help(name: str) -> None:
    assert len(COMMANDS[name].help) > 10


def test_commands_that_the_pages_show_exist() -> None:
    shown = [
        (page.name, first, second)
        for page in PAGES
        for first, second in re.findall(
            r"^(?:\$ )?steno ([a-z]+)(?: ([a-z][a-z-]*))?", page.read_text(encoding="utf-8"), re.M
        )
    ]
    assert shown
    for name, first, second in shown:
        known = {f"steno {first}", f"steno {first} {second}"}
        assert known & COMMANDS.keys(), f"{name}: steno {first} {second}"


def test_options_that_the_pages_show_exist() -> None:
    known = {"--help", "--version"}
    for command in COMMANDS.values():
        known.update(*(one.opts + one.secondary_opts for one in command.params))
    shown = {
        (page.name, option)
        for page in PAGES
        for line in re.findall(r"^.*\bsteno [a-z]+ .*$", page.read_text(encoding="utf-8"), re.M)
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", line.partition("steno ")[2])
    }
    assert shown
    assert [(name, option) for name, option in shown if option not in known] == []


def test_exit_statuses_are_those_of_the_errors() -> None:
    page = (DOCS / "reference" / "commands.md").read_text(encoding="utf-8")
    listed = {int(one) for one in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    branches = errors.StenoError.__subclasses__()
    assert listed == {0, 130, READER_GONE, *(one.exit_status for one in branches)}


# --- Python ------------------------------------------------------------------------------------

WITH_PYTHON = [PROJECT / "README.md", DOCS / "guides" / "python.md"]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.name)
def test_python_that_the_pages_show_compiles(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert blocks
    for block in blocks:
        compile(block, page.name, "exec")


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.name)
def test_names_that_the_pages_take_from_the_package_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    attributes = set(re.findall(r"(?<!from )(?<!import )\bstenopool\.([A-Za-z_][\w.]*\w)", text))
    assert attributes
    for name in attributes:
        first = name.partition(".")[0]
        # What another test has imported is an attribute too, but not of what users have.
        assert first in dir(stenopool), f"{page.name}: stenopool.{name}"
        reduce(getattr, name.split("."), stenopool)
    for module, names in re.findall(r"from (stenopool[\w.]*) import ([\w, ]+)", text):
        for name in names.split(","):
            assert hasattr(import_module(module), name.strip()), f"{page.name}: {module}.{name}"


# --- codes, flags and settings -----------------------------------------------------------------


def public_errors() -> list[type[errors.StenoError]]:
    return [
        one
        for one in vars(errors).values()
        if isinstance(one, type)
        and issubclass(one, errors.StenoError)
        and one is not errors.StenoError
    ]


@pytest.mark.parametrize("error", public_errors(), ids=lambda error: error.__name__)
def test_error_code_is_in_the_reference(error: type[errors.StenoError]) -> None:
    page = (DOCS / "reference" / "errors.md").read_text(encoding="utf-8")
    assert f"| `{error.code}` | {error.exit_status} |" in page


def flags() -> Iterator[str]:
    """Constants whose value is their name: what a transcript or a segment can be flagged with."""
    for module in (quality, media, whisper):
        for name, value in vars(module).items():
            if isinstance(value, str) and value == name.lower() and not hasattr(options, name):
                yield value


FLAGS = sorted(set(flags()))


def test_flags_are_found() -> None:
    assert {"repetition", "no_speech", "media_truncated", "unsuited_algorithm"} <= set(FLAGS)


@pytest.mark.parametrize("flag", FLAGS)
def test_flag_is_explained(flag: str) -> None:
    page = (DOCS / "concepts" / "trust.md").read_text(encoding="utf-8")
    assert f"`{flag}`" in page


@pytest.mark.parametrize("name", Settings.model_fields)
def test_setting_is_in_the_reference_with_a_description(name: str) -> None:
    page = (DOCS / "reference" / "settings.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| `STENO_{name.upper()}` \| .* \| (.+) \|$", page, re.MULTILINE)
    assert len(row) > 10
