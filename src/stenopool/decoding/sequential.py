"""The sequential algorithm of the Whisper paper (Radford et al. 2022, section 4.5).

Each window is filled with 30 s of speech and decoded with timestamps; the next one begins where the
last complete timestamp stands. Slower than packing and not parallel, but text can be told to the
next window, which keeps spelling and style.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from stenopool.audio import SAMPLE_RATE
from stenopool.audio.features import WINDOW_SAMPLES
from stenopool.audio.windows import Piece, Window, joined
from stenopool.decoding.readings import Reading, whole
from stenopool.decoding.recognise import UNHEARD_SECONDS, Decoded, Recogniser
from stenopool.decoding.tokens import PREVIOUS_TOKENS, SECONDS_PER_TIMESTAMP, Vocabulary

LEAST_STEP_SECONDS = 1.0  # a window that gets on by less is done with as a whole


def sequential_readings(pieces: Iterable[Piece], recogniser: Recogniser) -> Iterator[Reading]:
    """Readings of a recording's speech, in order.

    Args:
        pieces: as `audio.windows.speech_pieces` gives them.
    """
    return _Walk(pieces, recogniser).readings()


class _Walk:
    """One way through a recording."""

    def __init__(self, pieces: Iterable[Piece], recogniser: Recogniser) -> None:
        self._pieces = iter(pieces)
        self._recogniser = recogniser
        self._ahead: Window | None = None  # speech that is not yet transcribed
        self._told: list[int] = []  # text tokens before the window

    def readings(self) -> Iterator[Reading]:
        while (ahead := self._filled()) is not None:
            reading, seconds = self._step(ahead.up_to(WINDOW_SAMPLES))
            self._ahead = ahead.from_time(seconds)
            yield reading

    def _filled(self) -> Window | None:
        """What is ahead, 30 s or more unless the recording ends before; `None` at its end."""
        while self._ahead is None or self._ahead.length < WINDOW_SAMPLES:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._ahead = joined(self._ahead, piece)
        return self._ahead

    def _step(self, window: Window) -> tuple[Reading, float]:
        """The reading of a window and the seconds of it that are done with."""
        recogniser = self._recogniser
        encoded = recogniser.encode([window])
        decoded = recogniser.best(window, encoded, previous=self._told, timestamps=True)
        if recogniser.is_silence(decoded):
            nothing = Reading((), decoded.figures, window.speech_seconds, window.end)
            return nothing, window.seconds
        if not recogniser.acceptable(decoded):
            self._told = []  # a loop that is told goes on for ever
            return whole(recogniser.read([window])[0]), window.seconds
        tokens, seconds = consumed(decoded.hypothesis.tokens, recogniser.vocabulary)
        chances = decoded.hypothesis.probabilities[: len(tokens)]
        hypothesis = replace(decoded.hypothesis, tokens=tokens, probabilities=chances)
        kept = replace(decoded, hypothesis=hypothesis)
        timed = recogniser.timed([kept], encoded)[0]
        self._remember(decoded)
        done = window if seconds is None else window.up_to(round(seconds * SAMPLE_RATE))
        spoken = window.length - (timed.rest.length if timed.rest else 0)
        passed_over = timed.rest is not None and timed.unheard_seconds >= UNHEARD_SECONDS
        if passed_over and spoken < done.length and spoken >= LEAST_STEP_SECONDS * SAMPLE_RATE:
            # The model says that it is done, but voice activity heard more.
            return timed.reading_before(), spoken / SAMPLE_RATE
        rest = done.from_time(spoken / SAMPLE_RATE)
        unheard = rest.speech_seconds if rest else 0.0
        return Reading(timed.words, decoded.figures, unheard, done.end), done.seconds

    def _remember(self, decoded: Decoded) -> None:
        if not self._recogniser.options.condition_on_previous_text:
            return
        text = self._recogniser.vocabulary.text_tokens(decoded.hypothesis.tokens)
        self._told = [*self._told, *text][-PREVIOUS_TOKENS:]


def consumed(tokens: Sequence[int], vocabulary: Vocabulary) -> tuple[tuple[int, ...], float | None]:
    """The tokens up to the last complete timestamp, and its seconds; `None` is the whole window."""
    stamped = [token >= vocabulary.first_timestamp for token in tokens]
    pairs = [at for at in range(1, len(tokens)) if stamped[at - 1] and stamped[at]]
    ends_alone = stamped[-2:] == [False, True]
    if not pairs or ends_alone:
        return tuple(tokens), None
    seconds = (tokens[pairs[-1] - 1] - vocabulary.first_timestamp) * SECONDS_PER_TIMESTAMP
    if seconds < LEAST_STEP_SECONDS:
        return tuple(tokens), None
    return tuple(tokens[: pairs[-1]]), seconds
