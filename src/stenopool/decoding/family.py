"""What kinds of models have of their own; `transcriber` does the rest for all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from stenopool import engines
from stenopool.audio.vad import VadOptions
from stenopool.audio.windows import Piece, Window
from stenopool.decoding.batching import Reader
from stenopool.decoding.language import Language
from stenopool.decoding.options import Options
from stenopool.decoding.readings import Reading
from stenopool.errors import UnsupportedOption
from stenopool.models import LocalModel


@dataclass(frozen=True, slots=True)
class Candidate:
    """A text that may have been said.

    Attributes:
        symbols: ids of its characters and delimiters.
        text: words parted by spaces.
        logprob: natural log-probability of all its paths through what was heard.
        score: that, and what scorer and hot words add.
    """

    symbols: tuple[int, ...]
    text: str
    logprob: float
    score: float


@dataclass(frozen=True, slots=True)
class Alternatives:
    """What may have been said in a stretch of a recording, in seconds, the best first."""

    start: float
    end: float
    candidates: tuple[Candidate, ...]


Alternation: TypeAlias = Callable[[Window], list[Alternatives]]


class Running(Protocol):
    """An engine with a model, of whatever kind."""

    @property
    def name(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def workers(self) -> int: ...


class Family(Protocol):
    """A loaded model, and how it is used.

    Attributes:
        detects: whether it can tell languages apart; else it has one.
        longest: samples of a piece of speech.
    """

    @property
    def engine(self) -> Running: ...
    @property
    def detects(self) -> bool: ...
    @property
    def longest(self) -> int: ...

    def resolved(self, options: Options) -> Options:
        """The options with every choice made.

        Raises:
            UnsupportedOption: names one that the model cannot honour.
        """
        ...

    def rough_reader(self, options: Options, language: str) -> Reader:
        """What reads the windows of speech that goes on: fast."""
        ...

    def flags_of(self, options: Options) -> list[str]:
        """Doubts that follow from the resolved options alone."""
        ...

    def language(self, options: Options) -> Language:
        """What is spoken, as far as that is known before anything was heard."""
        ...

    def detected(self, windows: Sequence[Window]) -> Language:
        """What is spoken in some windows."""
        ...

    def vad(self, options: Options) -> VadOptions:
        """When a run of frames counts as speech."""
        ...

    def windows(self, pieces: Iterable[Piece], options: Options) -> Iterator[Window]:
        """Windows that can be read on their own, in any order."""
        ...

    def reader(self, options: Options, language: str) -> Reader:
        """What reads windows with these options."""
        ...

    def in_sequence(
        self, pieces: Iterable[Piece], options: Options, language: str
    ) -> Iterator[Reading]:
        """Readings of speech where each window depends on the one before."""
        ...

    def alternatives(self, options: Options, most: int) -> Alternation:
        """What tells what may have been said in the pieces of a window.

        Raises:
            UnsupportedOption: the model tells one text only.
        """
        ...


def load(
    model: LocalModel,
    choice: engines.Choice,
    *,
    given: bool,
    assistant: LocalModel | None = None,
) -> Family:
    """A model, ready for use: its files say of which kind it is.

    Args:
        choice: of the engine.
        given: the user asked for this engine or device; else another may suit the model.
        assistant: for speculative decoding.

    Raises:
        EngineMissing, EngineFailed, ModelDamaged: by name.
        UsageError: model, engine and assistant do not go together.
    """
    for one in (model, assistant):
        if assistant and one and one.kind != "whisper":
            raise UnsupportedOption(
                f"`{one.name}` is no Whisper model; only those have, or are, assistants",
                do="Leave out the assistant, or choose Whisper models",
            )
    if model.kind == "ctc":
        from stenopool.decoding.ctc.family import CtcFamily

        if not given:
            choice = engines.choose("openvino", threads=choice.threads)
        return CtcFamily.load(model.folder, engines.load_ctc(model.folder, choice))
    from stenopool.decoding.whisper import WhisperFamily

    folder = assistant.folder if assistant else None
    return WhisperFamily.load(model, engines.load(model.folder, choice, folder))
