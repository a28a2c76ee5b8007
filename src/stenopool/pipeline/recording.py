"""The work on one recording, step by step. Each step may be done again at any time, by anyone.

    transcribe   input/… → work/<job>/transcript.json
    publish      → output/…, the JSON document last
    settle       input/… → processed/…
    fail         input/… → failed/… beside its error record, instead of all that

Nothing here knows of queues, databases or processes.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

from stenopool.audio.windows import Window
from stenopool.bucket import Bucket, Key
from stenopool.decoding.assembly import Assembly, joined_readings
from stenopool.decoding.batching import Claim
from stenopool.decoding.listening import Listening
from stenopool.decoding.options import SEQUENTIAL, Options
from stenopool.decoding.readings import Reading
from stenopool.errors import (
    InputChanged,
    InputError,
    InputNotFound,
    OutputError,
    StenoError,
    StorageUnavailable,
)
from stenopool.pipeline import keys
from stenopool.pipeline.checkpoints import (
    Checkpoints,
    Kept,
    Plan,
    fingerprint,
    span_name,
    start_of,
    window_name,
)
from stenopool.pipeline.job import COMMIT, Job
from stenopool.pipeline.record import error_record
from stenopool.transcript import ModelInfo, Transcript
from stenopool.writers import FORMATS, render

SPAN_WINDOWS = 8  # about four minutes of speech: shorter recordings are not parted


class Listener(Protocol):
    """What hears and reads: see `stenopool.Transcriber`."""

    @property
    def info(self) -> ModelInfo: ...
    def resolved(self, options: Options) -> Options: ...
    def listen(self, path: Path, options: Options) -> AbstractContextManager[Listening]: ...
    def read(
        self, windows: Iterable[Window], options: Options, language: str, claim: Claim = ...
    ) -> Generator[list[Reading], None, None]: ...
    def transcribe(
        self, path: Path, options: Options, *, progress: Callable[[float, float | None], None]
    ) -> Transcript: ...


class Watch(Protocol):
    """Is told what is going on, and stops it by raising an exception."""

    def phase(self, name: str) -> None:
        """A part of the work begins."""

    def computing(self) -> AbstractContextManager[None]:
        """Around what decodes media or runs the model: it may hang or end the process."""

    def begun(self, window: Window) -> None:
        """A window is being read; on any thread."""

    def read(self, window: Window) -> float:
        """A window was read; gives the seconds of the process's time that it took."""

    def kept(self) -> None:
        """What was read in a window is kept: it is not read again."""

    def progress(self, done_seconds: float, total_seconds: float | None) -> None:
        """So much of the recording is done."""

    def is_ending(self) -> bool:
        """Whether the process ends: what has begun is worth keeping, more should not begin."""

    def check(self) -> None:
        """Raises an exception if the work is to stop."""


class Spans(Protocol):
    """Lets others read parts of a long recording."""

    def has_helpers(self) -> bool:
        """Whether there are others, or would be if something waited for them."""

    def submit(self, name: str, language: str, seconds: float) -> bool:
        """Hand out a span; False if that was done before and it has ended."""

    def wait(self, names: Sequence[str], done_seconds: float) -> None:
        """Wait until those that were handed out have ended.

        Args:
            names: of all spans of the recording.
            done_seconds: of the recording, before the first of them.

        Raises:
            StenoError: one of them could not be read.
        """


@dataclass(frozen=True)
class Task:
    """A job in the hands of a worker."""

    id: str
    job: Job
    bucket: Bucket
    listener: Listener
    watch: Watch
    spans: Spans

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.bucket, self.id)

    def options(self) -> Options:
        """What was asked for, with every choice made."""
        return self.listener.resolved(Options.of(**self.job.options))


def transcribe(task: Task) -> Transcript:
    """The transcript, kept in `work/`.

    Raises:
        StenoError: by name.
    """
    checkpoints = task.checkpoints
    if transcript := checkpoints.transcript():
        return transcript
    options = task.options()
    if options.algorithm == SEQUENTIAL:  # each window depends on the one before
        transcript = _in_one_go(task, options)
    else:
        plan = _known_plan(task, options) or _heard(task, options)
        if plan.spans:
            task.watch.phase("spans")
            task.spans.wait(plan.spans, start_of(plan.spans[0]))
        _refuse_change(task)
        task.watch.phase("merging")
        transcript = _merged(task, options, plan)
    checkpoints.store_transcript(transcript)
    return transcript


