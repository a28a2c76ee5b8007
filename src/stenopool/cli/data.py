"""`steno data`: recordings and their texts, checked before anything is learned from them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stenopool.cli.console import ProgressBar, emit, emit_json, open_stdout, say
from stenopool.cli.options import Quiet
from stenopool.cli.scorer import scorer

app = typer.Typer(help="Data sets: check, normalise, split.", no_args_is_help=True)
app.command("scorer")(scorer)

Json = Annotated[bool, typer.Option("--json", help="The summary as JSON on stdout.")]
Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE",
        help="JSONL, CSV or TSV; a LibriSpeech folder; recordings beside corrected transcripts, or "
        "a bucket of them; `hf:NAME[:[CONFIGURATION/]SPLIT]`; repeatable.",
    ),
]
Output = Annotated[Path, typer.Option(help="Folder for the manifests; made if it is missing.")]
Normalise = Annotated[
    str,
    typer.Option(help="Texts: `letters` (lower case, apostrophes and spaces), `lower`, or `none`."),
]
Split = Annotated[
    str,
    typer.Option(help="`none`; `keep`, by the source's field `split`; or shares like `80/10/10`."),
]
Mixed = Annotated[
    bool, typer.Option("--mixed-speakers", help="Let one speaker be in several splits.")
]
OnBad = Annotated[
    str,
    typer.Option(help="What cannot be used: `skip` counts and lists it, `stop` names the first."),
]
Copy = Annotated[bool, typer.Option("--copy", help="Put the audio into the folder too.")]


@app.command("prepare")
def prepare_data(
    *,
    sources: Sources,
    output: Output,
    normalise: Normalise = "letters",
    split: Split = "none",
    mixed_speakers: Mixed = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the splits.")] = 0,
    min_seconds: Annotated[float, typer.Option(help="Shorter recordings are bad.")] = 0.1,
    max_seconds: Annotated[float, typer.Option(help="Longer recordings are bad.")] = 30.0,
    on_bad: OnBad = "skip",
    copy: Copy = False,
    json_lines: Json = False,
    quiet: Quiet = False,
) -> None:
    """Hear every recording, and write manifests of those that are good to learn from."""
    from stenopool.data.prepare import SKIPPED, Preparation, prepare

    how = Preparation(
        normalise=normalise,
        split=split,
        mixed_speakers=mixed_speakers,
        seed=seed,
        shortest=min_seconds,
        longest=max_seconds,
        on_bad=on_bad,
        copy=copy,
    )
    open_stdout()
    with ProgressBar(quiet=quiet) as bar:
        bar.begin("listening")
        told = prepare(sources, output, how, lambda seconds: bar.update(seconds, None))
    if json_lines:
        emit_json(told)
    else:
        emit("".join(f"{line}\n" for line in _lines(told)))
    if told["skipped"] and not quiet:
        say(f"what was left out, and why: {output / SKIPPED}")


def _lines(told: dict[str, Any]) -> list[str]:
    """The summary for people."""
    seconds = told["seconds"]
    lines = [_row("all", told)]
    lines += [_row(name, one) for name, one in told["splits"].items()]
    if seconds:
        lines.append(
            f"seconds: {seconds['least']:g} to {seconds['most']:g}, median {seconds['median']:g}"
        )
    lines.append(f"characters: {''.join(told['characters']).strip()}")
    if told["skipped"]:
        counts = (f"{count} {reason}" for reason, count in sorted(told["skipped"].items()))
        lines.append(f"left out: {', '.join(counts)}")
    if told["without_speaker"]:
        lines.append(f"without a speaker: {told['without_speaker']}; each counts as its own")
    if told["perhaps_copies"]:
        lines.append(f"perhaps copies of each other: {len(told['perhaps_copies'])} groups")
    return lines


def _row(name: str, one: dict[str, Any]) -> str:
    return (
        f"{name}: {one['recordings']} recordings, {one['hours']:.2f} h, {one['words']} words, "
        f"{one['speakers']} speakers"
    )
