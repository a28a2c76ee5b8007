"""`steno doctor`: what is installed, what would be used and why, what is missing."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer

from stenopool.cli.console import emit, emit_json
from stenopool.cli.models import store
from stenopool.cli.options import ModelName
from stenopool.errors import EngineMissing, OutputUnwritable, StenoError, UnknownName

PACKAGES = ("av", "numpy", "tokenizers")
ENGINES = {
    "openvino": "inference on x86 CPUs: pip install openvino",
    "ctranslate2": "inference on NVIDIA GPUs and ARM: pip install 'stenopool[ctranslate2]'",
}
OPTIONAL = {
    "matplotlib": "`steno evaluate`: pip install 'stenopool[evaluate]'",
    "torch": "training and `--engine torch`: pip install 'stenopool[train]'",
}
ROOMY_BYTES = 2 << 30


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    `status` is `ok`, `missing` (not needed yet), `low` (space) or `error` (it cannot work).
    """

    subject: str
    status: str
    detail: str
    exit_status: int = 0


def doctor(
    *,
    model: ModelName,
    json_lines: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Check this machine: packages, engine and precision, models, disk."""
    findings = list(_findings(model))
    if json_lines:
        for one in findings:
            emit_json(asdict(one))
    else:
        width = max(len(one.subject) for one in findings)
        for one in findings:
            emit(f"{one.status:<8}{one.subject.ljust(width)}  {one.detail}\n")
    if worst := max(one.exit_status for one in findings):
        raise typer.Exit(worst)


def _findings(model: str) -> Iterator[Finding]:
    from stenopool.models import DETECTOR

    yield Finding("python", "ok", f"{platform.python_version()} at {sys.executable}")
    for package in PACKAGES:
        installed = _version(package)
        yield Finding(
            package,
            "ok" if installed else "error",
            installed or "not installed: run `pip install --force-reinstall stenopool`",
            exit_status=0 if installed else EngineMissing.exit_status,
        )
    for package, use in (ENGINES | OPTIONAL).items():
        installed = _version(package)
        yield Finding(package, "ok" if installed else "missing", installed or use)
    yield _checked("cpu", _cpu)
    yield _checked("engine", _engine)
    for name in dict.fromkeys((model, DETECTOR)):
        yield _checked(f"model {name}", partial(_model, name))
    yield _checked("models folder", _folder)


def _checked(subject: str, check: Callable[[], tuple[str, str]]) -> Finding:
    try:
        return Finding(subject, *check())
    except StenoError as error:
        return Finding(subject, "error", f"{error.what}. {error.do}", error.exit_status)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu() -> tuple[str, str]:
    from stenopool.engines import usable_cores

    return "ok", f"{usable_cores()} usable cores, {platform.machine()}"


def _engine() -> tuple[str, str]:
    from stenopool.engines import choose

    one = choose()
    cores = f" on {one.threads} threads" if one.device == "cpu" else ""
    return "ok", f"{one.engine}, {one.device}, {one.precision}{cores}: {one.why}"


def _model(name: str) -> tuple[str, str]:
    from stenopool.models import entry

    try:
        known = entry(name)
    except UnknownName:  # then it is a folder, or `resolve` refuses it
        found = store().resolve(name)
        return "ok", f"SHA-256 {found.sha256[:12]}…, not from the catalogue, in {found.folder}"
    if known.name not in store().pulled():
        return "missing", f"pulled on first use, or now with `steno models pull {known.name}`"
    found = store().verify(known.name)
    return "ok", f"SHA-256 {found.sha256[:12]}… verified, in {found.folder}"


def _folder() -> tuple[str, str]:
    folder = store().root
    there: Path = next(one for one in (folder, *folder.parents) if one.exists())
    free = shutil.disk_usage(there).free
    if not os.access(there, os.W_OK):
        raise OutputUnwritable(
            f"`{folder}` cannot be written", do="Set STENO_MODELS_DIR to another folder"
        )
    status = "ok" if free >= ROOMY_BYTES else "low"
    return status, f"{folder}, {free / 1e9:.1f} GB free"