@dataclass(frozen=True, slots=True)
class ReadWindow:
    """The name of a window that was read, and where it ends in the recording, in seconds."""

    name: str
    end: float


def read_windows(
    task: Task, windows: Iterable[Window], options: Options, language: str
) -> Iterator[ReadWindow]:
    """Read windows, in order, each kept at once.

    What was read before, by whoever, is not read again.
    """
    checkpoints, mark = task.checkpoints, fingerprint(task.listener.info, options, language)
    present = checkpoints.present()
    taken: deque[tuple[ReadWindow, Window | None]] = deque()  # None: it was read before

    def unread() -> Iterator[Window]:
        for window in windows:
            if task.watch.is_ending():
                return
            task.watch.check()
            one = ReadWindow(window_name(window, mark), window.end)
            known = one.name in present and checkpoints.kept(one.name) is not None
            taken.append((one, None if known else window))
            if not known:
                yield window

    claim = Claim(taken=task.watch.begun)
    with closing(task.listener.read(unread(), options, language, claim)) as read:
        for readings in read:
            while taken[0][1] is None:
                yield taken.popleft()[0]
            one, window = taken.popleft()
            seconds = task.watch.read(window) if window else 0.0
            checkpoints.keep(one.name, Kept(readings, seconds))
            task.watch.kept()
            yield one
    yield from (one for one, _ in taken)
    task.watch.check()  # before anybody takes this for all


def batched(items: Iterator[Window], size: int) -> Iterator[list[Window]]:
    """Lists of so many, the last one of what is left."""
    while part := list(islice(items, size)):
        yield part


def publish(task: Task) -> tuple[str, ...]:
    """Write the documents, the JSON one last: it stands for all of them. Gives their keys.

    Documents of an earlier recording of this name never stand beside the new ones.

    Raises:
        InputChanged, InputNotFound: there is a newer recording of this name, or there was one.
    """
    bucket, key = task.bucket, task.job.key
    transcript = task.checkpoints.transcript()
    if transcript is None:
        if bucket.stamp(key) != task.job.stamp:
            return ()  # another process has done all this, and cleaned up
        transcript = transcribe(task)  # what was kept is damaged
    documents = {name: render(transcript, name) for name in task.job.formats}
    task.watch.check()
    commit = keys.output_key(key, COMMIT)
    published = bucket.read(commit)
    if published != documents[COMMIT].encode():  # else it was done before, and has to stay
        if published is not None or bucket.stamp(key) is not None:
            _refuse_change(task)
        bucket.delete(commit)
    for name in set(FORMATS).difference(documents):
        bucket.delete(keys.output_key(key, name))
    for name in sorted(documents, key=lambda name: name == COMMIT):
        task.watch.check()
        bucket.write(keys.output_key(key, name), documents[name])
    return tuple(keys.output_key(key, name) for name in task.job.formats)


def settle(task: Task) -> bool:
    """Move the recording to `processed/`; False if it is not in `input/` any more, or another."""
    bucket, key = task.bucket, task.job.key
    task.watch.check()
    target = keys.processed_key(key)
    moved = bucket.move(key, target, task.job.stamp)
    if bucket.stamp(keys.failed_key(key)) is None:
        bucket.delete(keys.record_key(key))
    return _with_sidecar(bucket, key, target, moved=moved)


def fail(task: Task, error: StenoError, attempts: int) -> bool:
    """Move the recording to `failed/` beside its record; False if it is not in `input/` any more,
    or another.

    Documents of an earlier recording of this name stay: they belong to the one in `processed/`.
    """
    bucket, key = task.bucket, task.job.key
    task.watch.check()
    target, moved = keys.failed_key(key), False
    if bucket.stamp(key) == task.job.stamp:
        bucket.write(keys.record_key(key), error_record(key, error, attempts))
        moved = bucket.move(key, target, task.job.stamp)
    return _with_sidecar(bucket, key, target, moved=moved)


def _with_sidecar(bucket: Bucket, source: Key, target: Key, *, moved: bool) -> bool:
    """Move the options of a recording after it; gives whether it was moved, now or before."""
    if not moved and (bucket.stamp(source) is not None or bucket.stamp(target) is None):
        return False
    # A link, or a name too long for one to be there: no reason to do everything again.
    with suppress(InputError, OutputError):
        bucket.move(keys.sidecar_key(source), keys.sidecar_key(target))
    return True


