"""The options of one transcription: the same class feeds Python, the command line and HTTP."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from math import inf, nan
from numbers import Integral, Real
from typing import Self

from stenopool.decoding.languages import AUTO, language_code
from stenopool.errors import UnknownName, UnsupportedOption, UsageError

TASKS = ("transcribe", "translate")
PACKED, SEQUENTIAL, CHUNKED = "packed", "sequential", "chunked"
ALGORITHMS = (PACKED, SEQUENTIAL, CHUNKED)

# Options that only these algorithms can honour; elsewhere they are refused by name.
_ONLY = {
    "condition_on_previous_text": (SEQUENTIAL,),
    "chunk_seconds": (CHUNKED,),
    "batch_size": (PACKED, CHUNKED),
}

# Lowest and highest value of each number. An infinite threshold switches its test off.
_RANGES = {
    "beam_size": (1, 32),
    "batch_size": (1, 64),
    "chunk_seconds": (5, 30),
    "language_threshold": (0, 1),
    "compression_ratio_threshold": (0, inf),
    "logprob_threshold": (-inf, 0),
    "no_speech_threshold": (0, 1),
    "vad_threshold": (0.01, 0.99),
    "audio_track": (0, 1000),
}
_WHOLE = frozenset({"beam_size", "batch_size", "audio_track"})
_MAY_BE_NONE = frozenset({"beam_size", "batch_size", "chunk_seconds", "audio_track"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to transcribe. `None` leaves a choice to the algorithm, the model or the engine.

    Attributes:
        language: code or English name of what is spoken, or `auto` to detect it.
        task: `transcribe`, or `translate` into English.
        algorithm: `packed` (speech packed into windows of 30 s, in batches), `sequential`
            (timestamps drive the window, as in the Whisper paper), `chunked` (overlapping
            windows), or `auto` for the one that suits the model.
        word_timestamps: keep the time and probability of each word; subtitles are cut by them.
        initial_prompt: text that every window is told came before it: style and spelling.
        hotwords: names and terms to listen for, told to every window; CTC models boost each word,
            which may say by how much (`word:8`).
        beam_size: hypotheses searched side by side, 1 to 32; 1 is greedy; by default 5; for CTC
            models 1, or 24 with a scorer or hot words.
        temperatures: tried in turn while the result looks wrong; 0 is deterministic.
        condition_on_previous_text: tell each window the text before it (sequential only).
        batch_size: windows that a thread decodes together, 1 to 64 (packed and chunked only);
            OpenVINO lets the windows of all threads share batches, and does best with 1.
        chunk_seconds: window length, 5 to 30 (chunked only).
        language_threshold: a detected language less probable than this is flagged.
        compression_ratio_threshold: text that compresses better than this is a loop.
        logprob_threshold: an average log-probability below this is a failure.
        no_speech_threshold: with a failed log-probability, above this there is no speech.
        vad_threshold: probability at which a frame counts as speech, in (0, 1).
        audio_track: which audio track of the file, from 0; `None` is the default track.
    """

    language: str = AUTO
    task: str = "transcribe"
    algorithm: str = AUTO
    word_timestamps: bool = True
    initial_prompt: str = ""
    hotwords: str = ""
    beam_size: int | None = None
    temperatures: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    condition_on_previous_text: bool | None = None
    batch_size: int | None = None
    chunk_seconds: float | None = None
    language_threshold: float = 0.5
    compression_ratio_threshold: float = 2.4
    logprob_threshold: float = -1.0
    no_speech_threshold: float = 0.6
    vad_threshold: float = 0.5
    audio_track: int | None = None

    def __post_init__(self) -> None:
        language = AUTO if self.language is None else str(self.language)
        object.__setattr__(self, "language", language_code(language))
        object.__setattr__(self, "temperatures", _temperatures(self.temperatures))
        _one_of("task", self.task, TASKS)
        _one_of("algorithm", self.algorithm, (AUTO, *ALGORITHMS))
        for name, (low, high) in _RANGES.items():
            _within(name, getattr(self, name), low, high)
        for name in ("initial_prompt", "hotwords"):
            _text(name, getattr(self, name))
        _switch("word_timestamps", self.word_timestamps)
        if self.condition_on_previous_text is not None:
            _switch("condition_on_previous_text", self.condition_on_previous_text)

    @classmethod
    def of(cls, **given: object) -> Self:
        """Options by keyword, with a clear error for a name that is none.

        Raises:
            UnsupportedOption: no option has this name.
        """
        known = {entry.name for entry in fields(cls)}
        for name in given:
            if name not in known:
                raise UnsupportedOption(
                    f"unknown option: `{name}`", do=f"Options are: {', '.join(sorted(known))}"
                )
        return cls(**given)  # type: ignore[arg-type]

    def resolved(
        self,
        *,
        algorithm: str,
        chunk_seconds: float | None,
        multilingual: bool,
        beam_size: int,
        batch_size: int,
    ) -> Self:
        """These options for one model, every choice made.

        Args:
            algorithm: the one that suits the model.
            chunk_seconds: the window length that suits the model when it is chunked.
            multilingual: whether the model knows other languages than English.
            beam_size, batch_size: what suits the engine.

        Raises:
            UnsupportedOption: the model or the algorithm cannot honour an option that was set.
        """
        chosen = algorithm if self.algorithm == AUTO else self.algorithm
        for name, algorithms in _ONLY.items():
            if getattr(self, name) is not None and chosen not in algorithms:
                raise UnsupportedOption(
                    f"the {chosen} algorithm cannot honour `{name}`",
                    do=f"Leave it out, or set `algorithm` to {' or '.join(algorithms)}",
                )
        if not multilingual and self.task == "translate":
            raise UnsupportedOption(
                "this model knows English only and cannot translate",
                do="Choose a multilingual model, such as `base`",
            )
        if not multilingual and self.language not in (AUTO, "en"):
            raise UnsupportedOption(
                f"this model knows English only, not `{self.language}`",
                do="Choose a multilingual model, such as `base`",
            )
        return replace(
            self,
            algorithm=chosen,
            language=self.language if multilingual else "en",
            beam_size=self.beam_size or beam_size,
            batch_size=self.batch_size or batch_size,
            chunk_seconds=self.chunk_seconds or chunk_seconds or 30.0,
            condition_on_previous_text=bool(self.condition_on_previous_text),
        )


