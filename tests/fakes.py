"""A scripted engine: it hears words as tones, so that unit tests need no weights.

Each word of `WORDS` is a tone of its own pitch. The engine finds the tones in the log-mel features
that it is given, so windows that are cut, packed or halved are heard as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from stenopool.audio import SAMPLE_RATE, Samples
from stenopool.audio.features import FRAMES_PER_SECOND, Features, log_mel
from stenopool.audio.windows import Piece, Window
from stenopool.decoding.options import Options
from stenopool.decoding.readings import Reading
from stenopool.decoding.tokens import SECONDS_PER_TIMESTAMP, Vocabulary
from stenopool.engines.base import Alignment, Encoded, Hypothesis, Search

if TYPE_CHECKING:
    from stenopool import Transcriber

WORDS = [
    "apple",
    "bird",
    "chair",
    "dog",
    "earth",
    "fire",
    "garden",
    "house",
    "island",
    "jacket",
    "king",
    "lemon",
    "moon",
    "night",
    "ocean",
    "paper",
    "queen",
    "river",
    "stone",
    "tree",
    "uncle",
    "valley",
    "water",
    "yellow",
    "zero",
    "butter",
]
WORD_SECONDS = 0.4  # of tone
GAP_SECONDS = 0.1  # after each
PACE = WORD_SECONDS + GAP_SECONDS
SHORTEST_HEARD = 0.25  # seconds of a word that must be in the window to be understood
FULL_SECONDS = 29.0  # a window with words after this ends in the middle of speech
SENTENCE = 5  # words between timestamps


def said(words: Iterable[str]) -> Samples:
    """Tones that the fake engine hears as these words, 0.5 s each."""
    return np.concatenate([_tone(WORDS.index(word)) for word in words])


def _tone(number: int) -> Samples:
    time = np.arange(round(WORD_SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    wave = 0.5 * np.sin(2 * np.pi * (400 + 220 * number) * time)
    return np.pad(wave, (0, round(GAP_SECONDS * SAMPLE_RATE))).astype(np.float32)


def story(count: int) -> list[str]:
    """Words in an order that does not repeat itself soon."""
    rounds = -(-count // len(WORDS))
    shuffled = [np.random.default_rng(seed).permutation(WORDS).tolist() for seed in range(rounds)]
    return [word for words in shuffled for word in words][:count]


def spoken(samples: Samples, *, at: float = 0.0) -> Piece:
    """A piece of a recording that is speech all over."""
    start = round(at * SAMPLE_RATE)
    return Piece(samples, start, start + len(samples), start, start + len(samples))


def window_of(words: Iterable[str], *, at: float = 0.0) -> Window:
    return Window((spoken(said(words), at=at),))


def settled(**given: object) -> Options:
    """Options as a model's defaults would resolve them, without sampling unless it is given."""
    options = Options.of(**{"algorithm": "packed", "temperatures": (0.0,), **given})
    return options.resolved(
        algorithm="packed", chunk_seconds=None, multilingual=True, beam_size=5, batch_size=8
    )


def vocabulary_of(transcriber: Transcriber) -> Vocabulary:
    """The real tokens of a Whisper model."""
    return Vocabulary(transcriber.model.folder / "tokenizer.json")


def text_of(readings: Iterable[Reading]) -> list[str]:
    return [word.word.strip() for reading in readings for word in reading.words]


@dataclass(frozen=True, slots=True)
class Tone:
    """A word that was heard, with its times in seconds of the window."""

    word: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Asked:
    """One window of one call of `generate`: what a script decides by.

    Attributes:
        call: number of the call, from 0.
    """

    call: int
    tones: tuple[Tone, ...]
    prompt: tuple[int, ...]
    search: Search

    @property
    def words(self) -> list[str]:
        return [tone.word for tone in self.tones]


Script = Callable[[Asked], Hypothesis | str | None]


def hears(features: Features) -> tuple[Tone, ...]:
    """The tones in (mel_bins, 3000) features."""
    loudest = float(features.max())
    if loudest < -1.0:  # digital silence
        return ()
    loud = features.max(axis=0) > loudest - 0.4
    edges = np.flatnonzero(np.diff(loud, prepend=False, append=False)).reshape(-1, 2)
    tones = []
    for first, after in edges.tolist():
        if (after - first) / FRAMES_PER_SECOND < SHORTEST_HEARD:
            continue
        pitch = features[:, first:after].mean(axis=1)
        word = WORDS[int(np.argmax(_templates(len(features)) @ pitch))]
        tones.append(Tone(word, first / FRAMES_PER_SECOND, after / FRAMES_PER_SECOND))
    return tuple(tones)


_TEMPLATES: dict[int, NDArray[np.float32]] = {}


def _templates(mel_bins: int) -> NDArray[np.float32]:
    """(words, mel_bins) float32: what each word sounds like, of equal length."""
    if mel_bins not in _TEMPLATES:
        frames = round(WORD_SECONDS * FRAMES_PER_SECOND)
        rows = [log_mel(_tone(n), mel_bins)[:, :frames].mean(axis=1) for n in range(len(WORDS))]
        table = np.stack(rows) - np.mean(rows)
        _TEMPLATES[mel_bins] = table / np.linalg.norm(table, axis=1, keepdims=True)
    return _TEMPLATES[mel_bins]