def _known_plan(task: Task, options: Options) -> Plan | None:
    """The plan that was kept, unless another model or version made it."""
    plan = task.checkpoints.plan()
    if plan is None:
        return None
    mark = fingerprint(task.listener.info, options, plan.facts.language.code)
    return plan if plan.mark == mark else None


def _heard(task: Task, options: Options) -> Plan:
    """Hear the recording to its end, and read it or hand it out on the way."""
    task.watch.phase("opening")
    with _open(task) as path:
        with task.watch.computing(), task.listener.listen(path, options) as listening:
            task.watch.phase("transcribing")
            windows = listening.windows()
            names, spans = [], []
            if listening.has_language:
                language, claimed = listening.language.code, listening.claimed_seconds
                for one in read_windows(task, _own(task, windows), options, language):
                    names.append(one.name)
                    task.watch.progress(one.end, claimed)
                for part in batched(windows, SPAN_WINDOWS):
                    found, span = _handed_out(task, part, options, language)
                    names += found
                    spans += span
                    if not spans:
                        task.watch.progress(part[-1].end, claimed)
            facts = listening.facts()
        _refuse_change(task)
    task.watch.progress(start_of(spans[0]) if spans else facts.duration, facts.duration)
    mark = fingerprint(task.listener.info, options, facts.language.code)
    plan = Plan(facts, tuple(names), tuple(spans), mark)
    task.checkpoints.store_plan(plan)
    return plan


def _own(task: Task, windows: Iterable[Window]) -> Iterator[Window]:
    """The windows that are read here: those of a short recording, and all while nobody helps.

    Reading them here takes less time than handing them out and taking them up again.
    """
    for count, window in enumerate(windows, start=1):
        yield window
        if count % SPAN_WINDOWS == 0 and task.spans.has_helpers():
            return


def _handed_out(
    task: Task, part: Sequence[Window], options: Options, language: str
) -> tuple[list[str], list[str]]:
    """Let others read some windows; gives the names of the windows and of the span, if it is one.

    What cannot be handed out any more, because its span has ended without all of it, is read here.
    """
    task.watch.check()
    mark = fingerprint(task.listener.info, options, language)
    names = [window_name(window, mark) for window in part]
    name = span_name(names)
    if task.checkpoints.present().issuperset(names):
        return names, []
    task.checkpoints.store_span(name, part)
    if task.spans.submit(name, language, sum(window.seconds for window in part)):
        return names, [name]
    task.checkpoints.drop_span(name)
    return [one.name for one in read_windows(task, part, options, language)], []


def _merged(task: Task, options: Options, plan: Plan) -> Transcript:
    kept: list[Kept] = []
    lost: list[str] = []
    for name in plan.windows:
        one = task.checkpoints.kept(name)
        if one is None:
            lost.append(name)
        else:
            kept.append(one)
    if lost:
        task.checkpoints.drop_plan(lost)
        raise StorageUnavailable(
            f"what was read of `{task.job.key}` is lost in part",
            do="It is read again; keep other programs out of `work/`",
        )
    assembly = Assembly(options)
    for _ in assembly.segments(joined_readings((one.readings for one in kept), options)):
        pass
    compute = sum(one.compute_seconds for one in kept)
    return assembly.transcript(plan.facts, task.listener.info, compute)


def _in_one_go(task: Task, options: Options) -> Transcript:
    def told(done: float, total: float | None) -> None:
        task.watch.check()
        task.watch.progress(done, total)

    task.watch.phase("transcribing")
    with _open(task) as path, task.watch.computing():
        transcript = task.listener.transcribe(path, options, progress=told)
    _refuse_change(task)
    return transcript


@contextmanager
def _open(task: Task) -> Iterator[Path]:
    _refuse_change(task)
    with task.bucket.local(task.job.key, task.job.stamp) as path:
        try:
            yield path
        except InputError as error:
            # By the name that its owner knows, not by that of a temporary copy.
            error.what = error.what.replace(os.fspath(path), task.job.key)
            raise


def _refuse_change(task: Task) -> None:
    key, now = task.job.key, task.bucket.stamp(task.job.key)
    if now is None:
        raise InputNotFound(
            f"`{key}` was taken away while it was read", do="Put it back if it is still wanted"
        )
    if now != task.job.stamp:
        raise InputChanged(
            f"`{key}` changed while it was read",
            do="Nothing: what is there now is another job",
        )
