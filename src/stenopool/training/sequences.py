"""What a decoder reads and is to write for a window: prompt, text, and with what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from stenopool.decoding.languages import AUTO, language_code
from stenopool.decoding.tokens import PREVIOUS_TOKENS, Vocabulary
from stenopool.errors import UsageError
from stenopool.training.labels import LabelledWindow, timestamped

UNLABELLED = -1  # a token that is no label


@dataclass(frozen=True, slots=True)
class Prompted:
    """Tokens from the first of the prompt to the end of the text.

    Attributes:
        start: place of the start of transcript; all tokens after it are learned.
        split: places of tokens that are first halves of what would be said in one.
    """

    tokens: tuple[int, ...]
    start: int
    split: frozenset[int] = frozenset()


class Sequences:
    """Makes sequences for one model.

    Args:
        tokenizer: first digits of the SHA-256 of the model's tokenizer.
        multilingual: whether the model is told language and task.
        most: tokens that the decoder has positions for.
        reference: learn the given texts.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        tokenizer: str,
        *,
        multilingual: bool,
        most: int,
        reference: bool,
    ) -> None:
        self.vocabulary = vocabulary
        self._tokenizer, self._multilingual = tokenizer, multilingual
        self._most, self._reference = most, reference
        self._halves = cache(vocabulary.halves)

    def head(self, window: LabelledWindow) -> list[int]:
        """Start of transcript, and for multilingual models language and task.

        Raises:
            UsageError: the language is unknown.
        """
        if not self._multilingual:
            return self.vocabulary.head(None, "transcribe")
        code = language_code(window.language or AUTO)
        if code == AUTO:
            raise UsageError(
                f"`{window.id}` names no language", do="Give each recording its `language`"
            )
        return self.vocabulary.head(code, "transcribe")

    def label(self, window: LabelledWindow) -> tuple[int, ...]:
        """The tokens that are learned, with timestamps where there are any.

        Raises:
            UsageError: there is no text, or more of it than the decoder holds.
        """
        tokens = self._label(window)
        if not tokens:
            raise UsageError(f"`{window.id}` has no text", do="Run `steno data filter` first")
        room = self._most - len(self.head(window)) - 1
        if len(tokens) >= room:
            raise UsageError(
                f"`{window.id}` has {len(tokens)} tokens; the decoder has room for {room - 1}",
                do="Leave it out with `--on-bad skip`",
            )
        return tokens

    def _label(self, window: LabelledWindow) -> tuple[int, ...]:
        if self._reference:
            return self._encoded(window.reference or "")
        if window.tokens and window.tokenizer == self._tokenizer:
            return window.tokens
        if window.passages:
            return timestamped(window.passages, self.vocabulary)
        return self._encoded(window.text)

    def _encoded(self, text: str) -> tuple[int, ...]:
        return tuple(self.vocabulary.encode(f" {text.strip()}")) if text.strip() else ()

    def sequence(
        self,
        window: LabelledWindow,
        *,
        timestamps: bool = False,
        previous: LabelledWindow | None = None,
        speed: float = 1.0,
    ) -> Prompted:
        """Prompt and label.

        Args:
            timestamps: with them, where the label has any.
            previous: the window before, whose text is told.
            speed: how many times as fast the window is played.
        """
        label = self.label(window)
        first = self.vocabulary.first_timestamp
        has_times = any(token >= first for token in label)
        if timestamps and has_times:
            label = tuple(
                token if token < first else first + round((token - first) / speed)
                for token in label
            )
        else:
            label = tuple(token for token in label if token < first)
        head = self.head(window)
        room = self._most - len(head) - 2 - len(label)
        told = self._told(previous, room) if previous is not None else []
        prompt = self.vocabulary.prompt(
            head, (), previous=told, timestamps=timestamps and has_times
        )
        whole = (*prompt, *label, self.vocabulary.end)
        return Prompted(whole, prompt.index(self.vocabulary.start))

    def split(self, one: Prompted, share: float, random: np.random.Generator) -> Prompted:
        """A sequence with so many of its text tokens told as two (Provilkov et al. 2020)."""
        tokens = list(one.tokens[: one.start + 1])
        halved: list[int] = []
        room = self._most - len(one.tokens)
        for token in one.tokens[one.start + 1 :]:
            ways = []
            if token < self.vocabulary.end and random.random() < share and len(halved) < room:
                ways = self._halves(token)
            if ways:
                halved.append(len(tokens))
                tokens += ways[int(random.integers(len(ways)))]
            else:
                tokens.append(token)
        return Prompted(tuple(tokens), one.start, frozenset(halved))

    def _told(self, previous: LabelledWindow, room: int) -> list[int]:
        """The end of the text before, as far as there is room; each piece of it is a token."""
        tokens = self.vocabulary.text_tokens(self._label(previous))
        kept = min(room - 1, PREVIOUS_TOKENS)
        return tokens[-kept:] if kept > 0 else []


def padded(sequences: Sequence[Prompted], end: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sequences as arrays, padded on the right, which a causal decoder does not look at.

    Returns:
        what is read: (windows, longest) int64; where something is learned: (tokens,) places in it,
        flattened; what is learned there: (tokens,), `UNLABELLED` where only the teacher says that.
    """
    longest = max(len(one.tokens) for one in sequences) - 1
    read = np.full((len(sequences), longest), end, dtype=np.int64)
    places: list[int] = []
    learned: list[int] = []
    for row, one in enumerate(sequences):
        count = len(one.tokens) - 1
        read[row, :count] = one.tokens[:-1]
        places += [row * longest + at for at in range(one.start, count)]
        learned += [
            UNLABELLED if at in one.split else one.tokens[at]
            for at in range(one.start + 1, len(one.tokens))
        ]
    return read, np.array(places, dtype=np.int64), np.array(learned, dtype=np.int64)
