"""`steno models add|remove|promote|demote`: models of your own, and which one is the default."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stenopool.cli.console import emit, emit_json, open_stdout, report_pull, say
from stenopool.cli.jobs import print_table
from stenopool.cli.models import Json, Name, store
from stenopool.cli.options import DeviceName, EngineName, Quiet, Threads
from stenopool.decoding.languages import AUTO
from stenopool.errors import PromotionRefused, UnknownName, UsageError

if TYPE_CHECKING:
    from stenopool.evaluation.bench import Material, Standing
    from stenopool.evaluation.promotion import Bounds, Found
    from stenopool.models import LocalModel, Store


def add(
    *,
    model: Annotated[
        str, typer.Argument(help="Folder or file of a model, or a name.", metavar="MODEL")
    ],
    name: Annotated[str, typer.Option("--name", help="What to call it.")],
    licence: Annotated[
        str, typer.Option("--licence", help="Of its weights, for its card: such as `MIT`.")
    ] = "",
) -> None:
    """Register a model: a copy with a name and the next version; prints `NAME@N`.

    The name is that of the newest version wherever `--model` is taken, `NAME@1` that of the first.
    """
    from stenopool.models.card import registered_card
    from stenopool.models.facts import facts_of
    from stenopool.models.registry import check_name

    check_name(name)
    found = store().resolve(model, report=report_pull)
    told = facts_of(found)
    if licence:
        told["licence"] = licence
    version = store().registry.add(name, found, told, registered_card)
    say(f"registered in {store().registry.folder(version)}, from {model}")
    emit(f"{version}\n")


def remove(*, name: Name) -> None:
    """Delete a version of a registered model, `NAME@N`, or a pulled model; never the default."""
    from stenopool.models.registry import Version

    models = store()
    if not models.registry.has(name):
        models.remove(name)
        say(f"removed: {name}")
        return
    version: Version = models.registry.find(name)
    if str(version) != name:
        raise UsageError(
            f"`{name}` has versions, and which one is meant is not said",
            do=f"Name one, such as `{version}`",
        )
    if name in (models.default(), models.promotions.defaults()[-1]):
        raise UsageError(
            f"`{name}` is the default", do="Promote another, or `steno models demote` first"
        )
    models.registry.remove(version)
    say(f"removed: {name}")


def promote(
    *,
    name: Name,
    on: Annotated[
        list[str],
        typer.Option(
            "--on",
            metavar="DATA",
            help="Recordings with texts, as for `steno evaluate`; repeatable.",
        ),
    ],
    max_wer_increase: Annotated[
        float,
        typer.Option(
            "--max-wer-increase", help="Points of the word error rate that it may be worse by."
        ),
    ] = 0.5,
    min_speed: Annotated[
        float,
        typer.Option("--min-speed", min=0, help="Times as fast as the default it must be."),
    ] = 0.95,
    sure: Annotated[
        bool,
        typer.Option("--sure", help="Judge by the upper end of the increase's 95 % interval."),
    ] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each model.")] = 3,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Take only so many recordings, from the first.")
    ] = None,
    language: Annotated[
        str, typer.Option("--language", help="Of what is said, such as `en`.")
    ] = AUTO,
    engine: EngineName = "auto",
    device: DeviceName = "auto",
    threads: Threads = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Measure, and neither change nor record anything.")
    ] = False,
    json_lines: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a model the default of this machine, if it is as good and as fast as the present one.

    Both transcribe the recordings in turns. Outside the bounds nothing changes, and the exit status
    is 4; the decision is recorded either way.
    """
    from stenopool.evaluation.promotion import Bounds, judged, record
    from stenopool.models.promotions import PROMOTED, REFUSED

    open_stdout()  # here, not after an hour of work
    models = store()
    before = models.promotions.defaults()[-1]
    candidate = _named(models, name)
    if candidate == before:
        raise UsageError(f"`{candidate}` is the default already", do="See `steno models list`")
    pair = [_transcribes(models.resolve(one, report=report_pull)) for one in (before, candidate)]
    bounds = Bounds(max_wer_increase / 100, min_speed, sure)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stenopool-")))
        material = _material(on, limit, folder, stack)
        given = {"engine": engine, "device": device, "threads": threads}
        standings = _measured(
            (before, candidate), material, language, rounds, folder, given, quiet=quiet
        )
    found = judged(*standings, bounds)
    hashes = (pair[0].sha256, pair[1].sha256)
    told = record(standings, hashes, found, bounds, material, on)
    outcome = REFUSED if found.reasons else PROMOTED
    if not dry_run:
        models.promotions.write(outcome, candidate, told, instead_of=before)
    if json_lines:
        emit_json({"outcome": outcome, "model": candidate, "instead_of": before, **told})
    else:
        _show(standings, found)
    _conclude(candidate, before, found, bounds, dry_run=dry_run)


