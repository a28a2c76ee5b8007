"""JSONL manifests: one object a line, `audio` relative to the manifest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from stenopool.data.recording import OnBad, Recording, good, recording_of, unreadable
from stenopool.errors import UsageError

LONGEST_LINE = 1 << 24  # bytes; the reference of a day of speech has less than one MB


def manifest(path: Path, on_bad: OnBad | None = None) -> Iterator[Recording]:
    """The recordings of a JSONL manifest, line by line.

    Args:
        on_bad: takes note of a line that is no recording, which is then left out.

    Raises:
        InputUnreadable: the manifest cannot be read.
        UsageError: a line is no recording; it names the line.
    """

    def recording(numbered: tuple[int, bytes]) -> Recording:
        number, line = numbered
        where = f"`{path}`, line {number}"
        return recording_of(_object(line, where), path.parent, where)

    yield from good(_lines(path), recording, on_bad)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that hold something, with their numbers from 1."""
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(LONGEST_LINE):
                number += 1
                if len(line) == LONGEST_LINE:
                    raise UsageError(
                        f"`{path}`, line {number}: it has more than {LONGEST_LINE >> 20} MiB",
                        do="Write one recording a line",
                    )
                if line.strip():
                    yield number, line
    except OSError as error:
        raise unreadable(path, error) from error


def _object(line: bytes, where: str) -> dict[str, object]:
    try:
        found = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{where}: it is no JSON: {error}", do='Write lines like {"audio": "a.wav", "text": ""}'
        ) from error
    if not isinstance(found, dict):
        raise UsageError(f"{where}: it is no JSON object", do="Write one object a line")
    return found
