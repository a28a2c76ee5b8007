"""What decoding asks of an inference engine. An engine knows tokens, not text or files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stenopool.audio.features import Features
from stenopool.errors import EngineFailed

POSITIONS_PER_SECOND = 50  # of the encoder's output
TEXT_POSITIONS = 448  # of every Whisper model's decoder


@dataclass(frozen=True, slots=True)
class Search:
    """How the tokens of a window are searched for.

    Attributes:
        beam_size: hypotheses kept side by side; 1 is greedy.
        temperature: 0 is deterministic; above, `best_of` samples are drawn and the best is taken.
        best_of: samples drawn when the temperature is above 0.
        max_tokens: of prompt and text together; Whisper's decoder holds 448.
    """

    beam_size: int = 5
    temperature: float = 0.0
    best_of: int = 5
    max_tokens: int = TEXT_POSITIONS


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """What the model says about one window.

    Attributes:
        tokens: ids without prompt and end token; timestamps included where they were asked for.
        avg_logprob: mean natural log-probability of the tokens, the end token included.
        no_speech_prob: probability of no speech at the start of the transcript, in [0, 1].
        probabilities: of each token, in [0, 1]; empty where the engine tells them by `align` only.
    """

    tokens: tuple[int, ...]
    avg_logprob: float
    no_speech_prob: float
    probabilities: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Alignment:
    """When each token of a text was said.

    Attributes:
        starts: (tokens + 1,) float64 seconds in the window; the last is the end of the last token.
        probabilities: (tokens,) float64 in [0, 1]; `None` where hypotheses have them already.
    """

    starts: NDArray[np.float64]
    probabilities: NDArray[np.float64] | None


def overflowed() -> EngineFailed:
    """Of numbers that are infinite, or none at all: any text would follow from them, or none."""
    return EngineFailed(
        "what the model computes overflows",
        do="Use another model, or, on a GPU, more bits (`STENO_TORCH_PRECISION=float32`)",
    )


class Encoded(Protocol):
    """A batch of windows after the encoder; its inside belongs to the engine that made it."""


class Engine(Protocol):
    """One loaded model. All methods may be called from `workers` threads at the same time.

    Attributes:
        name: `ctranslate2`, …
        device: `cpu` or `cuda`.
        precision: of the weights in use, such as `int8` or `float16`.
        mel_bins: rows of the features that it takes.
        multilingual: whether it knows languages other than English.
        workers: threads that keep it busy.
        batch_size: windows in a call that it runs best.
        short_frames: frames of the short windows that it also takes, for readings that must be
            fast; as many as a whole window has, where it takes no others.
        beam_size: hypotheses of a window that it is asked for by default.

    Raises:
        EngineFailed: any method, when inference fails.
    """

    @property
    def name(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def mel_bins(self) -> int: ...
    @property
    def multilingual(self) -> bool: ...
    @property
    def workers(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def short_frames(self) -> int: ...
    @property
    def beam_size(self) -> int: ...

    def encode(self, features: Features) -> Encoded:
        """(windows, mel_bins, 3000 or `short_frames`) float32 → the encoder's output."""
        ...

    def detect_language(self, encoded: Encoded) -> list[dict[str, float]]:
        """For each window the probability of each language code; multilingual models only."""
        ...

    def generate(
        self, encoded: Encoded, prompts: Sequence[Sequence[int]], search: Search
    ) -> list[Hypothesis]:
        """Transcribe: one prompt and one hypothesis for each window.

        Windows that share a call have the same prompt. An `Encoded` is used by one call at a time.
        """
        ...

    def align(
        self,
        encoded: Encoded,
        start: Sequence[int],
        texts: Sequence[Sequence[int]],
        seconds: Sequence[float],
    ) -> list[Alignment]:
        """Align texts to their windows by cross-attention (dynamic time warping).

        Args:
            encoded: the windows.
            start: tokens before each text, such as start of transcript, language and task.
            texts: text tokens without timestamps, one list for each window; none is empty.
            seconds: length of the sound in each window.
        """
        ...
