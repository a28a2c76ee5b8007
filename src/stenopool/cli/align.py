"""`steno align`: when each word of a text is spoken."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stenopool.cli.console import ProgressBar, emit, open_stdout
from stenopool.cli.options import Quiet, Threads

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stenopool.audio import Samples
    from stenopool.audio.media import Recording
    from stenopool.decoding.ctc.align import AlignedWord
    from stenopool.models import LocalModel
    from stenopool.transcript import Transcript

MOST_TEXT_BYTES = 20_000_000


def align(
    *,
    audio: Annotated[Path, typer.Argument(help="An audio or video file.", metavar="AUDIO")],
    text: Annotated[
        Path, typer.Argument(help="A file with what is said in it, UTF-8.", metavar="TEXT")
    ],
    model: Annotated[
        str, typer.Option("--model", help="Folder or name of a wav2vec 2.0 model with a CTC head.")
    ],
    format: Annotated[
        str, typer.Option("--format", "-f", help="json (default), txt, srt, vtt or tsv.")
    ] = "json",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write here instead of to stdout.")
    ] = None,
    threads: Threads = 0,
    quiet: Quiet = False,
) -> None:
    """Say when each word of a text is spoken in a recording, and how well it fits."""
    from stenopool.files import write_whole
    from stenopool.writers import check_format, render

    check_format(format)
    if output is None:
        open_stdout()
    words = _words(text)
    with ProgressBar(quiet=quiet) as bar:
        bar.begin(audio.name)
        found = aligned(audio, words, model, threads=threads, bar=bar)
        bar.end()
    document = render(found, format)
    if output is None:
        emit(document)
    else:
        write_whole(output, document)


def aligned(
    audio: Path, words: Sequence[str], model: str, *, threads: int, bar: ProgressBar
) -> Transcript:
    """The text as a transcript of the recording.

    Raises:
        InputError, ModelError, EngineError, UsageError: by name.
    """
    from stenopool import engines
    from stenopool.audio.media import Recording
    from stenopool.decoding.ctc.align import Aligner
    from stenopool.errors import UnsupportedOption
    from stenopool.models import Store
    from stenopool.settings import settings

    begun = time.perf_counter()
    found = Store().resolve(model)
    if found.kind != "ctc":
        raise UnsupportedOption(
            f"`{found.name}` is no CTC model, and cannot follow a text",
            do="Give the folder of a wav2vec 2.0 model with a CTC head",
        )
    aligner = Aligner.load(found.folder, engines.choose("openvino", threads=threads))
    with Recording(audio, max_hours=settings().max_hours) as recording:
        emissions = aligner.emissions(_heard(recording, bar))
        placed = aligner.words(emissions, words)
        wall = time.perf_counter() - begun
        kind = aligner.engine.name, aligner.engine.precision
        return _transcript(placed, recording, found, kind, wall)


def _heard(recording: Recording, bar: ProgressBar) -> Iterator[Samples]:
    for block in recording:
        yield block
        bar.update(recording.seconds, recording.claimed_seconds)


def _words(file: Path) -> list[str]:
    """The words of a text, each with the space before it."""
    from stenopool.errors import InputNotFound, UsageError

    try:
        with file.open("rb") as opened:
            data = opened.read(MOST_TEXT_BYTES + 1)
    except OSError as error:
        raise InputNotFound(
            f"cannot read `{file}`: {error.strerror}", do="Name a text file"
        ) from error
    if len(data) > MOST_TEXT_BYTES:
        raise UsageError(f"`{file}` is too long to be what is said", do="Name a text file")
    try:
        words = data.decode("utf-8-sig").split()
    except UnicodeDecodeError as error:
        raise UsageError(f"`{file}` is not UTF-8", do="Save the text as UTF-8") from error
    if not words:
        raise UsageError(f"`{file}` has no words", do="Write into it what is said")
    return [f" {word}" for word in words]


def _transcript(
    words: Sequence[AlignedWord],
    recording: Recording,
    model: LocalModel,
    kind: tuple[str, str],
    wall_seconds: float,
) -> Transcript:
    from math import log

    from stenopool.decoding.quality import Figures, compression_ratio
    from stenopool.decoding.readings import Reading
    from stenopool.decoding.sentences import segments
    from stenopool.transcript import Coverage, ModelInfo, Timing, Transcript, Word

    text = "".join(word.text for word in words).strip()
    chances = [word.probability for word in words if word.probability > 0]
    mean = sum(map(log, chances)) / len(chances) if chances else 0.0
    figures = Figures(mean, 0.0, compression_ratio(text), ())
    timed = tuple(Word(one.text, one.start, one.end, one.probability) for one in words)
    found = tuple(segments([Reading(timed, figures, 0.0, recording.seconds)], keep_words=True))
    spoken = sum(word.end - word.start for word in words)
    return Transcript(
        text=" ".join(segment.text for segment in found),
        language="und",
        language_probability=1.0,
        task="transcribe",
        duration=recording.seconds,
        segments=found,
        coverage=Coverage(spoken, spoken, 0.0),
        model=ModelInfo(model.name, model.sha256, *kind),
        timing=Timing(wall_seconds, wall_seconds / recording.seconds),
        flags=tuple(recording.flags),
    )
