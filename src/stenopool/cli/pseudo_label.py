"""`steno data pseudo-label` and `steno data filter`: an archive without texts becomes data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stenopool.cli.console import ProgressBar, emit, emit_json, open_stdout, say
from stenopool.cli.options import DeviceName, EngineName, Quiet, Threads, loaded, with_options
from stenopool.decoding.options import Options

Json = Annotated[bool, typer.Option("--json", help="The summary as JSON on stdout.")]
Output = Annotated[Path, typer.Option(help="Folder for the manifest; made if it is missing.")]
OnBad = Annotated[
    str,
    typer.Option(help="What cannot be used: `skip` counts and lists it, `stop` names the first."),
]


@with_options
def pseudo_label(
    *,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="A manifest, or a folder of recordings without any texts."
        ),
    ],
    output: Output,
    teacher: Annotated[
        str, typer.Option(help="Name (see `steno models list`) or folder of a model.")
    ] = "base",
    engine: EngineName = "auto",
    device: DeviceName = "auto",
    threads: Threads = 0,
    on_bad: OnBad = "skip",
    json_lines: Json = False,
    quiet: Quiet = False,
    options: Options,
) -> None:
    """Let a teacher transcribe recordings, and pack what it hears into windows to learn from.

    Killed and run again, it goes on: no recording is transcribed twice.
    """
    from stenopool.training.examples import bad_items
    from stenopool.training.extras import check_extras
    from stenopool.training.pseudo_labels import pseudo_label as run

    check_extras(("rapidfuzz",))
    open_stdout()
    with ProgressBar(quiet=quiet) as bar:
        transcriber = loaded(teacher, options, engine=engine, device=device, threads=threads)
        bar.begin("transcribing")
        told = run(
            source,
            output,
            transcriber,
            options,
            bad=bad_items(on_bad),
            report=lambda seconds: bar.update(seconds, None),
        )
    if json_lines:
        emit_json(told)
        return
    emit(
        f"{told['windows']} windows, {told['window_hours']:.2f} h, of {told['recordings']} "
        f"recordings, {told['hours']:.2f} h; {told['words']} words\n"
        f"with a given text: {told['with_reference']}; without speech: {told['without_speech']}\n"
    )
    _tell_skipped(told["skipped"], quiet=quiet)


def filter_labels(
    *,
    source: Annotated[
        str, typer.Argument(metavar="MANIFEST", help="What `steno data pseudo-label` wrote.")
    ],
    output: Output,
    max_wer: Annotated[
        float,
        typer.Option(help="Word error rate against the given text, where there is one."),
    ] = 0.10,
    min_logprob: Annotated[
        float, typer.Option(help="Mean log-probability, where there is no given text.")
    ] = -1.0,
    max_compression: Annotated[
        float,
        typer.Option(help="How well the text may compress, where there is no given text: loops."),
    ] = 2.4,
    second: Annotated[
        str | None,
        typer.Option(help="Another model, which hears the windows that have no given text."),
    ] = None,
    max_disagreement: Annotated[
        float, typer.Option(help="Word error rate against the second model.")
    ] = 0.20,
    hold_out: Annotated[
        float,
        typer.Option(help="Share of the hours for `valid.jsonl`: whole speakers, unfiltered."),
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of those speakers.")] = 0,
    engine: EngineName = "auto",
    device: DeviceName = "auto",
    threads: Threads = 0,
    on_bad: OnBad = "skip",
    json_lines: Json = False,
    quiet: Quiet = False,
) -> None:
    """Keep the labels that are good to learn from; say what was dropped, and why."""
    from stenopool.evaluation.extras import check_extras
    from stenopool.training.examples import bad_items
    from stenopool.training.filter import DROPPED, Bounds
    from stenopool.training.filter import filter_labels as run

    check_extras(("jiwer", "rapidfuzz", "whisper_normalizer"))
    bounds = Bounds(
        max_wer=max_wer,
        min_logprob=min_logprob,
        max_compression=max_compression,
        max_disagreement=max_disagreement,
    )
    open_stdout()
    with ProgressBar(quiet=quiet) as bar:
        other = None
        if second is not None:
            other = loaded(second, Options(), engine=engine, device=device, threads=threads)
            bar.begin("second model")
        told = run(
            source,
            output,
            bounds,
            second=other,
            hold_out=hold_out,
            seed=seed,
            bad=bad_items(on_bad),
            report=lambda seconds: bar.update(seconds, None),
        )
    if json_lines:
        emit_json(told)
        return
    emit("".join(f"{line}\n" for line in _lines(told)))
    _tell_skipped(told["skipped"], quiet=quiet)
    if told["dropped"] and not quiet:
        say(f"what was dropped, and why: {output / DROPPED}")


def _lines(told: dict[str, Any]) -> list[str]:
    lines = [
        f"kept: {told['kept']} of {told['windows']} windows, {told['kept_hours']:.2f} of "
        f"{told['hours']:.2f} h"
    ]
    lines += [
        f"dropped for {reason}: {one['windows']} windows, {one['hours']:.2f} h"
        for reason, one in told["dropped"].items()
    ]
    if held := told["held_out"]["windows"]:
        lines.append(f"held out to measure with: {held} windows")
    if told["median_wer"] is not None:
        lines.append(
            f"word error rate of {told['with_reference']} windows with a given text: median "
            f"{told['median_wer']:.2%}"
        )
    return lines


def _tell_skipped(counts: dict[str, int], *, quiet: bool) -> None:
    if counts and not quiet:
        why = ", ".join(f"{number} {name}" for name, number in sorted(counts.items()))
        say(f"left out: {why}")
