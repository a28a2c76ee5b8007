"""Speed of several systems, measured in turns: A B C, B C A, C A B, …

All are loaded before the first turn, each in its own process, and while one works the others wait.
What else the machine does then hits all of them, and the ratio of two systems is that of turns that
lie side by side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from stenopool.audio import SAMPLE_RATE, media
from stenopool.data.recording import Recording
from stenopool.data.wav import WavWriter
from stenopool.errors import EngineFailed
from stenopool.evaluation.normalise import normaliser
from stenopool.evaluation.score import Counts, Score, pooled, score
from stenopool.evaluation.systems import Answer, Figures, System

OPENING_SECONDS = 30.0  # of sound that a cold start is measured with: one window

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Material:
    """A recording that every system hears.

    Attributes:
        recording: with its reference, if there is one.
        path: of its file.
        seconds: of sound, counted and not as the file claims.
    """

    recording: Recording
    path: Path
    seconds: float


@dataclass(frozen=True, slots=True)
class Turn:
    """One system hears all recordings once.

    Attributes:
        round: from 1.
        place: in that round, from 1.
        seconds: of sound of the recordings that it answered.
        wall: seconds that these took.
        cpu: seconds that all its threads computed for, those for failed recordings included.
        failed: recordings by the code of their error.
    """

    round: int
    place: int
    seconds: float
    wall: float
    cpu: float
    failed: dict[str, int]

    @property
    def speed(self) -> float:
        """Seconds of sound for each second of work."""
        return self.seconds / self.wall if self.wall else 0.0


@dataclass(frozen=True, slots=True)
class Standing:
    """What was found about one system.

    Attributes:
        name: of the system.
        cold_seconds: from the start of its process to the text of the opening.
        turns: one for each round, in order; fewer where its process died.
        idle_cpu: seconds that it computed for while others had their turns.
        counts: words and errors of its first turn; `None` where no recording has a reference.
        units: the same for each utterance of the recordings in which something is said.
        steady: whether all turns gave the same texts.
        figures: at the end; `None` where its process died.
        error: the record of the error that ended it.
    """

    name: str
    cold_seconds: float
    turns: tuple[Turn, ...]
    idle_cpu: float
    counts: Counts | None
    units: tuple[Counts, ...]
    steady: bool
    figures: Figures | None
    error: dict[str, object] | None

    @property
    def speed(self) -> float | None:
        """Median over the rounds."""
        return median(turn.speed for turn in self.turns) if self.turns else None

    def ratio(self, first: Standing) -> float | None:
        """How many times as fast as another: the median of the ratios within the rounds."""
        theirs = {turn.round: turn.speed for turn in first.turns}
        ratios = [turn.speed / theirs[turn.round] for turn in self.turns if theirs.get(turn.round)]
        return median(ratios) if ratios else None


def measured(recording: Recording, path: Path) -> Material:
    """A recording with its true length.

    Raises:
        InputError: it cannot be decoded.
    """
    with media.Recording(path) as sound:
        return Material(recording, path, sum(map(len, sound)) / SAMPLE_RATE)


def opening(material: Material, folder: Path) -> Path:
    """The first 30 s of a recording as a file of its own.

    Raises:
        InputError: it cannot be decoded.
        OutputError: the folder cannot take the file.
    """
    target, left = folder / "opening.wav", round(OPENING_SECONDS * SAMPLE_RATE)
    with media.Recording(material.path) as sound, WavWriter(target) as wav:
        for block in sound:
            wav.write(block[:left])
            left -= len(block)
            if left <= 0:
                break
    return target


def bench(
    systems: Sequence[System],
    material: Sequence[Material],
    *,
    first: Path,
    rounds: int,
    language: str | None,
    together: bool = False,
    tell: Tell = lambda _: None,
) -> list[Standing]:
    """Measure systems beside each other.

    Args:
        systems: not yet entered; ratios are to the first.
        material: what each hears in each round.
        first: a short recording that each hears once before: libraries choose their kernels by it,
            and the cold start is measured.
        rounds: turns of each system; the order is rotated by one from round to round.
        language: of recordings that do not name theirs; it decides on the normaliser.
        together: give each system all recordings in one call.
        tell: told what is done, line by line.

    Raises:
        StenoError: a system could not be loaded, or every one has died.
    """
    with ExitStack() as stack:
        contestants = []
        for system in systems:
            tell(f"loading {system.name}")
            stack.enter_context(system)
            contestants.append(_Contestant(system, material, tell, together=together))
        for one in contestants:
            one.warm_up(first)
        _take_turns(contestants, rounds, tell)
        return [one.standing(language) for one in contestants]


def _take_turns(contestants: Sequence[_Contestant], rounds: int, tell: Tell) -> None:
    for number in range(1, rounds + 1):
        shift = (number - 1) % len(contestants)
        order = [*contestants[shift:], *contestants[:shift]]
        for place, one in enumerate(order, 1):
            tell(f"round {number} of {rounds}: {one.name}")
            one.take_turn(number, place)


class _Contestant:
    """A running system and what it has done so far."""

    def __init__(
        self, system: System, material: Sequence[Material], tell: Tell, *, together: bool
    ) -> None:
        self.name = system.name
        self._system = system
        self._material = material
        self._tell = tell
        self._together = together
        self._cold = 0.0  # seconds
        self._turns: list[Turn] = []
        self._texts: list[list[str]] = []
        self._cpu = 0.0  # seconds, when its last turn ended
        self._idle_cpu = 0.0  # seconds
        self._error: dict[str, object] | None = None

    def warm_up(self, first: Path) -> None:
        """Measure the cold start."""
        with self._alive():
            (answer,) = self._system.transcribe([first])
            self._tell_errors([(first, answer)])
            figures = self._system.figures()
            self._cold = figures.start_seconds + answer.seconds
            self._cpu = figures.cpu_seconds

    def take_turn(self, number: int, place: int) -> None:
        """Hear everything, unless it has died."""
        if self._error:
            self._tell(f"  has died before: {self._error['message']}")
            return
        with self._alive():
            before = self._system.figures().cpu_seconds
            self._idle_cpu += before - self._cpu
            paths = [one.path for one in self._material]
            answers = list(self._system.transcribe(paths, together=self._together))
            self._cpu = self._system.figures().cpu_seconds
            turn = _turn(self._material, answers, number, place, self._cpu - before)
            self._turns.append(turn)
            self._texts.append([answer.text for answer in answers])
            self._tell_errors(zip(paths, answers, strict=True))
            self._tell(f"  {turn.wall:.1f} s, {turn.speed:.1f}x real time")

    @contextmanager
    def _alive(self) -> Iterator[None]:
        """What happens while it runs; its death is told and written down, and ends nothing else."""
        try:
            yield
        except EngineFailed as error:
            self._error = error.record()
            self._tell(f"  {error.what}")

    def _tell_errors(self, answers: Iterable[tuple[Path, Answer]]) -> None:
        for path, answer in answers:
            if answer.error:
                self._tell(f"  {path}: error[{answer.error['code']}]: {answer.error['message']}")

    def standing(self, language: str | None) -> Standing:
        """All that is known of it now."""
        figures = None
        scores = list(self._scores(language))
        if not self._error:
            with self._alive():
                figures = self._system.figures()
        return Standing(
            self.name,
            self._cold,
            tuple(self._turns),
            self._idle_cpu,
            pooled(scores) if scores else None,
            tuple(unit for one in scores for unit in one.units),
            all(texts == self._texts[0] for texts in self._texts),
            figures,
            self._error,
        )

    def _scores(self, language: str | None) -> Iterator[Score]:
        """Of the recordings in which something is said."""
        for one, text in zip(self._material, self._texts[0] if self._texts else (), strict=False):
            if one.recording.text:
                compare = normaliser(one.recording.language or language)
                yield score(_references(one.recording), text, compare)


def _turn(
    material: Sequence[Material], answers: Sequence[Answer], number: int, place: int, cpu: float
) -> Turn:
    pairs = list(zip(material, answers, strict=True))
    return Turn(
        number,
        place,
        sum(one.seconds for one, answer in pairs if not answer.error),
        sum(answer.seconds for answer in answers if not answer.error),
        cpu,
        dict(Counter(str(answer.error["code"]) for answer in answers if answer.error)),
    )


def _references(recording: Recording) -> list[str]:
    texts = [part.text for part in recording.parts] if recording.parts else [recording.text]
    return [text or "" for text in texts]