def _text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise UsageError(f"`{name}` is not text", do="Give a string; empty is none")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"`{name}` is not UTF-8", do="Check the terminal's encoding") from error


def _switch(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise UsageError(f"`{name}` is neither true nor false: {value!r}", do="Give a bool")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UnknownName(f"unknown {name}: `{value}`", do=f"Use one of: {', '.join(allowed)}")


def _within(name: str, value: object, low: float, high: float) -> None:
    if value is None and name in _MAY_BE_NONE:
        return
    kind = Integral if name in _WHOLE else Real
    if not isinstance(value, kind) or isinstance(value, bool):
        wanted = "a whole number" if name in _WHOLE else "a number"
        raise UsageError(f"`{name}` is `{value}`, not {wanted}", do=f"Give {low:g} to {high:g}")
    if not low <= _number(value) <= high:
        raise UsageError(
            f"`{name}` is {value}, outside {low:g} to {high:g}", do="Give a value in that range"
        )


def _number(value: Real) -> float:
    try:
        return float(value)
    except OverflowError:
        return nan  # within no bounds


def _temperatures(given: object) -> tuple[float, ...]:
    values = tuple(given) if isinstance(given, Iterable) else (given,)
    if not values:
        raise UsageError("`temperatures` is empty", do="Give one or more numbers, 0 to 2 each")
    for value in values:
        _within("temperatures", value, 0, 2)
    return values
