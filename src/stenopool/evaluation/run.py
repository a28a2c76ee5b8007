"""Every system hears every recording under every condition."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from stenopool.audio import SAMPLE_RATE, media
from stenopool.data.recording import Recording
from stenopool.errors import EngineFailed, InputError, UsageError
from stenopool.evaluation.conditions import Condition, heard
from stenopool.evaluation.extras import check_extras
from stenopool.evaluation.normalise import normaliser
from stenopool.evaluation.score import Score, score
from stenopool.evaluation.systems import Answer, Figures

BATCH_SECONDS = 7200.0  # of sound whose files exist at one time: 230 MB

Progress = Callable[[str, float, float | None], None]


class System(Protocol):
    """A recogniser; entering loads it, leaving ends it. See `systems.System`."""

    @property
    def name(self) -> str: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def transcribe(self, paths: Sequence[Path], *, together: bool = False) -> Iterator[Answer]: ...

    def figures(self) -> Figures: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What is evaluated.

    Attributes:
        recordings: each has a reference; empty where nothing is said.
        conditions: under which each is heard.
        language: of recordings that do not name theirs.
        together: each system may take many recordings in one call.
        seed: of conditions and intervals.
    """

    recordings: Sequence[Recording]
    conditions: Sequence[Condition]
    language: str | None = None
    together: bool = False
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one system made of one recording under one condition.

    Attributes:
        recording: the recording.
        seconds: length of what was heard; `None` where it could not be decoded here.
        answer: text and time, or the error.
        score: a recording that failed has all its words deleted.
    """

    recording: Recording
    seconds: float | None
    answer: Answer
    score: Score


@dataclass(frozen=True, slots=True)
class Result:
    """One system under one condition, with an outcome for each recording, in order."""

    system: str
    condition: Condition
    outcomes: Sequence[Outcome]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All results: for each condition those of all systems, in the order of the plan.

    Attributes:
        plan: what was asked for.
        systems: figures of each by name, taken at the end; the first is the baseline.
        results: conditions times systems.
    """

    plan: Plan
    systems: dict[str, Figures]
    results: Sequence[Result]


def evaluate(plan: Plan, systems: Sequence[System], *, progress: Progress) -> Evaluation:
    """Let the systems transcribe, and score what they heard.

    All systems are loaded before the first recording, and while one works the others wait. Files of
    conditions exist for a bounded stretch of recordings at a time.

    Args:
        plan: recordings and conditions.
        systems: with different names; the first is the baseline.
        progress: told the system and condition, the seconds of sound that are done, and all of them
            where the recordings claim a length.

    Raises:
        StenoError: a system cannot be loaded, or the plan cannot be carried out. A recording that
            fails is an outcome.
    """
    check_extras()
    _check(plan, systems)
    results: list[Result] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stenopool-")))
        for system in systems:
            stack.enter_context(system)
        for condition in plan.conditions:
            results += _under(condition, plan, systems, folder, progress)
        figures = {system.name: system.figures() for system in systems}
    return Evaluation(plan, figures, results)


def _check(plan: Plan, systems: Sequence[System]) -> None:
    if len({system.name for system in systems}) < len(systems):
        raise UsageError("two systems have the same name", do="Name each model and engine once")
    if not plan.recordings:
        raise UsageError(
            "there is no recording with a reference",
            do="Give `text` with each recording; an empty text says that nothing is said",
        )


@dataclass(frozen=True, slots=True)
class _Heard:
    """A recording whose file is ready, or the answer of all systems because it is not."""

    recording: Recording
    path: Path
    seconds: float | None
    failed: Answer | None = None


def _under(
    condition: Condition,
    plan: Plan,
    systems: Sequence[System],
    folder: Path,
    progress: Progress,
) -> Iterator[Result]:
    outcomes: dict[str, list[Outcome]] = {system.name: [] for system in systems}
    lengths = [one.duration for one in plan.recordings if one.duration is not None]
    total = sum(lengths) if len(lengths) == len(plan.recordings) else None
    before = 0.0
    with closing(_batches(condition, plan, folder)) as batches:
        for batch in batches:
            for system in systems:
                done = before
                task = f"{system.name}, {condition.name}"
                progress(task, done, total)
                for outcome in _outcomes(batch, system, plan):
                    outcomes[system.name].append(outcome)
                    done += outcome.seconds or 0.0
                    progress(task, done, total)
            before += sum(one.seconds or 0.0 for one in batch)
    for name, found in outcomes.items():
        yield Result(name, condition, found)


def _batches(condition: Condition, plan: Plan, folder: Path) -> Generator[list[_Heard]]:
    """Recordings whose files exist until the next batch is asked for."""
    left = list(reversed(plan.recordings))
    while left:
        with ExitStack() as stack:
            batch: list[_Heard] = []
            while left and sum(one.seconds or 0.0 for one in batch) < BATCH_SECONDS:
                batch.append(_prepared(left.pop(), condition, plan, folder, stack))
            yield batch


def _prepared(
    recording: Recording, condition: Condition, plan: Plan, folder: Path, stack: ExitStack
) -> _Heard:
    try:
        path = stack.enter_context(
            heard(recording, condition, folder, others=plan.recordings, seed=plan.seed)
        )
    except InputError as error:
        return _Heard(recording, recording.audio, None, Answer("", 0.0, error.record()))
    try:
        return _Heard(recording, path, _length(path))
    except InputError:  # the systems have decoders of their own: let them say what is wrong
        return _Heard(recording, path, None)


def _length(path: Path) -> float:
    """Seconds of sound, counted and not as the file claims: speed is measured by it."""
    with media.Recording(path) as sound:
        return sum(map(len, sound)) / SAMPLE_RATE


def _outcomes(batch: Sequence[_Heard], system: System, plan: Plan) -> Iterator[Outcome]:
    ready = [one.path for one in batch if one.failed is None]
    answers = _answers(system, ready, together=plan.together)
    for one in batch:
        answer = one.failed or next(answers)
        yield Outcome(one.recording, one.seconds, answer, _score(one.recording, answer, plan))


def _answers(system: System, paths: Sequence[Path], *, together: bool) -> Iterator[Answer]:
    """An answer for each path, also when one of them ends the process of the system."""
    done = 0
    while done < len(paths):
        try:
            for answer in system.transcribe(paths[done:], together=together):
                done += 1
                yield answer
        except EngineFailed as error:
            system.__exit__(None, None, None)
            system.__enter__()
            if together:
                together = False  # nobody knows which of them it was: find out one by one
                continue
            done += 1
            yield Answer("", 0.0, error.record())


def _score(recording: Recording, answer: Answer, plan: Plan) -> Score:
    texts: Iterable[str | None] = (
        (part.text for part in recording.parts) if recording.parts else [recording.text]
    )
    heard_text = "" if answer.error else answer.text
    compare = normaliser(recording.language or plan.language)
    return score([text or "" for text in texts], heard_text, compare)
