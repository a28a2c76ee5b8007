"""Listeners, watches and spans for the steps of `recording`: no model, no database, no process.

A recording is text. Each line is a window, `|` parts its pieces, and the sound is the text itself,
so that whoever reads a window says what was in the file. A file that begins with `!` is no media.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from stenopool.audio import SAMPLE_RATE, Samples
from stenopool.audio.windows import Piece, Window
from stenopool.bucket import Bucket, FolderBucket, Key, Refused, Stamp
from stenopool.decoding.assembly import Assembly, Facts, joined_readings
from stenopool.decoding.batching import USUAL, Claim
from stenopool.decoding.language import Language
from stenopool.decoding.listening import Listening
from stenopool.decoding.options import Options
from stenopool.decoding.quality import Figures
from stenopool.decoding.readings import Reading
from stenopool.errors import (
    InputChanged,
    InputNotFound,
    NotMedia,
    OutputError,
    StenoError,
    StorageError,
)
from stenopool.pipeline import recording
from stenopool.pipeline.job import Group, Job, numbered
from stenopool.pipeline.recording import Task
from stenopool.transcript import ModelInfo, Transcript, Word

LINE_SECONDS = 30.0  # from the beginning of one line to that of the next
LETTER_SAMPLES = 160
FORMATS = ("txt", "srt", "vtt", "json")
TOPS = ("input/", "output/", "processed/", "failed/", "work/")
PATIENCE = 3  # tries, where the storage is in trouble
MODEL = ModelInfo("fake", "0" * 64, "none", "exact")


class Death(BaseException):
    """The process is killed here."""


def sound(text: str) -> Samples:
    letters = np.frombuffer(text.encode(), dtype=np.uint8).astype(np.float32)
    return np.repeat(letters, LETTER_SAMPLES)


def text_of(window: Window) -> str:
    letters = window.samples[::LETTER_SAMPLES].astype(np.uint8)
    return letters.tobytes().decode()


def window_of(text: str, number: int = 0) -> Window:
    """A line of a recording."""
    at, pieces = round(number * LINE_SECONDS * SAMPLE_RATE), []
    for part in text.split("|"):
        samples = sound(part)
        pieces.append(Piece(samples, at, at + len(samples), at, at + len(samples)))
        at += len(samples) + LETTER_SAMPLES
    return Window(tuple(pieces))


def reading_of(window: Window) -> Reading:
    begin, words = window.pieces[0].start / SAMPLE_RATE, text_of(window).split()
    step = window.seconds / max(1, len(words))
    placed = (
        Word(f" {word}", begin + at * step, begin + (at + 1) * step, 0.9)
        for at, word in enumerate(words)
    )
    return Reading(tuple(placed), Figures(-0.1, 0.01, 1.2, ()), 0.0, window.end)


class Lines(Listening):
    """What there is to hear in a text."""

    def __init__(self, text: str) -> None:
        self._lines = text.split("\n") if text else []
        self.language = Language("en", 0.9) if text else Language.given("auto")

    @property
    def claimed_seconds(self) -> float | None:
        return max(1.0, len(self._lines) * LINE_SECONDS)

    @property
    def has_language(self) -> bool:
        return self.language.known

    def windows(self) -> Iterator[Window]:
        return (window_of(line, number) for number, line in enumerate(self._lines))

    def facts(self) -> Facts:
        speech = sum(window.speech_seconds for window in self.windows())
        return Facts(self.claimed_seconds or 0.0, speech, self.language, ())


@dataclass
class Reader:
    """Implements `recording.Listener`.

    Attributes:
        ahead: windows that are taken before the first of them is given.
        listened: how many recordings were opened.
        heard: the texts of the windows that were read, in order.
        meanwhile: is called with the recording's path when it has been heard.
    """

    info: ModelInfo = MODEL
    ahead: int = 2
    listened: int = 0
    heard: list[str] = field(default_factory=list)
    meanwhile: Callable[[Path], object] = lambda path: None

    def resolved(self, options: Options) -> Options:
        return options.resolved(
            algorithm="packed", chunk_seconds=None, multilingual=True, beam_size=1, batch_size=1
        )

    @contextmanager
    def listen(self, path: Path, options: Options) -> Iterator[Listening]:
        self.listened += 1
        text = path.read_text("utf-8")
        if text.startswith("!"):
            raise NotMedia(f"`{path.name}` is not media", do="Convert it")
        yield Lines(text)
        self.meanwhile(path)

    def read(
        self, windows: Iterable[Window], options: Options, language: str, claim: Claim = USUAL
    ) -> Generator[list[Reading], None, None]:
        taken: deque[Window] = deque()
        for window in windows:
            claim.taken(window)
            taken.append(window)
            if len(taken) > self.ahead:
                yield self._read(taken.popleft())
        while taken:
            yield self._read(taken.popleft())

    def transcribe(
        self, path: Path, options: Options, *, progress: Callable[[float, float | None], None]
    ) -> Transcript:
        with self.listen(path, options) as listening:
            assembly, read = Assembly(options), self.read(listening.windows(), options, "en")
            for segment in assembly.segments(joined_readings(read, options)):
                progress(segment.end, listening.claimed_seconds)
            return assembly.transcript(listening.facts(), self.info, 1.0)

    def _read(self, window: Window) -> list[Reading]:
        self.heard.append(text_of(window))
        return [reading_of(window)]


@dataclass
class Watching:
    """Implements `recording.Watch`, and remembers.

    Attributes:
        seconds: that each window takes.
        stop_at: number of the check that ends the work, from 1.
    """

    seconds: float = 0.5
    stop_at: int = 0
    checks: int = 0
    ends_after: int = 10_000  # windows that were begun, from which on the process ends
    phases: list[str] = field(default_factory=list)
    told: list[tuple[float, float | None]] = field(default_factory=list)
    events: list[str] = field(default_factory=list)

    def phase(self, name: str) -> None:
        self.phases.append(name)

    def computing(self) -> AbstractContextManager[None]:
        return nullcontext()

    def begun(self, window: Window) -> None:
        self.events.append(f"begun {text_of(window)}")

    def read(self, window: Window) -> float:
        self.events.append(f"read {text_of(window)}")
        return self.seconds

    def kept(self) -> None:
        pass

    def progress(self, done_seconds: float, total_seconds: float | None) -> None:
        self.told.append((done_seconds, total_seconds))

    def is_ending(self) -> bool:
        return sum(event.startswith("begun") for event in self.events) >= self.ends_after

    def check(self) -> None:
        self.checks += 1
        if self.checks == self.stop_at or self.is_ending():
            raise Death


class NoSpans:
    """Implements `recording.Spans` where nothing may be handed out."""

    def has_helpers(self) -> bool:
        return False

    def submit(self, name: str, language: str, seconds: float) -> bool:
        raise AssertionError(f"the span {name} was handed out")

    def wait(self, names: Sequence[str], done_seconds: float) -> None:
        raise AssertionError("there is nothing to wait for")


@dataclass
class Ledger:
    """What the database says of the spans of one job; it outlives processes."""

    waiting: dict[str, str] = field(default_factory=dict)  # name and language
    ended: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)


@dataclass
class Helpers:
    """Implements `recording.Spans`: what is waited for is read by a task of its own."""

    ledger: Ledger
    helper: Task

    def has_helpers(self) -> bool:
        return True

    def submit(self, name: str, language: str, seconds: float) -> bool:
        with self.ledger.lock:
            if name in self.ledger.ended:
                return False
            self.ledger.waiting[name] = language
            self.ledger.seconds.append(seconds)
            return True

    def wait(self, names: Sequence[str], done_seconds: float) -> None:
        with self.ledger.lock:
            for name, language in list(self.ledger.waiting.items()):
                read_span(self.helper, name, language)
                del self.ledger.waiting[name]
                self.ledger.ended.append(name)


def read_span(task: Task, name: str, language: str) -> None:
    """What `flow` does with a span."""
    windows = task.checkpoints.span(name)
    if windows is not None:
        for _ in recording.read_windows(task, windows, task.options(), language):
            pass
        task.checkpoints.drop_span(name)


def put(bucket: Bucket, key: Key, text: str) -> Stamp:
    """A recording in `input/`."""
    bucket.write(key, text)
    stamp = bucket.stamp(key)
    assert stamp
    return stamp


def task_for(
    bucket: Bucket,
    key: Key,
    reader: recording.Listener,
    *,
    ledger: Ledger | None = None,
    watch: Watching | None = None,
    **changes: object,
) -> Task:
    """A task for what is in the bucket now; with a ledger, others read its spans."""
    stamp = bucket.stamp(key)
    assert stamp
    job = replace(Job(bucket.url, key, stamp, Group("fake"), FORMATS), **changes)  # type: ignore[arg-type]
    id, watch = numbered(job.digest, 1), watch or Watching()
    task = Task(id, job, bucket, reader, watch, NoSpans())
    if ledger is None:
        return task
    return replace(task, spans=Helpers(ledger, replace(task, watch=Watching(watch.seconds))))


@dataclass
class Memory:
    """What DBOS remembers of a job, whatever becomes of processes: the outcome of each step."""

    outcomes: dict[str, StenoError | None] = field(default_factory=dict)


def work(task: Task, memory: Memory | None = None) -> StenoError | None:
    """What `flow` does with a job; gives what is wrong with it."""
    memory = memory or Memory()
    for name, step in (
        ("transcribe", recording.transcribe),
        ("publish", recording.publish),
        ("settle", _settle),
    ):
        if name not in memory.outcomes:
            memory.outcomes[name] = _tried(task, step)
        if error := memory.outcomes[name]:
            if "fail" not in memory.outcomes:
                memory.outcomes["fail"] = _tried(task, partial(_fail, error=error))
            return error
    return None


def _settle(task: Task) -> None:
    recording.settle(task)
    task.checkpoints.clear()


def _fail(task: Task, error: StenoError) -> None:
    if not isinstance(error, InputChanged | InputNotFound):
        recording.fail(task, error, 1)
    task.checkpoints.clear()


def _tried(task: Task, step: Callable[[Task], object]) -> StenoError | None:
    for _ in range(PATIENCE):
        try:
            step(task)
            return None
        except (StorageError, OutputError) as error:
            trouble: StenoError = error
        except StenoError as error:
            return error
    raise trouble


def tree(bucket: Bucket) -> dict[Key, bytes]:
    """Everything in the bucket, but for what never is the same twice."""
    found = {key: bucket.read(key) or b"" for top in TOPS for key in bucket.keys(top)}
    return {key: b"" if key.endswith(".error.json") else data for key, data in found.items()}


@dataclass
class Mortal:
    """A bucket in which one operation ends the process, before or after it is done.

    Attributes:
        die_at: number of the operation, from 1; 0 for never.
        count: operations so far.
        trouble: what is raised in the place of an end.
    """

    bucket: FolderBucket
    die_at: int = 0
    after: bool = False
    count: int = 0
    trouble: BaseException = field(default_factory=Death)

    @property
    def url(self) -> str:
        return self.bucket.url

    @contextmanager
    def _step(self) -> Iterator[None]:
        self.count += 1
        number = self.count
        if number == self.die_at and not self.after:
            raise self.trouble
        yield
        if number == self.die_at:
            raise self.trouble

    def entries(self, prefix: str, refused: Refused | None = None) -> Iterator[tuple[Key, Stamp]]:
        with self._step():
            found = list(self.bucket.entries(prefix, refused))
        return iter(found)

    def keys(self, prefix: str, refused: Refused | None = None) -> Iterator[Key]:
        return (key for key, _ in self.entries(prefix, refused))

    def stamp(self, key: Key) -> Stamp | None:
        with self._step():
            return self.bucket.stamp(key)

    def read(self, key: Key) -> bytes | None:
        with self._step():
            return self.bucket.read(key)

    def create(self, key: Key, data: bytes | str) -> bool:
        with self._step():
            return self.bucket.create(key, data)

    def write(self, key: Key, data: bytes | str) -> None:
        with self._step():
            self.bucket.write(key, data)

    def put_file(self, key: Key, path: Path) -> None:
        with self._step():
            self.bucket.put_file(key, path)

    def move(self, source: Key, target: Key, stamp: Stamp | None = None) -> bool:
        with self._step():
            return self.bucket.move(source, target, stamp)

    def delete(self, key: Key) -> None:
        with self._step():
            self.bucket.delete(key)

    def delete_below(self, prefix: Key) -> None:
        for key in list(self.bucket.keys(prefix)):
            self.delete(key)
        with self._step():
            self.bucket.delete_below(prefix)

    def local(self, key: Key, stamp: Stamp | None = None) -> AbstractContextManager[Path]:
        with self._step():
            return self.bucket.local(key, stamp)

    def prepare(self) -> None:
        self.bucket.prepare()


def kept_texts(task: Task) -> set[str]:
    """What was read of a recording and can be used by whoever goes on."""
    found = (task.checkpoints.kept(name) for name in task.checkpoints.present())
    return {
        "".join(word.word for reading in kept.readings for word in reading.words).strip()
        for kept in found
        if kept
    }
