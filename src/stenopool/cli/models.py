"""`steno models`: what there is, what is here, and how to get it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stenopool.cli.console import emit, emit_json, report_pull, say

if TYPE_CHECKING:
    from stenopool.models import ModelEntry, Store

app = typer.Typer(help="Models: list, pull, show, export, package.", no_args_is_help=True)

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


@app.command("export")
def export_model(
    *,
    name: Annotated[
        str, typer.Argument(help="Name of a model, its folder or file.", metavar="MODEL")
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="transformers, openai, ggml, ctranslate2, onnx or openvino.",
            metavar="FORMAT",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="The folder to make; or a file, where the format is one."
        ),
    ],
    precision: Annotated[
        str,
        typer.Option(
            "--precision",
            help="float16, float32, int8, q8_0, q5_0 or all, where the format has it.",
            metavar="PRECISION",
        ),
    ] = "auto",
) -> None:
    """Write a Whisper model in the format of another project, with a card."""
    from stenopool.models.export import export

    for file in export(store().resolve(name, report=report_pull), to, output, precision):
        say(f"{output.name}: {file}")


@app.command("package")
def package_model(
    *,
    folder: Annotated[Path, typer.Argument(help="Folder of a model.", metavar="DIR")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The archive to write.")] = Path(
        "model.tar.gz"
    ),
    code: Annotated[
        list[Path] | None,
        typer.Option("--code", help="A file for `code/`, such as `inference.py`; repeatable."),
    ] = None,
) -> None:
    """Pack a model as SageMaker wants it: `model.tar.gz`, its files at the root."""
    from stenopool.models.package import package

    for name in package(folder, output, code or ()):
        say(f"{output.name}: {name}")


@app.command("unpack")
def unpack_model(
    *,
    archive: Annotated[Path, typer.Argument(help="A `model.tar.gz`.", metavar="ARCHIVE")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to make.")],
) -> None:
    """Unpack such an archive; what would lie outside the folder is refused."""
    from stenopool.models.package import unpack

    for name in unpack(archive, output):
        say(f"{output}: {name}")


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
