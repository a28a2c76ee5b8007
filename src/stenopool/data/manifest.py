"""JSONL manifests: one object a line, `audio` relative to the manifest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stenopool.data.recording import OnBad, Recording, good, recording_of, unreadable
from stenopool.errors import UsageError

_WRITE = 'Write one object a line, like {"audio": "a.wav", "text": ""}'
LONGEST_LINE = 1 << 24  # bytes; the reference of a day of speech has less than one MB


def manifest(path: Path, on_bad: OnBad | None = None) -> Iterator[Recording]:
    """The recordings of a JSONL manifest, line by line.

    Args:
        on_bad: takes note of a line that is no recording, which is then left out.

    Raises:
        InputUnreadable: the manifest cannot be read.
        UsageError: a line is no recording; it names the line.
    """

    def recording(one: tuple[str, bytes]) -> Recording:
        where, line = one
        return recording_of(json_object(line, where), path.parent, where)

    yield from good(lines_of(path), recording, on_bad)


def lines_of(path: Path) -> Iterator[tuple[str, bytes]]:
    """Lines that hold something, and what to call each.

    Raises:
        InputUnreadable: the file cannot be read.
        UsageError: a line is longer than any recording needs.
    """
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(LONGEST_LINE):
                number += 1
                where = f"`{path}`, line {number}"
                if len(line) == LONGEST_LINE:
                    raise UsageError(
                        f"{where}: it has more than {LONGEST_LINE >> 20} MiB",
                        do="Write one recording a line",
                    )
                if line.strip():
                    yield where, line
    except OSError as error:
        raise unreadable(path, error) from error


def json_object(line: bytes, where: str, do: str = _WRITE) -> dict[str, Any]:
    """The object of a line.

    Raises:
        UsageError: it is none.
    """
    try:
        found = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: it is no JSON: {error}", do=do) from error
    if not isinstance(found, dict):
        raise UsageError(f"{where}: it is no JSON object", do=do)
    return found
