"""Pseudo-labels: a teacher hears an archive, and what it hears becomes windows to learn from.

Gandhi et al. 2023, "Distil-Whisper: Robust Knowledge Distillation via Large-Scale Pseudo
Labelling".
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stenopool.data import Recording, read
from stenopool.data.corrected import NOT_SOUND
from stenopool.data.sources import MANIFEST
from stenopool.decoding.options import Options
from stenopool.decoding.tokens import Vocabulary
from stenopool.errors import (
    Defect,
    InputError,
    InputNotFound,
    ResumeRefused,
    StenoError,
    UsageError,
)
from stenopool.files import make_folder, write_whole
from stenopool.models.files import sha256
from stenopool.training.examples import Bad
from stenopool.training.labels import TOKENIZER_DIGITS, LabelledWindow, line
from stenopool.training.ledger import Ledger
from stenopool.training.packing import packed, pieces
from stenopool.transcript import Transcript

if TYPE_CHECKING:
    from stenopool.decoding.transcriber import Transcriber

TRANSCRIPTS, TEACHER, SUMMARY = "transcripts.jsonl", "teacher.json", "summary.json"
TOKENIZER = "tokenizer.json"


@dataclass(slots=True)
class _Job:
    """The recordings of a source, and which of them are to be heard still."""

    recordings: list[Recording]
    keys: list[str]
    waiting: list[int] = field(default_factory=list)


def pseudo_label(
    source: str,
    output: Path,
    teacher: Transcriber,
    options: Options | None = None,
    *,
    bad: Bad,
    report: Callable[[float], None] = lambda seconds: None,
) -> dict[str, Any]:
    """Let a teacher transcribe a source, and pack what it hears into windows.

    What was transcribed before into the same folder is not transcribed again.

    Args:
        source: as `stenopool.data.read` knows it, or a folder of recordings.
        output: gets `manifest.jsonl`, `summary.json`, and the transcripts.
        teacher: of any kind, on any engine.
        options: of the transcription.
        bad: takes note of recordings that cannot be used, or raises.
        report: called with the seconds of audio that are done.

    Returns:
        What `summary.json` holds.

    Raises:
        InputError, UsageError: the source cannot be read.
        ResumeRefused: the folder was begun with another teacher or other options.
        Busy: another process writes to the folder.
        OutputError: the folder cannot take the files.
    """
    chosen = replace(options or Options(), word_timestamps=False)
    make_folder(output)
    _check_same(output, teacher, teacher.resolved(chosen))
    with Ledger(output / TRANSCRIPTS).claim() as ledger:
        job = _job(source, ledger, bad)
        heard = _hear(job, ledger, teacher, chosen, report)
        transcripts = _transcripts(job, ledger, bad)
        vocabulary, tokenizer = vocabulary_of(teacher.model.folder)
        found = chain.from_iterable(
            pieces(job.recordings[place], transcript, place) for place, transcript in transcripts
        )
        windows = list(packed(found, vocabulary, tokenizer))
        told = _summary(source, job, ledger, windows, bad) | {
            "teacher": asdict(teacher.info),
            "heard_now": heard,
        }
    write_whole(output / SUMMARY, json.dumps(told, ensure_ascii=False, indent=2) + "\n")
    write_whole(output / MANIFEST, "".join(f"{line(one, output)}\n" for one in windows))
    return told


def vocabulary_of(folder: Path) -> tuple[Vocabulary | None, str]:
    """The tokens of a Whisper model, and how its tokenizer is known; none for other models."""
    path = folder / TOKENIZER
    if not path.is_file():
        return None, ""
    return Vocabulary(path), sha256(path, "Pull the model again")[:TOKENIZER_DIGITS]


def recordings_of(source: str, bad: Bad) -> list[Recording]:
    """The recordings of a source; of a folder that says nothing of them, all files.

    Raises:
        InputError, UsageError: there is nothing to hear.
    """
    try:
        return list(read(source, on_bad=bad))
    except UsageError:
        folder = Path(source)
        if bad.counts or not folder.is_dir():
            raise
        found = list(_archive(folder))
        if not found:
            raise
        return found


def _archive(folder: Path) -> Iterator[Recording]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in name.parts)
        if path.is_file() and not hidden and path.suffix.lower() not in NOT_SOUND:
            yield Recording(id=name.as_posix(), audio=path)


def _check_same(output: Path, teacher: Transcriber, options: Options) -> None:
    """One folder has the labels of one teacher only.

    Raises:
        ResumeRefused: it was begun with another.
    """
    path = output / TEACHER
    wanted = json.loads(json.dumps({"teacher": asdict(teacher.info), "options": asdict(options)}))
    if not path.exists():
        write_whole(path, json.dumps(wanted, indent=2) + "\n")
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        different = [
            f"`{name}` was {before[part].get(name)!s:.40} and is {value!s:.40}"
            for part in wanted
            for name, value in wanted[part].items()
            if before[part].get(name) != value
        ]
    except (OSError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise ResumeRefused(
            f"`{path}` is damaged: {error!s:.200}", do="Begin anew in another folder"
        ) from error
    if different:
        raise ResumeRefused(
            f"`{output}` was begun otherwise: {', '.join(different)}",
            do="Give what it was begun with, or another folder",
        )


def _job(source: str, ledger: Ledger, bad: Bad) -> _Job:
    job = _Job([], [])
    for one in recordings_of(source, bad):
        if one.stored is not None:
            raise UsageError(
                f"`{source}` holds its audio inside its own files",
                do="Run `steno data prepare --copy` on it first",
            )
        try:
            size = one.audio.stat().st_size
        except OSError:
            bad(InputNotFound(f"`{source}`: no such file: `{one.audio}`", do="Check the path"))
            continue
        key = f"{one.audio.absolute()} {size}"  # a file that was replaced is heard again
        if not _is_done(ledger.done.get(key)):
            job.waiting.append(len(job.recordings))
        job.recordings.append(one)
        job.keys.append(key)
    return job


def _is_done(line: Mapping[str, Any] | None) -> bool:
    """Not, where trying again may help."""
    return line is not None and not line.get("error", {}).get("transient")


def _hear(
    job: _Job,
    ledger: Ledger,
    teacher: Transcriber,
    options: Options,
    report: Callable[[float], None],
) -> int:
    """Transcribe what waits; gives how many recordings that were."""
    done = sum(job.recordings[at].duration or 0.0 for at in range(len(job.keys))) - sum(
        job.recordings[at].duration or 0.0 for at in job.waiting
    )
    paths = [job.recordings[at].audio for at in job.waiting]
    results = teacher.transcribe_many(paths, options)
    for at, result in zip(job.waiting, results, strict=True):
        if isinstance(result, Defect):
            raise result
        if isinstance(result, StenoError):
            ledger.add(job.keys[at], {"error": result.record()})
            continue
        ledger.add(job.keys[at], {"transcript": result.to_dict()})
        done += result.duration
        report(done)
    return len(job.waiting)


def _transcripts(job: _Job, ledger: Ledger, bad: Bad) -> Iterator[tuple[int, Transcript]]:
    for place, key in enumerate(job.keys):
        found = ledger.done[key]
        if "error" in found:
            error = InputError(
                str(found["error"].get("message")), do="Check the recording, or leave it out"
            )
            bad(error, str(found["error"].get("code")))
            continue
        try:
            transcript = Transcript.from_dict(found["transcript"])
        except (KeyError, TypeError, ValueError) as error:
            raise ResumeRefused(
                f"a transcript of `{job.recordings[place].audio}` is not what we wrote: {error}",
                do=f"Remove `{TRANSCRIPTS}` and run again",
            ) from error
        yield place, transcript


def _summary(
    source: str, job: _Job, ledger: Ledger, windows: Sequence[LabelledWindow], bad: Bad
) -> dict[str, Any]:
    done = [ledger.done[key].get("transcript") for key in job.keys]
    heard = [one for one in done if one]
    flags = Counter(flag for one in windows for said in one.passages for flag in said.flags)
    return {
        "source": source,
        "recordings": len(job.recordings),
        "hours": round(sum(one["duration"] for one in heard) / 3600, 4),
        "without_speech": sum(not one["segments"] for one in heard),
        "skipped": dict(bad.counts),
        "reasons": bad.reasons,
        "windows": len(windows),
        "window_hours": round(sum(one.seconds for one in windows) / 3600, 4),
        "words": sum(len(one.text.split()) for one in windows),
        "with_reference": sum(one.reference is not None for one in windows),
        "flags": dict(flags),
    }
