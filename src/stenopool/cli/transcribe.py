"""`steno transcribe`: recordings to text, at once."""

from __future__ import annotations

import os
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stenopool.cli.console import (
    ProgressBar,
    complain,
    emit,
    emit_json,
    open_stdout,
    say,
)
from stenopool.cli.options import (
    Assistant,
    Attention,
    DeviceName,
    EngineName,
    ModelName,
    Quiet,
    Threads,
    loaded,
    with_options,
)
from stenopool.decoding.options import Options
from stenopool.errors import Defect, StenoError, UsageError

if TYPE_CHECKING:
    from stenopool.decoding.family import Alternatives
    from stenopool.decoding.transcriber import Transcriber
    from stenopool.transcript import Transcript


@with_options
def transcribe(
    *,
    paths: Annotated[list[Path], typer.Argument(help="Audio or video files.", metavar="PATH")],
    model: ModelName,
    engine: EngineName = "auto",
    device: DeviceName = "auto",
    threads: Threads = 0,
    attention: Attention = "",
    assistant: Assistant = "",
    format: Annotated[
        list[str] | None,
        typer.Option("--format", "-f", help="txt (default), srt, vtt, tsv or json; repeatable."),
    ] = None,
    output_dir: Annotated[
        Path | None,
        typer.Option("--output-dir", "-o", help="Write `NAME.FORMAT` here instead of to stdout."),
    ] = None,
    json_lines: Annotated[
        bool,
        typer.Option("--json", help="One JSON object for each recording on stdout."),
    ] = False,
    candidates: Annotated[
        int,
        typer.Option(
            "--candidates",
            min=0,
            max=100,
            help="With `--json`: so many texts that may have been said, with scores; CTC models.",
        ),
    ] = 0,
    quiet: Quiet = False,
    options: Options,
) -> None:
    """Transcribe recordings; the text goes to stdout, or to files in a folder."""
    if json_lines and format and output_dir is None:
        raise UsageError(
            "`--json` prints whole transcripts, in no other format",
            do="Give `--output-dir` for files in that format, or leave out `--format`",
        )
    if candidates and not json_lines:
        raise UsageError("`--candidates` are written as JSON", do="Give `--json` too")
    target = Target(tuple(dict.fromkeys(format or ["txt"])), output_dir, json_lines, quiet)
    target.check(paths)
    with ProgressBar(quiet=quiet) as bar:
        transcriber = loaded(
            model,
            options,
            engine=engine,
            device=device,
            threads=threads,
            attention=attention,
            assistant=assistant,
        )
        if candidates:  # refused before any work
            transcriber.family.alternatives(transcriber.resolved(options), candidates)
        results = zip(paths, _results(paths, transcriber, options, bar), strict=True)

        def more(path: Path) -> dict[str, Any]:
            if not candidates:
                return {}
            found = transcriber.alternatives(path, options, most=candidates)
            return {"alternatives": [_plain(one) for one in found]}

        statuses = [_given(path, result, target, more) for path, result in results]
    if status := max(statuses):
        raise typer.Exit(status)


@dataclass(frozen=True)
class Target:
    """Where transcripts go, in which formats."""

    formats: tuple[str, ...]
    folder: Path | None
    json_lines: bool
    quiet: bool

    def check(self, paths: list[Path]) -> None:
        """Refuse what cannot work before any work is done.

        Raises:
            UnknownName, UsageError, OutputError: by name.
        """
        from stenopool.files import make_folder
        from stenopool.writers import check_format

        for name in self.formats:
            check_format(name)
        if self.folder is None or self.json_lines:
            open_stdout()  # here, not after an hour of work
        if self.folder is None:
            if len(self.formats) > 1:
                raise UsageError(
                    "several formats on stdout", do="Give `--output-dir`, or one format"
                )
            return
        self._check_files(self.folder, paths)
        make_folder(self.folder)

    def _check_files(self, folder: Path, paths: list[Path]) -> None:
        """Each output has a file of its own, and none is a recording."""
        ((name, count),) = Counter(path.name for path in paths).most_common(1)
        if count > 1:
            raise UsageError(
                f"two recordings are named `{name}` and would share their output files",
                do="Transcribe them into different folders",
            )
        recordings = {identity for path in paths if (identity := _identity(path))}
        for file in (file for path in paths for _, file in self._files(folder, path)):
            if _identity(file) in recordings:
                raise UsageError(
                    f"the recording `{file}` would be overwritten by the text of another",
                    do="Choose another `--output-dir`",
                )

    def _files(self, folder: Path, path: Path) -> Iterator[tuple[str, Path]]:
        """Each format, and the file that a recording has in it."""
        from stenopool.pipeline.keys import with_suffix

        for name in self.formats:
            yield name, folder / with_suffix(path.name, f".{name}")

    def write(self, path: Path, transcript: Transcript) -> list[str]:
        """Write or print all formats; returns the paths of the files.

        Raises:
            OutputError: nothing of the file that failed is left.
        """
        from stenopool.files import write_whole
        from stenopool.writers import render

        documents = {name: render(transcript, name) for name in self.formats}
        if self.folder is None:
            if not self.json_lines:
                emit(documents[self.formats[0]])
            return []
        written = []
        for name, file in self._files(self.folder, path):
            write_whole(file, documents[name])
            written.append(os.fsdecode(file))
            if not self.quiet:
                say(written[-1])
        return written


def _identity(path: Path) -> tuple[int, int] | None:
    """What two names of one file have in common; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _results(
    paths: Sequence[Path], transcriber: Transcriber, options: Options, bar: ProgressBar
) -> Iterator[Transcript | StenoError]:
    """What becomes of each recording, in order; the bar shows the one that is waited for."""
    waited = paths[0]

    def progress(path: Path, done: float, total: float | None) -> None:
        if path == waited:
            bar.update(done, total)

    results = transcriber.transcribe_many(paths, options, progress=progress)
    for waited in paths:
        bar.begin(waited.name)
        result = next(results)
        bar.end()
        yield result


def _plain(found: Alternatives) -> dict[str, Any]:
    """As JSON."""
    texts = [
        {"text": one.text, "score": one.score, "logprob": one.logprob} for one in found.candidates
    ]
    return {"start": found.start, "end": found.end, "candidates": texts}


def _given(
    path: Path,
    result: Transcript | StenoError,
    target: Target,
    more: Callable[[Path], dict[str, Any]],
) -> int:
    """Write or print what became of a recording; returns its exit status.

    Args:
        more: what else there is to say of one that was transcribed.
    """
    from stenopool.decoding.transcriber import defect
    from stenopool.writers import document

    shown = os.fsdecode(path)
    try:
        if isinstance(result, StenoError):
            raise result
        files = target.write(path, result)
        added = more(path)
    except Exception as error:  # noqa: BLE001  it is told, recorded and in the exit status
        failure = error if isinstance(error, StenoError) else defect(path, error)
        if failure.__cause__ is not None and isinstance(failure, Defect):
            traceback.print_exception(failure.__cause__)
        complain(failure)
        if target.json_lines:
            emit_json({"path": shown, "status": "failed", "error": failure.record()})
        return failure.exit_status
    if target.json_lines:
        done = {"path": shown, "status": "transcribed", "files": files}
        emit_json({**done, "transcript": document(result), **added})
    return 0
