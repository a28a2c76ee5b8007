"""Text for reading (`txt`), a table for spreadsheets and scripts (`tsv`), everything (`json`)."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from typing import Any
from unicodedata import category

from stenopool.transcript import Transcript

_TIMES = ("start", "end", "duration")
_DECIMALS = 3  # milliseconds: finer than the 20 ms that the model resolves


def one_line(text: str) -> str:
    """The text without control characters, each run of white space as one space, none around."""
    visible = (letter for letter in text if letter.isspace() or category(letter) != "Cc")
    return " ".join("".join(visible).split())


def milliseconds(seconds: float) -> int:
    """Seconds as whole milliseconds.

    Raises:
        ValueError: the time is not finite.
    """
    if not math.isfinite(seconds):
        raise ValueError(f"a time is not a finite number: {seconds}")
    return round(Fraction(seconds) * 1000)  # a huge float times 1000 would be infinite


def txt(transcript: Transcript) -> str:
    """One line a segment; a segment without text has none."""
    lines = (one_line(segment.text) for segment in transcript.segments)
    return "".join(f"{line}\n" for line in lines if line)


def tsv(transcript: Transcript) -> str:
    """One row a segment, as it stands there: start and end in milliseconds, and text."""
    rows = ["start\tend\ttext"]
    rows += [
        f"{milliseconds(segment.start)}\t{milliseconds(segment.end)}\t{one_line(segment.text)}"
        for segment in transcript.segments
    ]
    return "\n".join(rows) + "\n"


def json_document(transcript: Transcript) -> str:
    """Every field, times rounded to the millisecond; `transcript.schema.json` describes it."""
    return json.dumps(document(transcript), ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def document(transcript: Transcript) -> dict[str, Any]:
    """What the JSON document holds, as plain data: `--json` prints the same."""
    return {name: _with_rounded_times(value, name) for name, value in transcript.to_dict().items()}


def _with_rounded_times(value: object, key: str = "") -> object:
    """The same plain data; `key` is the name of the field that holds `value`."""
    if isinstance(value, dict):
        return {name: _with_rounded_times(entry, name) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_with_rounded_times(entry) for entry in value]
    if isinstance(value, float) and (key in _TIMES or key.endswith("_seconds")):
        return round(value, _DECIMALS)
    return value
