"""What is doubtful about a text: figures, flags, and when to decode again.

Flags of a segment:
    `repetition`: a loop that decoding again did not remove.
    `low_probability`: the average log-probability stayed below the threshold.
    `fast`: more words than anybody says in that time; typical of invented text.
Flags of a transcript: `no_speech`, `speech_dropped`, `language_uncertain`, and what was wrong with
the media (see `stenopool.audio.media`).
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

from stenopool.decoding.options import Options
from stenopool.engines.base import Hypothesis, overflowed

REPETITION = "repetition"
LOW_PROBABILITY = "low_probability"
FAST = "fast"
NO_SPEECH = "no_speech"
SPEECH_DROPPED = "speech_dropped"
LANGUAGE_UNCERTAIN = "language_uncertain"

FASTEST_CHARACTERS = 40.0  # a second of speech; an auctioneer reaches 25
BRIEF_SECONDS = 2.0  # of speech in a window
BRIEF_NO_SPEECH = 0.85  # probability
LONGEST_PATTERN = 12  # words in a loop
MOST_REPEATS = {1: 6, 2: 4, 3: 4}  # of a pattern of so many words that people do say in a row
FEWEST_REPEATS = 3  # of a longer pattern that make a loop


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of one window's text."""

    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float
    flags: tuple[str, ...]


def compression_ratio(text: str) -> float:
    """Bytes of UTF-8 before over after zlib; 0 for no text. Whisper's measure of repetition."""
    data = text.encode()
    return len(data) / len(zlib.compress(data)) if data else 0.0


def has_loop(text: str) -> bool:
    """Whether words come again and again directly after one another.

    Finds short loops at the end of long texts, which the compression ratio of the whole misses.
    """
    words = text.lower().split() if " " in text.strip() else list(text.strip())
    return any(_repeats(words, length) for length in range(1, LONGEST_PATTERN + 1))


def _repeats(words: list[str], length: int) -> bool:
    needed = MOST_REPEATS.get(length, FEWEST_REPEATS - 1) * length
    run = 0  # words that equal those one pattern earlier
    for earlier, later in zip(words, words[length:], strict=False):
        run = run + 1 if earlier == later else 0
        if run >= needed:
            return True
    return False


def judge(hypothesis: Hypothesis, text: str, speech_seconds: float, options: Options) -> Figures:
    """Figures and flags of a window's text.

    Raises:
        EngineFailed: the model is sure by what is no number, so that the text means nothing.
    """
    if not math.isfinite(hypothesis.avg_logprob):
        raise overflowed()
    ratio = compression_ratio(text)
    flags = []
    if ratio > options.compression_ratio_threshold or has_loop(text):
        flags.append(REPETITION)
    if hypothesis.avg_logprob < options.logprob_threshold:
        flags.append(LOW_PROBABILITY)
    if len(text) > FASTEST_CHARACTERS * max(speech_seconds, 0.1):
        flags.append(FAST)
    return Figures(hypothesis.avg_logprob, hypothesis.no_speech_prob, ratio, tuple(flags))


def is_silence(figures: Figures, speech_seconds: float, options: Options) -> bool:
    """Whether the model itself says that nobody speaks.

    The rule of the Whisper paper (section 4.5), and one of our own for a moment of sound on its
    own, such as the beginning of a hum: there the model is sure of its `you` or `Bye.`, but surer
    that nobody speaks. Measured on 375 recordings of one digit, the probability of no speech was
    above 0.8 in one of 200, and in none that was understood; on hums and chords it was above 0.88.
    """
    if speech_seconds < BRIEF_SECONDS and figures.no_speech_prob > BRIEF_NO_SPEECH:
        return True
    return (
        figures.no_speech_prob > options.no_speech_threshold
        and figures.avg_logprob < options.logprob_threshold
    )
