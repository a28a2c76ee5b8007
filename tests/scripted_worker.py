"""A worker process with a scripted model: `python scripted_worker.py FOLDER [PROTOCOL] SPEC`.

A window is a second of sound; its text is `s` and the number of the second. What happens to it
follows from the name of its recording: `crash-3 b.wav` ends the process from its fourth second on.
Each window that is begun and each that was read is a line of `FOLDER/log`; recordings whose name
begins with `wait` do so until `FOLDER/open` is there.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import signal
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sqlalchemy as sa

from stenopool.audio import SAMPLE_RATE, Samples
from stenopool.audio.media import Recording
from stenopool.audio.windows import Piece, Window
from stenopool.decoding.assembly import Facts
from stenopool.decoding.batching import USUAL, Claim
from stenopool.decoding.language import Language
from stenopool.decoding.listening import Listening
from stenopool.decoding.options import Options
from stenopool.decoding.quality import Figures
from stenopool.decoding.readings import Reading
from stenopool.errors import EngineFailed, InputUnreadable, ModelNotPulled, NoSamples
from stenopool.pipeline import activity, flow, job, process, worker
from stenopool.transcript import ModelInfo, Transcript, Word

UNKNOWN, EXPLOSIVE = "unknown", "explosive"  # models that cannot be loaded
MOST_BYTES = 3 * 2**28  # that a greedy one takes
SLOW_SECONDS = 0.1
NAME_LENGTH = 64  # letters of a recording's name that its windows bear

_NAME = re.compile(r"([a-z]+)(?:-(\d+))?.*")
_begun: Counter[tuple[str, int]] = Counter()  # windows, in this process
_is_sick = False  # from then on nothing can be read in this process


def behave(folder: Path, what: str, times: int) -> None:
    """Do what a recording is named after, for the so many-th time with this window."""
    if what == "crash":
        ctypes.string_at(0)
    elif what == "abort":
        os.abort()
    elif what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "hang":
        time.sleep(600)
    elif what == "greedy":
        _eat()
    elif what == "slow":
        time.sleep(SLOW_SECONDS)
    elif what == "wait":
        while not (folder / "open").exists():
            time.sleep(0.01)
    elif what == "dead" or (what == "engine" and times < flow.MOST_TRIES):
        raise EngineFailed("the engine stumbled", do="Try again")
    elif what == "silent":
        raise NoSamples("there is nothing in it", do="Record it again")
    elif what == "defect":
        raise KeyError("a defect")
    else:
        _meet(folder, what, times)


def _freeze(folder: Path) -> None:
    """Keep the database locked and the interpreter's lock: no thread gets on."""
    connection = sqlite3.connect(folder / "database.sqlite", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    ctypes.PyDLL(None).sleep(600)


def _meet(folder: Path, what: str, times: int) -> None:
    """Trouble that is not always the recording's."""
    global _is_sick  # noqa: PLW0603
    if what == "freeze":
        _freeze(folder)
    if what == "sickens" and not (folder / "sick").exists():
        (folder / "sick").touch()
        _is_sick = True
    if what == "database" and times == 1:
        raise sa.exc.OperationalError("an update", {}, Exception("the disk is full"))
    if what == "stale" and times < flow.MOST_TRIES + 2:
        raise OSError(errno.ESTALE, "Stale file handle")
    if what == "cause" and times < flow.MOST_TRIES + 2:
        raise InputUnreadable("cannot read it", do="Wait") from OSError(errno.EIO, "I/O error")
    if what == "forbidden":
        raise InputUnreadable("cannot read it", do="Ask") from OSError(errno.EACCES, "denied")


def _eat() -> None:
    hoard = b"x" * MOST_BYTES
    time.sleep(600)
    del hoard


class ScriptedListening(Listening):
    """Hears a window in each second.

    Args:
        name: of the recording; it is all that whoever reads a window knows of it.
    """

    def __init__(self, recording: Recording, name: str) -> None:
        self.language = Language("en", 1.0)
        self._recording = recording
        self._name = np.frombuffer(os.fsencode(name).ljust(NAME_LENGTH), dtype=np.uint8)

    @property
    def has_language(self) -> bool:
        return True

    def windows(self) -> Iterator[Window]:
        for second, block in enumerate(self._recording):
            start, end = second * SAMPLE_RATE, second * SAMPLE_RATE + len(block)
            yield Window((Piece(self._signed(block), start, end, start, end),))

    def facts(self) -> Facts:
        seconds = self._recording.seconds
        return Facts(seconds, seconds, self.language, ())

    def _signed(self, block: Samples) -> Samples:
        signed = block.copy()
        signed[:NAME_LENGTH] = self._name[: len(block)]
        return signed


@dataclass(frozen=True)
class ScriptedModel:
    """Implements `stenopool.pipeline.recording.Listener`."""

    folder: Path

    @property
    def info(self) -> ModelInfo:
        return ModelInfo("scripted", "0" * 64, "script", "exact")

    def resolved(self, options: Options) -> Options:
        return options.resolved(
            algorithm="packed", chunk_seconds=None, multilingual=True, beam_size=1, batch_size=1
        )

    @contextmanager
    def listen(self, path: Path, options: Options) -> Iterator[Listening]:
        with Recording(path) as recording:
            yield ScriptedListening(recording, path.name)

    def read(
        self, windows: Iterable[Window], options: Options, language: str, claim: Claim = USUAL
    ) -> Generator[list[Reading], None, None]:
        for window in windows:
            claim.taken(window)
            name = os.fsdecode(window.samples[:NAME_LENGTH].astype(np.uint8).tobytes().strip())
            yield [self._read(name, window)]

    def transcribe(
        self, path: Path, options: Options, *, progress: Callable[[float, float | None], None]
    ) -> Transcript:
        raise NotImplementedError("nothing that is scripted is sequential")

    def _read(self, name: str, window: Window) -> Reading:
        second = window.pieces[0].start // SAMPLE_RATE
        self._note("begun", name, second)
        _begun[name, second] += 1
        if _is_sick:
            raise EngineFailed("the device is lost", do="Start again")
        if (found := _NAME.match(name)) and second >= int(found[2] or 0):
            behave(self.folder, found[1], _begun[name, second])
        self._note("read", name, second)
        word = Word(f" s{second}", second + 0.1, second + 0.9, 0.9)
        return Reading((word,), Figures(-0.1, 0.0, 1.0, ()), 0.0, second + window.seconds)

    def _note(self, what: str, name: str, second: int) -> None:
        line = json.dumps([what, name, second, os.getpid()]) + "\n"
        with (self.folder / "log").open("a", encoding="utf-8") as file:
            file.write(line)  # in one piece: the lines of several processes do not mix


def main(folder: str, *protocol: str, spec: str) -> None:
    """What `stenopool.pipeline.process.main` does, in less time and with this model."""
    worker.NOTE_SECONDS = 0.1
    worker.DROPPED_SECONDS = 0.3
    worker.WATCH_SECONDS = 0.05
    vars(worker)["BEAT_SECONDS"] = 0.3
    flow.SPAN_POLL_SECONDS = 0.05
    activity.FIRST_WAIT = 0.05
    activity.LONGEST_WAIT = 0.2
    for spoken in protocol:
        vars(job)["PROTOCOL"] = spoken
    parent = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    made = process.Spec.from_json(spec)

    def loaded() -> ScriptedModel:
        if made.group.model == EXPLOSIVE:
            os.abort()
        if made.group.model == UNKNOWN:
            raise ModelNotPulled(f"`{UNKNOWN}` is not here", do="Pull it")
        return ScriptedModel(Path(folder))

    os._exit(worker.run(made, loaded, parent, sys.stdin))


if __name__ == "__main__":
    main(*sys.argv[1:-1], spec=sys.argv[-1])
