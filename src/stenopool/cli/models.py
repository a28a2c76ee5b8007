"""`steno models`: what there is, what is here, and how to get it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from stenopool.cli.console import emit, emit_json, report_pull, say

if TYPE_CHECKING:
    from stenopool.models import ModelEntry, Store

app = typer.Typer(help="Models: list, pull, show.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]
Name = Annotated[str, typer.Argument(help="Name of a model.", metavar="NAME")]


def store() -> Store:
    """The models of this machine."""
    from stenopool.models import Store

    return Store()


@app.command("list")
def list_models(*, json_lines: Json = False) -> None:
    """The models that are known by name, and which of them are on this machine."""
    from stenopool.models import CATALOGUE

    pulled = set(store().pulled())
    if json_lines:
        for entry in CATALOGUE.values():
            emit_json(_data(entry, pulled=entry.name in pulled))
        return
    rows = [("NAME", "PULLED", "MILLIONS", "ALGORITHM", "DESCRIPTION")]
    rows += [
        (
            entry.name,
            "yes" if entry.name in pulled else "no",
            f"{entry.parameters:g}",
            entry.algorithm if entry.kind == "whisper" else "-",
            entry.description,
        )
        for entry in CATALOGUE.values()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)]
        emit("  ".join([*cells, row[-1]]).rstrip() + "\n")


@app.command("pull")
def pull_model(
    *,
    name: Name,
    force: Annotated[
        bool, typer.Option("--force", help="Pull also if it is here, for example damaged.")
    ] = False,
) -> None:
    """Fetch a model and check its SHA-256."""
    model = store().pull(name, force=force, report=report_pull)
    say(f"{model.name}: verified, SHA-256 {model.sha256}, in {model.folder}")


@app.command("show")
def show_model(*, name: Name, json_lines: Json = False) -> None:
    """What is known of a model; if it is on this machine, its files are verified."""
    from stenopool.models import entry

    known = entry(name)
    here = store().verify(known.name) if known.name in store().pulled() else None
    data = _data(known, pulled=here is not None)
    if here:
        data |= {"folder": str(here.folder), "sha256": here.sha256}
    if json_lines:
        emit_json(data)
        return
    for key, value in data.items():
        shown = ", ".join(value) if isinstance(value, list) else value
        emit(f"{key}: {shown}\n")


def _data(entry: ModelEntry, *, pulled: bool) -> dict[str, Any]:
    return {
        "name": entry.name,
        "description": entry.description,
        "kind": entry.kind,
        "format": entry.format,
        "millions_of_parameters": entry.parameters,
        "multilingual": entry.multilingual,
        "algorithm": entry.algorithm,
        "chunk_seconds": entry.chunk_seconds,
        "licence": entry.licence,
        "sources": [str(source) for source in entry.sources],
        "pulled": pulled,
    }
