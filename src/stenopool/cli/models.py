"""`steno models`: what there is, what is here, and how to get it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stenopool.cli.console import emit, emit_json, report_pull, say
from stenopool.errors import ModelDamaged

if TYPE_CHECKING:
    from stenopool.models import LocalModel, ModelEntry, Store
    from stenopool.models.registry import Version

app = typer.Typer(
    help="Models: list, pull, add, promote, show, export, average, package.", no_args_is_help=True
)

Json = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]
Name = Annotated[str, typer.Argument(help="Name of a model.", metavar="NAME")]


def store() -> Store:
    """The models of this machine."""
    from stenopool.models import Store

    return Store()


@app.command("list")
def list_models(*, json_lines: Json = False) -> None:
    """The models that are known by name, which are on this machine, and which is the default."""
    from stenopool.models import CATALOGUE

    models = store()
    pulled, default = set(models.pulled()), models.default()
    found = [_data(entry, pulled=entry.name in pulled) for entry in CATALOGUE.values()]
    found += [_registered(models, version) for version in models.registry.all()]
    for one in found:
        one["default"] = one["name"] == default
    if json_lines:
        for one in found:
            emit_json(one)
        return
    rows = [("NAME", "HERE", "DEFAULT", "MILLIONS", "ALGORITHM", "DESCRIPTION")]
    rows += [
        (
            one["name"],
            "yes" if one["pulled"] else "no",
            "yes" if one["default"] else "",
            f"{one['millions_of_parameters']:g}",
            one["algorithm"] if one["kind"] == "whisper" else "-",
            one["description"],
        )
        for one in found
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
    from stenopool.models.registry import CARD

    models = store()
    if models.registry.has(name):
        data = _registered(models, models.registry.find(name))
        found = models.registry.verify(name)
        here: LocalModel | None = found
        data["card"] = str(found.folder / CARD)
        data["decisions"] = [
            f"{one['outcome']} {one['time']}" for one in models.promotions.of(data["name"])
        ]
    else:
        known = entry(name)
        here = models.verify(known.name) if known.name in models.pulled() else None
        data = _data(known, pulled=here is not None)
    data["default"] = data["name"] == models.default()
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

    model = store().resolve(name, report=report_pull)
    measured = store().promotions.of(model.name)
    for file in export(model, to, output, precision, measured=measured):
        say(f"{output.name}: {file}")


@app.command("average")
def average_models(
    *,
    names: Annotated[
        list[str], typer.Argument(help="Names or folders of models.", metavar="MODEL…")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to make.")],
) -> None:
    """Write the mean of trainings that began with the same weights: often better than each."""
    from stenopool.models.average import average

    average([store().resolve(name, report=report_pull) for name in names], output)
    say(f"{output}: the mean of {len(names)} models")


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


def _registered(models: Store, version: Version) -> dict[str, Any]:
    """As `_data` tells of a model of the catalogue."""
    try:
        record = models.registry.record(version)
        made = f"registered {record['time'][:10]}, of {record['source']['name']}"
    except ModelDamaged as error:
        record, made = {"kind": "whisper", "parameters": 0}, error.what
    return {
        "name": str(version),
        "description": made,
        "kind": record["kind"],
        "format": "ctranslate2" if record["kind"] == "whisper" else "transformers",
        "millions_of_parameters": round(record["parameters"] / 1e6, 1),
        "algorithm": "packed",
        "licence": record.get("licence"),
        "pulled": True,
    }


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
