"""Recognisers in this process, and small data sets, for tests of evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from stenopool import Transcriber
from stenopool.data import Recording
from stenopool.decoding.options import Options
from stenopool.errors import StenoError
from stenopool.evaluation.systems import Answer, Figures

MIB = 1 << 20


@dataclass
class Heard:
    """A system that answers what a function hears; it remembers what it was asked.

    Attributes:
        hears: text of a path, or the error to raise: a `StenoError` as an answer, all else as is.
        calls: the paths of each call, and whether they were taken together.
        loaded: times that it was entered, and is not left.
    """

    name: str
    hears: Callable[[Path], str]
    seconds: float = 0.25
    calls: list[tuple[list[Path], bool]] = field(default_factory=list)
    entered: int = 0
    left: int = 0

    def __enter__(self) -> Self:
        self.entered += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.left += 1

    def transcribe(self, paths: Sequence[Path], *, together: bool = False) -> Iterator[Answer]:
        self.calls.append((list(paths), together))
        for path in paths:
            yield Answer(self.hears(path), self.seconds)

    def figures(self) -> Figures:
        return Figures(100 * MIB, 1.0, 1.5, 2.0, 1, "a function", {"stenopool": "0"})


@dataclass
class Really(Heard):
    """A loaded transcriber as a system."""

    transcriber: Transcriber | None = None

    def transcribe(self, paths: Sequence[Path], *, together: bool = False) -> Iterator[Answer]:
        assert self.transcriber
        for path in paths:
            try:
                found = self.transcriber.transcribe(path, Options(language="en"))
                yield Answer(found.text, found.timing.wall_seconds)
            except StenoError as error:
                yield Answer("", 0.0, error.record())


def really(transcriber: Transcriber) -> Really:
    return Really("tiny.en", lambda path: "", transcriber=transcriber)


def said(recordings: Sequence[Recording], change: Callable[[str], str] = str) -> Callable[..., str]:
    """Hears the reference of each file, changed; nothing in the files of conditions."""
    texts = {one.audio: one.text or "" for one in recordings}
    return lambda path: change(texts.get(path, ""))


def write_manifest(path: Path, lines: Sequence[dict[str, object]]) -> Path:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return path
