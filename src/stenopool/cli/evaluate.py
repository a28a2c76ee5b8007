"""`steno evaluate`: what models are worth, measured on recordings whose words are known."""

from __future__ import annotations

import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stenopool.cli.console import (
    ProgressBar,
    emit,
    emit_json,
    open_stdout,
    printable,
    report_pull,
    say,
)
from stenopool.cli.options import (
    Assistant,
    Attention,
    DeviceName,
    Quiet,
    Threads,
    default_model,
    with_options,
)
from stenopool.cli.peers import Peers, language_of, orders
from stenopool.decoding.languages import AUTO
from stenopool.decoding.options import Options
from stenopool.errors import UnknownName

if TYPE_CHECKING:
    from stenopool.data import Recording
    from stenopool.evaluation.conditions import Condition
    from stenopool.evaluation.report import Document
    from stenopool.evaluation.run import Evaluation, Plan
    from stenopool.evaluation.systems import System

SHORT, LONG = "short", "long"
EVERY = "all"


Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="MANIFEST",
        help="JSONL, CSV or TSV; a LibriSpeech folder; `hf:NAME[:[CONFIGURATION/]SPLIT]`.",
    ),
]
Models = Annotated[
    list[str] | None,
    typer.Option(help="Name or folder of a model; repeatable, the first is the baseline."),
]
Engines = Annotated[list[str] | None, typer.Option(help="Engine of each model; repeatable.")]
Conditions = Annotated[
    list[str] | None,
    typer.Option(
        help="`clean` (default), `telephone`, `noise-10` and so on, or `all`; repeatable."
    ),
]
Form = Annotated[
    str, typer.Option(help="`short`: recordings as they are; `long`: chapters joined to one each.")
]
Limit = Annotated[
    int | None, typer.Option(min=1, help="Take only so many recordings, from the first.")
]
Seed = Annotated[int, typer.Option(min=0, help="Of the conditions and the intervals.")]
Together = Annotated[bool, typer.Option("--together", help="Let systems batch across recordings.")]
ReportFolder = Annotated[
    Path | None, typer.Option(help="Write `report.html` and `report.json` into this folder.")
]
Json = Annotated[
    bool, typer.Option("--json", help="The whole report as JSON on stdout instead of tables.")
]


@with_options
def evaluate(
    *,
    sources: Sources,
    model: Models = None,
    engine: Engines = None,
    device: DeviceName = "auto",
    threads: Threads = 0,
    attention: Attention = "",
    assistant: Assistant = "",
    condition: Conditions = None,
    peers: Peers = None,
    form: Form = SHORT,
    limit: Limit = None,
    seed: Seed = 0,
    together: Together = False,
    report: ReportFolder = None,
    json_lines: Json = False,
    quiet: Quiet = False,
    options: Options,
) -> None:
    """Measure models on recordings with references: word error rate with intervals, and speed."""
    from stenopool.evaluation.report import document, write
    from stenopool.evaluation.run import Plan
    from stenopool.evaluation.systems import ours, peer

    conditions = _checked(condition or [], form, report)
    others = orders(peers or [], quiet=quiet)
    models = model or [default_model()]
    with tempfile.TemporaryDirectory(prefix="stenopool-") as folder:
        recordings = _recordings(sources, Path(folder), form, limit, quiet=quiet)
        if others:  # peers do not find out by themselves what is spoken, so nobody has to
            options = replace(options, language=language_of(options.language, recordings))
        own = partial(
            ours,
            device=device,
            threads=threads,
            options=options,
            report=report_pull,
            attention=attention,
            assistant=assistant,
        )
        other = partial(
            peer, model=models[0], threads=threads, language=options.language, report=report_pull
        )
        pairs = dict.fromkeys(product(models, engine or [AUTO]))
        systems = [own(name, engine=on) for name, on in pairs] + [other(name) for name in others]
        language = None if options.language == AUTO else options.language
        plan = Plan(recordings, conditions, language, together, seed)
        found = _evaluated(plan, systems, quiet=quiet)
    made = document(found, command=shlex.join(["steno", *sys.argv[1:]]), sources=sources)
    for path in write(made, report) if report else []:
        if not quiet:
            say(str(path))
    _show(made, as_json=json_lines)
    if status := _worst_status(found):
        raise typer.Exit(status)


def _checked(names: Sequence[str], form: str, report: Path | None) -> list[Condition]:
    """The conditions; refuses what cannot work before any work is done."""
    from stenopool.evaluation.conditions import ALL, CLEAN, condition
    from stenopool.evaluation.extras import check_extras
    from stenopool.files import make_folder

    check_extras()
    if form not in (SHORT, LONG):
        raise UnknownName(f"unknown form: `{form}`", do=f"Use one of: {SHORT}, {LONG}")
    open_stdout()  # here, not after an hour of work
    chosen = chain.from_iterable(ALL if name == EVERY else [name] for name in names or [CLEAN])
    conditions = [condition(name) for name in dict.fromkeys(chosen)]
    if report:
        make_folder(report)
    return conditions


def _recordings(
    sources: Iterable[str], folder: Path, form: str, limit: int | None, *, quiet: bool
) -> list[Recording]:
    """Those with a reference, joined if asked; says how many have none."""
    from stenopool.data import joined, read
    from stenopool.evaluation.report.numbers import counted

    without = 0

    def with_reference(found: Iterable[Recording]) -> Iterator[Recording]:
        nonlocal without
        for one in found:
            if one.text is None:
                without += 1
            else:
                yield one

    found: Iterator[Recording] = with_reference(
        chain.from_iterable(read(source) for source in sources)
    )
    if form == LONG:
        found = joined(found, folder)
    recordings = list(islice(found, limit))
    if without and not quiet:
        are = "is" if without == 1 else "are"
        say(f"{counted(without, 'recording')} without a reference {are} left out")
    return recordings


def _evaluated(plan: Plan, systems: Sequence[System], *, quiet: bool) -> Evaluation:
    from stenopool.evaluation.report.numbers import counted
    from stenopool.evaluation.run import evaluate

    nameless = sum(not (one.language or plan.language) for one in plan.recordings)
    if nameless and not quiet:
        names = "names" if nameless == 1 else "name"
        say(
            f"{counted(nameless, 'recording')} {names} no language, so that Whisper's basic "
            "normaliser compares them: `--language en` is for the English one"
        )
    with ProgressBar(quiet=quiet) as bar:
        shown = ""

        def progress(task: str, done: float, total: float | None) -> None:
            nonlocal shown
            if task != shown:
                bar.begin(task)
                shown = task
            bar.update(done, total)

        return evaluate(plan, systems, progress=progress)


def _show(report: Document, *, as_json: bool) -> None:
    from stenopool.evaluation.report import tables
    from stenopool.evaluation.report.table import WIDE

    if as_json:
        emit_json(report)
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDE
    emit(tables(report, width=width, shown=printable))


def _worst_status(evaluation: Evaluation) -> int:
    """As other commands: that of the recording that failed worst."""
    from stenopool.evaluation.systems import recorded

    errors = (one.answer.error for result in evaluation.results for one in result.outcomes)
    return max((recorded(error).exit_status for error in errors if error), default=0)