@dataclass
class FakeEngine:
    """Hears tones as words, except where the script says otherwise.

    Args:
        vocabulary: real tokens.
        script: gives a hypothesis or a text for a window; `None` for what is heard.
        languages: answers of `detect_language`, one for each window, the last one for ever.
        tells_early: probabilities of tokens come with hypotheses, not with alignments.
    """

    vocabulary: Vocabulary
    script: Script = field(default=lambda asked: None)
    languages: Sequence[dict[str, float]] = ()
    name: str = "fake"
    device: str = "cpu"
    precision: str = "float32"
    mel_bins: int = 80
    multilingual: bool = False
    workers: int = 1
    batch_size: int = 8
    short_frames: int = 1000
    beam_size: int = 5
    tells_early: bool = False
    asked: list[Asked] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    detected: int = 0

    def encode(self, features: Features) -> Encoded:
        assert features.shape[1] == self.mel_bins
        assert features.shape[2] in {3000, self.short_frames}
        assert features.dtype == np.float32
        return cast(Encoded, features)

    def detect_language(self, encoded: Encoded) -> list[dict[str, float]]:
        answers = []
        for _ in _features(encoded):
            answers.append(self.languages[min(self.detected, len(self.languages) - 1)])
            self.detected += 1
        return answers

    def generate(
        self, encoded: Encoded, prompts: Sequence[Sequence[int]], search: Search
    ) -> list[Hypothesis]:
        call = len(self.batches)
        self.batches.append(len(prompts))
        return [
            self._told(self._answer(Asked(call, hears(features), tuple(prompt), search)))
            for features, prompt in zip(_features(encoded), prompts, strict=True)
        ]

    def _told(self, answer: Hypothesis) -> Hypothesis:
        if not self.tells_early:
            return answer
        return replace(answer, probabilities=tuple(map(chance_of, answer.tokens)))

    def _answer(self, asked: Asked) -> Hypothesis:
        self.asked.append(asked)
        answer = self.script(asked)
        if isinstance(answer, Hypothesis):
            return answer
        if answer is not None:
            return hypothesis(self.vocabulary, answer)
        if asked.prompt[-1] == self.vocabulary.no_timestamps:
            return hypothesis(self.vocabulary, " ".join(asked.words))
        return Hypothesis(stamped(self.vocabulary, asked.tones), -0.2, 0.01)

    def align(
        self,
        encoded: Encoded,
        start: Sequence[int],
        texts: Sequence[Sequence[int]],
        seconds: Sequence[float],
    ) -> list[Alignment]:
        assert all(texts), "the real engine refuses an empty text"
        found = [
            self._aligned(hears(features), text, length)
            for features, text, length in zip(_features(encoded), texts, seconds, strict=True)
        ]
        return [replace(one, probabilities=None) for one in found] if self.tells_early else found

    def _aligned(self, tones: Sequence[Tone], text: Sequence[int], seconds: float) -> Alignment:
        """Each word at the next tone that is this word; evenly where there is no such tone."""
        starts: list[float] = []
        left = list(tones)
        end = seconds
        for word, count in self.vocabulary.words(text, "en"):
            while left and left[0].word != word.strip():
                left.pop(0)
            if not left:
                even = np.linspace(0.0, seconds, len(text) + 1)
                return Alignment(even, np.full(len(text), 0.5))
            tone = left.pop(0)
            starts += np.linspace(tone.start, tone.end, count, endpoint=False).tolist()
            end = tone.end
        starts[0] = 0.0  # a warping path begins at the window's first frame, whatever is there
        return Alignment(np.array([*starts, end]), np.full(len(text), 0.9))


def chance_of(token: int) -> float:
    """The probability that is told early: each token has its own."""
    return (token % 97 + 1) / 98


def _features(encoded: Encoded) -> Features:
    return cast(Any, encoded)  # type: ignore[no-any-return]


def text_tokens(vocabulary: Vocabulary, text: str) -> tuple[int, ...]:
    """Tokens of a text with a space before it."""
    return tuple(vocabulary.encode(f" {text}")) if text else ()


def hypothesis(
    vocabulary: Vocabulary, text: str, *, logprob: float = -0.2, no_speech: float = 0.01
) -> Hypothesis:
    return Hypothesis(text_tokens(vocabulary, text), logprob, no_speech)


def stamped(vocabulary: Vocabulary, tones: Sequence[Tone]) -> tuple[int, ...]:
    """Sentences between timestamps; the last one is left open where the window is full."""
    tokens: list[int] = []
    for at in range(0, len(tones), SENTENCE):
        group = tones[at : at + SENTENCE]
        text = text_tokens(vocabulary, " ".join(tone.word for tone in group))
        tokens += [stamp(vocabulary, group[0].start), *text]
        open_end = at + SENTENCE >= len(tones) and group[-1].end > FULL_SECONDS
        tokens += [] if open_end else [stamp(vocabulary, group[-1].end)]
    return tuple(tokens)


def stamp(vocabulary: Vocabulary, seconds: float) -> int:
    return vocabulary.first_timestamp + round(seconds / SECONDS_PER_TIMESTAMP)
