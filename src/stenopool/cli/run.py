"""`steno run`: everything under a bucket's `input/` becomes transcripts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache, partial
from typing import TYPE_CHECKING, Annotated

import typer

from stenopool.cli.console import ProgressBar, clock, emit_json, open_stdout, say
from stenopool.cli.options import (
    DeviceName,
    EngineName,
    ModelName,
    Quiet,
    Threads,
    loaded,
    with_options,
)
from stenopool.decoding.options import Options
from stenopool.errors import UnsupportedOption

if TYPE_CHECKING:
    from stenopool.bucket import Bucket
    from stenopool.decoding.transcriber import Transcriber
    from stenopool.pipeline.once import FileResult, Summary, Transcribe

FORMATS = ("txt", "srt", "vtt", "json")


@with_options
def run(
    *,
    bucket: Annotated[str, typer.Option("--bucket", help="Folder, or `file://` URL of one.")],
    once: Annotated[bool, typer.Option("--once", help="Do what is there now, then exit.")] = False,
    model: ModelName = "base",
    engine: EngineName = "auto",
    device: DeviceName = "auto",
    threads: Threads = 0,
    format: Annotated[
        list[str] | None,
        typer.Option("--format", "-f", help="Repeatable; txt, srt, vtt and json by default."),
    ] = None,
    json_lines: Annotated[
        bool, typer.Option("--json", help="One JSON object for each recording on stdout.")
    ] = False,
    quiet: Quiet = False,
    options: Options,
) -> None:
    """Transcribe `input/` of a bucket into `output/`; inputs move to `processed/` or `failed/`."""
    from stenopool.bucket import Bucket
    from stenopool.pipeline.once import run_once

    if not once:
        raise UnsupportedOption(
            "`steno run` cannot watch a bucket yet", do="Add `--once`, for example from cron"
        )
    if json_lines:
        open_stdout()  # here, not after an hour of work
    opened = Bucket.open(bucket)
    with ProgressBar(quiet=quiet) as bar:
        load = partial(loaded, model, options, engine=engine, device=device, threads=threads)
        transcribe = _transcribe(opened, cache(load), options)
        formats: Sequence[str] = format or FORMATS
        talk = _Talk(bar, quiet=quiet, json_lines=json_lines)
        summary = run_once(opened, transcribe, formats, talk)
        if not quiet:
            say(_summary(summary))
    if json_lines:
        emit_json({"summary": asdict(summary)})
    if summary.exit_status:
        raise typer.Exit(summary.exit_status)


def _transcribe(bucket: Bucket, load: Callable[[], Transcriber], options: Options) -> Transcribe:
    """Loads the model at once if there is something to do, else when it is first needed.

    Raises:
        UnknownName, ModelError, EngineError: here, once, and not for each recording.
    """
    from stenopool.pipeline.keys import INPUT, is_recording

    if any(is_recording(key) for key in bucket.keys(INPUT)):
        load()
    return lambda path, progress: load().transcribe(path, options, progress=progress)


class _Talk:
    """Tells a person on stderr, and a program on stdout, what happens to each recording."""

    def __init__(self, bar: ProgressBar, *, quiet: bool, json_lines: bool) -> None:
        self._bar = bar
        self._quiet = quiet
        self._json_lines = json_lines

    def found(self, key: str) -> None:
        self._bar.begin(key)

    def progress(self, key: str, done_seconds: float, total_seconds: float | None) -> None:
        self._bar.update(done_seconds, total_seconds)

    def finished(self, result: FileResult) -> None:
        self._bar.end()
        if result.error or not self._quiet:
            for line in _lines(result):
                say(line)
        if self._json_lines:
            emit_json(_data(result))


def _lines(result: FileResult) -> list[str]:
    if result.error:
        outcome = "stays in input/" if result.outcome == "left" else "moved to failed/"
        what = f"{result.key}: {outcome}: error[{result.error.code}]: {result.error.what}"
        return [what, f"hint: {result.error.do}"]
    if result.transcript is None:
        return [f"{result.key}: finished what an earlier run had transcribed"]
    duration, timing = result.transcript.duration, result.transcript.timing
    flags = f" [{', '.join(result.transcript.flags)}]" if result.transcript.flags else ""
    return [
        f"{result.key}: {clock(duration)} of audio in {timing.wall_seconds:.1f} s, "
        f"real-time factor {timing.real_time_factor:.3f}{flags}"
    ]


def _data(result: FileResult) -> dict[str, object]:
    transcript = result.transcript
    return {
        "key": result.key,
        "outcome": result.outcome,
        "outputs": result.outputs,
        "duration": transcript and transcript.duration,
        "timing": transcript and asdict(transcript.timing),
        "model": transcript and asdict(transcript.model),
        "flags": transcript and transcript.flags,
        "error": result.error and result.error.record(),
    }


def _summary(summary: Summary) -> str:
    return f"{summary.transcribed} transcribed, {summary.failed} failed, {summary.left} left"
