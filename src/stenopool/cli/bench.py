"""`steno bench`: how fast it is here, beside other projects on the same weights."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stenopool.cli.console import emit, emit_json, open_stdout, printable, report_pull, say
from stenopool.cli.options import ModelName, Quiet, Threads, with_options
from stenopool.cli.peers import Peers, language_of, orders
from stenopool.decoding.languages import AUTO
from stenopool.decoding.options import Options
from stenopool.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from stenopool.data import Recording
    from stenopool.evaluation.bench import Material, Standing
    from stenopool.evaluation.bench_report import Setting
    from stenopool.evaluation.systems import System

SHORT, LONG = "short", "long"
MANIFESTS = (".jsonl", ".ndjson", ".csv", ".tsv")
PATIENCE = 600.0  # seconds that every answer may take
PATIENCE_BY_LENGTH = 30.0  # more seconds for each second of the longest recording

Sources = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PATH",
        help="Recordings, or sets of them: JSONL, CSV, TSV, a folder, `hf:NAME:SPLIT`.",
    ),
]
Engines = Annotated[list[str] | None, typer.Option("--engine", help="Engine of ours; repeatable.")]
Rounds = Annotated[int, typer.Option(min=1, help="Turns of each system.")]
Form = Annotated[
    str, typer.Option(help="`short`: recordings as they are; `long`: chapters joined to one each.")
]
Limit = Annotated[
    int | None, typer.Option(min=1, help="Take only so many recordings, from the first.")
]
Together = Annotated[
    bool, typer.Option("--together", help="Give each system all recordings in one call.")
]
Json = Annotated[bool, typer.Option("--json", help="All figures as JSON on stdout.")]


@with_options
def bench(
    *,
    sources: Sources = None,
    model: ModelName,
    engine: Engines = None,
    peers: Peers = None,
    rounds: Rounds = 3,
    threads: Threads = 0,
    form: Form = SHORT,
    limit: Limit = None,
    together: Together = False,
    json_lines: Json = False,
    quiet: Quiet = False,
    options: Options,
) -> None:
    """Measure speed on the CPU, in turns with other projects: same weights, files and threads.

    Options of the transcription are ours; each peer has the defaults of its project.
    """
    from stenopool.engines import usable_cores
    from stenopool.evaluation.bench_report import Setting, document
    from stenopool.evaluation.machine import machine

    check(sources or [], form)
    others = orders(peers or [], quiet=quiet)
    cores = min(threads or usable_cores(), usable_cores())
    command = shlex.join(["steno", *map(os.fsdecode, sys.argv[1:])])
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stenopool-")))
        material = materials(sources or [], form, limit, folder, stack)
        setting = Setting(
            command,
            model,
            cores,
            language_of(options.language, (one.recording for one in material)),
            rounds,
            together=together,
        )
        systems = _systems(setting, engine or [AUTO], others, options, patience(material))
        found = _measured(systems, material, setting, folder, quiet=quiet)
    _show(document(found, material, setting, machine()), as_json=json_lines)
    if status := _worst_status(found):
        raise typer.Exit(status)


def check(sources: Sequence[str], form: str) -> None:
    from stenopool.evaluation.extras import check_extras

    if form not in (SHORT, LONG):
        raise UnknownName(f"unknown form: `{form}`", do=f"Use one of: {SHORT}, {LONG}")
    if not sources:
        raise UsageError(
            "there is nothing to transcribe: no recording was given",
            do="Give recordings, or for the word error rate a manifest: JSONL lines with `audio` "
            "and `text`, or a LibriSpeech folder",
        )
    check_extras(("jiwer", "whisper_normalizer"))
    open_stdout()  # here, not after an hour of work


def materials(
    sources: Sequence[str], form: str, limit: int | None, folder: Path, stack: ExitStack
) -> list[Material]:
    """The recordings with their lengths; their files exist as long as the stack."""
    from stenopool.data import joined
    from stenopool.evaluation.bench import measured

    found: Iterator[Recording] = chain.from_iterable(_read(source) for source in sources)
    if form == LONG:
        found = joined(found, folder)
    material = [
        measured(one, stack.enter_context(one.file(folder))) for one in islice(found, limit)
    ]
    if not material:
        raise UsageError(
            f"there is no recording in: {', '.join(sources)}", do="Give another manifest"
        )
    return material


def _read(source: str) -> Iterator[Recording]:
    """A recording, or those of a set."""
    from stenopool.data import Recording, read

    path = Path(source)
    if path.is_file() and path.suffix.lower() not in MANIFESTS:
        return iter([Recording(id=path.name, audio=path)])
    return read(source)


def patience(material: Sequence[Material]) -> float:
    """Seconds that a system may take for an answer before it counts as hung."""
    return PATIENCE + PATIENCE_BY_LENGTH * max(one.seconds for one in material)


def _systems(
    setting: Setting,
    engines: Sequence[str],
    others: Sequence[str],
    options: Options,
    patience: float,
) -> list[System]:
    """Ours on each engine, then the peers."""
    from stenopool.evaluation.systems import ours, peer

    model, threads, language = setting.model, setting.threads, setting.language
    spoken = replace(options, language=language)
    own = partial(ours, model, device="cpu", threads=threads, options=spoken, patience=patience)
    other = partial(peer, threads=threads, language=language, patience=patience)
    systems = [own(engine=engine, report=report_pull) for engine in dict.fromkeys(engines)]
    return [*systems, *(other(order, model) for order in others)]


def _measured(
    systems: Sequence[System],
    material: Sequence[Material],
    setting: Setting,
    folder: Path,
    *,
    quiet: bool,
) -> list[Standing]:
    from stenopool.evaluation.bench import bench, opening

    return bench(
        systems,
        material,
        first=opening(material[0], folder),
        rounds=setting.rounds,
        language=setting.language,
        together=setting.together,
        tell=(lambda line: None) if quiet else say,
    )


def _show(report: dict[str, object], *, as_json: bool) -> None:
    from stenopool.evaluation.bench_report import WIDE, text

    if as_json:
        emit_json(report)
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDE
    for line in text(report, width=width).splitlines():
        emit(f"{printable(line).rstrip()}\n")


def _worst_status(standings: Sequence[Standing]) -> int:
    """As other commands: that of the worst error, of a system or a recording."""
    from stenopool.evaluation.systems import exit_status

    codes = chain.from_iterable(turn.failed for one in standings for turn in one.turns)
    ended = (str(one.error["code"]) for one in standings if one.error)
    return max(map(exit_status, chain(codes, ended)), default=0)