def demote() -> None:
    """Go back to the model that was the default before; prints its name."""
    from stenopool.models.promotions import DEMOTED

    models = store()
    *others, default = models.promotions.defaults()
    if not others:
        raise UsageError("no model was promoted", do="See `steno models list`")
    before = others[-1]
    models.pinned(before)  # refused where it was removed
    models.promotions.write(DEMOTED, default, {"back_to": before}, instead_of=default)
    emit(f"{before}\n")


def _named(models: Store, name: str) -> str:
    try:
        return models.pinned(name)
    except UnknownName as error:
        do = "Register it with `steno models add MODEL --name NAME`; see `steno models list`"
        raise UnknownName(error.what, do=do) from error


def _transcribes(model: LocalModel) -> LocalModel:
    if model.kind == "vad":
        raise UsageError(f"`{model.name}` does not transcribe", do="Name another model")
    return model


def _material(
    sources: list[str], limit: int | None, folder: Path, stack: ExitStack
) -> list[Material]:
    """The recordings in which something is said, and somebody wrote down what."""
    from stenopool.cli.bench import SHORT, check, materials

    check(sources, SHORT)
    found = [one for one in materials(sources, SHORT, limit, folder, stack) if one.recording.text]
    if not found:
        raise UsageError(
            f"no recording has a text in: {', '.join(sources)}",
            do="Give a manifest: JSONL lines with `audio` and `text`, or a LibriSpeech folder",
        )
    return found


def _measured(
    names: tuple[str, str],
    material: list[Material],
    language: str,
    rounds: int,
    folder: Path,
    given: dict[str, Any],
    *,
    quiet: bool,
) -> tuple[Standing, Standing]:
    from stenopool.cli.bench import patience
    from stenopool.decoding.options import Options
    from stenopool.evaluation.bench import bench, opening
    from stenopool.evaluation.systems import ours

    options, wait = replace(Options(), language=language), patience(material)
    systems = [ours(one, name=one, options=options, patience=wait, **given) for one in names]
    default, candidate = bench(
        systems,
        material,
        first=opening(material[0], folder),
        rounds=rounds,
        language=None if language == AUTO else language,
        tell=(lambda line: None) if quiet else say,
    )
    return default, candidate


def _show(standings: tuple[Standing, Standing], found: Found) -> None:
    from stenopool.evaluation.report import numbers

    def row(one: Standing) -> tuple[str, str, str, str]:
        memory = numbers.mebibytes(one.figures.peak_memory) if one.figures else numbers.NONE
        rate = numbers.percent(one.counts.wer if one.counts else None)
        return one.name, rate, numbers.number(one.speed, 1), memory

    ends = [found.wer.interval.low, found.wer.interval.high]
    spread = numbers.interval(ends, signed=True)
    change = f"{numbers.difference(found.wer.value)} ({spread})"
    rows = [row(one) for one in standings]
    print_table(
        [*rows, ("difference", change, f"{found.speed_ratio:.2f}x", "")],
        ("model", "WER %", "speed", "memory MB"),
    )


def _conclude(candidate: str, before: str, found: Found, bounds: Bounds, *, dry_run: bool) -> None:
    """Say what came of it.

    Raises:
        PromotionRefused: it is outside the bounds.
    """
    from stenopool.settings import settings

    if found.reasons:
        raise PromotionRefused(
            f"`{candidate}` does not take the place of `{before}`: {'; '.join(found.reasons)}",
            do="Train it further, or allow more: `--max-wer-increase`, `--min-speed`",
        )
    if not bounds.sure and found.wer.interval.high > bounds.max_wer_increase:
        say(
            f"the increase may be as much as {100 * found.wer.interval.high:.2f} points: more "
            "recordings would narrow the interval, and `--sure` insists on it"
        )
    if dry_run:
        say(f"`{candidate}` could be the default; nothing was changed")
        return
    say(f"`{candidate}` is the default now, instead of `{before}`")
    if settings().model:
        say(f"STENO_MODEL names `{settings().model}`, and wins where it is set")
