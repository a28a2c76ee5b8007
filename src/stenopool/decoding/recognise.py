"""Windows in, readings out: decode, judge, decode again what looks wrong, and time the words.

A window is decoded without timestamps: measured on packed speech, timestamps lose the ends of
windows. Word times come from cross-attention instead. What looks wrong is decoded again in halves,
which is deterministic and takes away what confused the model (a pause, a change of speaker);
sampling at rising temperatures, the Whisper paper's answer, is the last resort for short windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from stenopool.audio import SAMPLE_RATE
from stenopool.audio.features import log_mel
from stenopool.audio.windows import Window
from stenopool.decoding.options import Options
from stenopool.decoding.quality import FAST, Figures, is_silence, judge
from stenopool.decoding.readings import Reading
from stenopool.decoding.timing import PlacedWord, placed_words, timed_words
from stenopool.decoding.tokens import Vocabulary
from stenopool.engines.base import Alignment, Encoded, Engine, Hypothesis, Search
from stenopool.transcript import Word

HALVED_SECONDS = 8.0  # failing windows longer than this are decoded in halves
UNHEARD_SECONDS = 2.5  # of speech without a word: decoded again
HEARD_SECONDS = 1.0  # of speech that should give a word
MOST_ATTEMPTS = 3  # decodings of the same speech before the last resort
PLACEHOLDER = (0,)  # text to align where there is none; any token will do


@dataclass(frozen=True, slots=True)
class Decoded:
    """One window, its hypothesis and what the quality guards think of it."""

    window: Window
    hypothesis: Hypothesis
    text: str  # without white space around it
    figures: Figures


@dataclass(frozen=True, slots=True)
class Timed:
    """A decoded window with its words and the first stretch of speech that they leave out.

    Attributes:
        words: all, with times in the recording.
        before: how many of them come before that stretch.
        rest: the window from that stretch on; `None` where the words reach the end.
        unheard_seconds: length of that stretch.
        skipped_seconds: speech before the first word.
    """

    decoded: Decoded
    words: tuple[Word, ...]
    before: int
    rest: Window | None
    unheard_seconds: float
    skipped_seconds: float = 0.0

    def reading(self) -> Reading:
        """Everything, as it is."""
        dropped = self.skipped_seconds + self.unheard_seconds
        return Reading(self.words, self.decoded.figures, dropped, self.decoded.window.end)

    def reading_before(self) -> Reading:
        """The words before the stretch that is left out."""
        words = self.words[: self.before]
        return Reading(words, self.decoded.figures, self.skipped_seconds, words[-1].end)


class Recogniser:
    """One model with the options of one transcription. Safe to use from `engine.workers` threads.

    Args:
        options: resolved for the model.
        language: code of what is spoken.
    """

    def __init__(
        self, engine: Engine, vocabulary: Vocabulary, options: Options, language: str
    ) -> None:
        self.vocabulary = vocabulary
        self.options = options
        self._engine = engine
        # The text of a translation is English, and so are its word borders.
        self._text_language = "en" if options.task == "translate" else language
        self._head = vocabulary.head(language if engine.multilingual else None, options.task)
        self._context = vocabulary.context(options.hotwords, options.initial_prompt)

    @property
    def batch_size(self) -> int:
        """Windows that are read together, at most."""
        return self.options.batch_size or 1

    def read(self, windows: Sequence[Window]) -> list[list[Reading]]:
        """The readings of each window of a batch, in order; more than one where it was parted."""
        return self._read(windows, attempt=1)

    def _read(self, windows: Sequence[Window], attempt: int) -> list[list[Reading]]:
        encoded = self.encode(windows)
        decoded = self.decode(windows, encoded, self.search())
        plans = [self._plan(one, attempt) for one in self.timed(decoded, encoded)]
        again = [window for _, rest in plans for window in rest]
        redone = iter(self._read(again, attempt + 1) if again else [])
        return [
            [*kept, *(reading for _ in rest for reading in next(redone))] for kept, rest in plans
        ]

    def _plan(self, timed: Timed, attempt: int) -> tuple[list[Reading], tuple[Window, ...]]:
        """What to keep of a window, and what to decode again."""
        decoded = timed.decoded
        window = decoded.window
        final = attempt >= MOST_ATTEMPTS
        if self.acceptable(decoded) and (final or timed.skipped_seconds < UNHEARD_SECONDS):
            if timed.rest is None or timed.unheard_seconds < UNHEARD_SECONDS or final:
                return [timed.reading()], ()
            return [timed.reading_before()], (timed.rest,)
        if self.is_silence(decoded):
            return [nothing(decoded)], ()
        if window.seconds > HALVED_SECONDS and not final:
            return [], window.halves()
        return [self._last_resort(timed)], ()

    def acceptable(self, decoded: Decoded) -> bool:
        """Whether a hypothesis needs no second look."""
        if not decoded.text:
            return decoded.window.speech_seconds < HEARD_SECONDS
        return not decoded.figures.flags and not self.is_silence(decoded)

    def _last_resort(self, timed: Timed) -> Reading:
        window = timed.decoded.window
        encoded = self.encode([window])
        best = self.best(window, encoded, [timed.decoded])
        return self.timed([best], encoded)[0].reading() if self.usable(best) else nothing(best)

    def usable(self, decoded: Decoded) -> bool:
        """Whether a text may be given to the user, with its flags if it has any."""
        invented = FAST in decoded.figures.flags
        return bool(decoded.text) and not invented and not self.is_silence(decoded)

    def is_silence(self, decoded: Decoded) -> bool:
        """Whether the model itself says that nobody speaks."""
        return is_silence(decoded.figures, decoded.window.speech_seconds, self.options)

    def best(
        self,
        window: Window,
        encoded: Encoded,
        candidates: Sequence[Decoded] = (),
        *,
        previous: Sequence[int] = (),
        timestamps: bool = False,
    ) -> Decoded:
        """The first acceptable hypothesis at rising temperatures, or the best of them all.

        Args:
            candidates: hypotheses that are there already, at the lowest temperatures.
        """
        tried = list(candidates)
        for temperature in self.options.temperatures[len(tried) :]:
            tried += self.decode(
                [window],
                encoded,
                self.search(temperature),
                previous=previous,
                timestamps=timestamps,
            )
            if self.acceptable(tried[-1]):
                return tried[-1]
        return max(tried, key=_merit)

    def encode(self, windows: Sequence[Window]) -> Encoded:
        """The encoder's output for a batch of windows."""
        features = [log_mel(window.samples, self._engine.mel_bins) for window in windows]
        return self._engine.encode(np.stack(features))  # (windows, mel_bins, 3000) float32

    def search(self, temperature: float | None = None) -> Search:
        """Beam search, or sampling where the temperature is above 0; the first one by default."""
        chosen = self.options.temperatures[0] if temperature is None else temperature
        return Search(beam_size=self.options.beam_size or 1, temperature=chosen)

    def decode(
        self,
        windows: Sequence[Window],
        encoded: Encoded,
        search: Search,
        *,
        previous: Sequence[int] = (),
        timestamps: bool = False,
    ) -> list[Decoded]:
        """One hypothesis for each window.

        Args:
            previous: text tokens that came before, told to the model after prompt and hot words.
        """
        prompt = self.vocabulary.prompt(
            self._head, self._context, previous=previous, timestamps=timestamps
        )
        hypotheses = self._engine.generate(encoded, [prompt] * len(windows), search)
        return [self._judged(*pair) for pair in zip(windows, hypotheses, strict=True)]

    def _judged(self, window: Window, hypothesis: Hypothesis) -> Decoded:
        text = self.vocabulary.text(hypothesis.tokens).strip()
        figures = judge(hypothesis, text, window.speech_seconds, self.options)
        return Decoded(window, hypothesis, text, figures)

    def timed(self, decoded: Sequence[Decoded], encoded: Encoded) -> list[Timed]:
        """Align the texts of a batch to its windows."""
        texts = [self.vocabulary.text_tokens(one.hypothesis.tokens) for one in decoded]
        alignments = self._engine.align(
            encoded,
            self._head,
            [text or PLACEHOLDER for text in texts],
            [one.window.seconds for one in decoded],
        )
        return [self._timed(*each) for each in zip(decoded, texts, alignments, strict=True)]

    def _timed(self, decoded: Decoded, text: Sequence[int], alignment: Alignment) -> Timed:
        window = decoded.window
        if not decoded.text or not text:  # cut off at a timestamp, a text may keep no token
            return Timed(decoded, (), 0, window, window.speech_seconds)
        words = placed_words(
            self.vocabulary.words(text, self._text_language),
            alignment.starts,
            self._probabilities(decoded.hypothesis, alignment),
        )
        before = _words_before_hole(words)
        rest = window.from_time(words[before - 1].end)
        unheard = rest.speech_seconds if rest else 0.0
        if before < len(words):
            unheard = words[before].start - words[before - 1].end
        return Timed(
            decoded,
            timed_words(words, window),
            before,
            rest,
            unheard,
            skipped_seconds=window.up_to(round(words[0].start * SAMPLE_RATE)).speech_seconds,
        )

    def _probabilities(self, hypothesis: Hypothesis, alignment: Alignment) -> NDArray[np.float64]:
        """Of each text token."""
        if alignment.probabilities is not None:
            return alignment.probabilities
        pairs = zip(hypothesis.tokens, hypothesis.probabilities, strict=True)
        return np.array([share for token, share in pairs if token < self.vocabulary.end])


def _words_before_hole(words: Sequence[PlacedWord]) -> int:
    """How many words come before the first stretch that they leave out."""
    pairs = enumerate(pairwise(words), start=1)
    holes = (n for n, (one, following) in pairs if following.start - one.end >= UNHEARD_SECONDS)
    return next(holes, len(words))


def nothing(decoded: Decoded) -> Reading:
    """No words: all speech of the window is dropped."""
    window = decoded.window
    return Reading((), decoded.figures, window.speech_seconds, window.end)


def _merit(decoded: Decoded) -> tuple[bool, int, float]:
    return bool(decoded.text), -len(decoded.figures.flags), decoded.figures.avg_logprob
