"""CSV and TSV tables with a header; Common Voice's `validated.tsv` with its `clips/`."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from stenopool.data.recording import NAMES, OnBad, Recording, good, recording_of, unreadable
from stenopool.errors import UsageError

CLIPS = "clips"  # where Common Voice has the files that its tables name


class Rows(Protocol):
    """What `csv.reader` gives."""

    line_num: int

    def __next__(self) -> list[str]: ...
    def __iter__(self) -> Iterator[list[str]]: ...


def table(path: Path, on_bad: OnBad | None = None) -> Iterator[Recording]:
    """The recordings of a table, row by row.

    A `.tsv` is taken literally, quotes included, as Common Voice writes it; a `.csv` is separated
    by commas or semicolons and may quote.

    Raises:
        InputUnreadable: the table cannot be read.
        UsageError: it has no column for the audio, or a row is no recording; it names the line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from _rows(path, file, on_bad)
    except OSError as error:
        raise unreadable(path, error) from error


def _rows(path: Path, lines: Iterator[str], on_bad: OnBad | None) -> Iterator[Recording]:
    line = 1
    try:
        header = next(lines, "")
        rows = _reader(path, header, lines)
        columns = [one.strip().lower() for one in next(_reader(path, header, iter([header])), [])]
        folder = _folder(path, columns)

        def recording(numbered: tuple[int, list[str]]) -> Recording:
            nonlocal line
            line, row = numbered
            where = f"`{path}`, line {line}"
            if len(row) != len(columns):
                raise UsageError(
                    f"{where}: it has {len(row)} columns, the header {len(columns)}",
                    do="Quote what contains the separator",
                )
            return recording_of(dict(zip(columns, row, strict=True)), folder, where)

        # One is the header's.
        numbered = ((rows.line_num + 1, row) for row in rows if row)
        yield from good(numbered, recording, on_bad)
    except (csv.Error, UnicodeDecodeError) as error:
        raise UsageError(
            f"`{path}`, after line {line}: {error}",
            do="Save the table as UTF-8; long texts belong into a JSONL manifest",
        ) from error


def _reader(path: Path, header: str, lines: Iterator[str]) -> Rows:
    if path.suffix.lower() == ".tsv":
        return csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    semicolons = ";" in header and "," not in header
    return csv.reader(lines, delimiter=";" if semicolons else ",", strict=True)


def _folder(path: Path, columns: list[str]) -> Path:
    if not set(columns) & set(NAMES["audio"]):
        raise UsageError(
            f"`{path}` has no column for the audio: {', '.join(columns) or 'it is empty'}",
            do=f"Begin it with a line that names one of: {', '.join(NAMES['audio'])}",
        )
    clips = path.parent / CLIPS
    return clips if "client_id" in columns and clips.is_dir() else path.parent
