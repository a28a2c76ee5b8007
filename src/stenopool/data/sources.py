"""What names a set of recordings: a manifest, a table, a folder, or a data set of a hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stenopool.data.corrected import corrected, has_transcripts
from stenopool.data.huggingface import PREFIX, huggingface, is_saved
from stenopool.data.librispeech import TRANSCRIPTS, librispeech
from stenopool.data.manifest import manifest
from stenopool.data.recording import OnBad, Recording
from stenopool.data.tables import table
from stenopool.errors import InputNotFound, UsageError

MANIFEST = "manifest.jsonl"


def read(source: str | Path, *, on_bad: OnBad | None = None) -> Iterator[Recording]:
    """The recordings that a source names, one by one as they are asked for.

    Args:
        source: a JSONL manifest, a CSV or TSV table, a folder in LibriSpeech's form, with a
            `manifest.jsonl` or saved by `datasets`, `hf:NAME[:[CONFIGURATION/]SPLIT]`, or a folder
            of recordings and the transcripts that were made of them, and corrected.
        on_bad: takes note of a line that is no recording, which is then left out; it may raise.

    Raises:
        InputNotFound, InputUnreadable: there is nothing to read.
        UsageError: it is none of these, or one of its lines is no recording; it names the line.
    """
    if str(source).startswith(PREFIX):
        return huggingface(str(source))
    path = Path(source)
    if path.is_dir():
        return _folder(path, on_bad)
    if not path.exists():
        raise InputNotFound(f"no such manifest: `{source}`", do="Check the path")
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        return manifest(path, on_bad)
    if suffix in (".csv", ".tsv"):
        return table(path, on_bad)
    raise UsageError(
        f"`{source}` is no manifest",
        do="Give a .jsonl, .csv or .tsv file, a LibriSpeech folder, or hf:NAME:SPLIT",
    )


def _folder(folder: Path, on_bad: OnBad | None) -> Iterator[Recording]:
    if is_saved(folder):
        return huggingface(str(folder))
    if (folder / MANIFEST).is_file():
        return manifest(folder / MANIFEST, on_bad)
    if next(folder.rglob(TRANSCRIPTS), None):
        return librispeech(folder, on_bad)
    if has_transcripts(folder):
        return corrected(folder, on_bad)
    raise UsageError(
        f"`{folder}` holds no recordings with references",
        do=f"Put a `{MANIFEST}` into it, LibriSpeech's `{TRANSCRIPTS}`, or transcripts",
    )
