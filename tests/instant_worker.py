"""A worker process that answers requests at once, without a model: `python instant_worker.py SPEC`.

What it says is the size of the recording and the options that differ from the defaults, a segment
each. A recording that begins with `!` tells it what to do instead: see `behave`.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Never

from stenopool.decoding.batching import USUAL, Claim
from stenopool.decoding.options import Options
from stenopool.errors import NotMedia
from stenopool.pipeline import process, worker
from stenopool.pipeline.job import changes
from stenopool.transcript import Coverage, ModelInfo, Segment, Timing, Transcript, Word

Progress = Callable[[float, float | None], None]

INFO = ModelInfo("instant", "0" * 64, "script", "exact")
SLOW_SECONDS = 60.0  # should nobody stop it


def behave(what: str, progress: Progress) -> None:
    """Do what a recording says."""
    if what == "crash":
        ctypes.string_at(0)
    elif what == "defect":
        raise KeyError("a defect")
    elif what == "garbage":
        raise NotMedia("no media", do="Send a recording")
    elif what == "slow":
        until = time.monotonic() + SLOW_SECONDS
        while time.monotonic() < until:
            progress(0.0, None)
            time.sleep(0.02)


def said_of(path: Path, options: Options) -> list[str]:
    """The texts of the segments."""
    changed = {name: value for name, value in changes(options).items() if name != "language"}
    told = [f"{name} is {json.dumps(value)}." for name, value in sorted(changed.items())]
    return [f"{path.stat().st_size} bytes.", f"In {options.language}.", *told]


@dataclass
class Instant:
    """Stands in for `stenopool.decoding.transcriber.Transcription`."""

    path: Path
    options: Options
    progress: Progress

    def __iter__(self) -> Iterator[Segment]:
        with self.path.open("rb") as file:
            head = file.read(16)
        if head.startswith(b"!"):
            behave(head[1:].split()[0].decode(), self.progress)
        for number, text in enumerate(said_of(self.path, self.options)):
            if number and head.startswith(b"!late"):
                raise KeyError("a defect")
            if number and head.startswith(b"!pause"):
                behave("slow", self.progress)
            words = tuple(
                Word(f" {word}", number + at / 100, number + at / 100 + 0.01, 0.9)
                for at, word in enumerate(text.split())
            )
            yield Segment(number, float(number), number + 1.0, text, -0.1, 0.01, 1.2, words)

    def transcript(self) -> Transcript:
        segments = tuple(self)
        length = float(len(segments))
        return Transcript(
            " ".join(one.text for one in segments),
            "en" if self.options.language == "auto" else self.options.language,
            1.0,
            self.options.task,
            length,
            segments,
            Coverage(length, length, 0.0),
            INFO,
            Timing(0.001, 0.001),
        )


class InstantModel:
    """Implements `stenopool.pipeline.desk.Answerer`. To jobs no recording is any good."""

    info = INFO

    def resolved(self, options: Options) -> Options:
        return options

    def listen(self, path: Path, options: Options) -> Never:
        raise NotMedia("jobs are not done here", do="Ask at once")

    def begin(
        self,
        path: str | Path,
        options: Options | None = None,
        *,
        progress: Progress | None = None,
        claim: Claim = USUAL,
    ) -> Instant:
        return Instant(Path(path), options or Options(), progress or (lambda done, total: None))


def main(spec: str) -> None:
    """What `stenopool.pipeline.process.main` does, with this model."""
    parent = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    model: Any = InstantModel()  # it does no jobs
    os._exit(worker.run(process.Spec.from_json(spec), lambda: model, parent, sys.stdin))


if __name__ == "__main__":
    main(sys.argv[-1])
