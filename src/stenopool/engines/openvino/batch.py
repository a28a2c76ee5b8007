"""The batch that runs: windows join it when there is a place, and leave it when their text is done.

Each step feeds the newest tokens of all windows to the decoder.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from stenopool.engines.base import Hypothesis
from stenopool.engines.openvino.decoder import Decoder, Heard, Past, Rows
from stenopool.engines.rules import Next
from stenopool.engines.search import Strategy
from stenopool.engines.special import Special
from stenopool.errors import EngineFailed


@dataclass(slots=True, eq=False)
class Decoding:
    """The decoding of one window.

    Attributes:
        prompt: what is still to be fed of it.
        left: tokens that may still be written.
        past: what has been fed; there from when the window joins the batch.
        outcome: the result, or why there is none.
        has_left: the batch.
    """

    heard: Heard
    prompt: Sequence[int]
    strategy: Strategy
    left: int
    past: Past | None = None
    outcome: Hypothesis | EngineFailed | None = None
    has_left: bool = False
    no_speech_prob: float = 0.0

    def rows(self, past: Past, special: Special) -> Rows:
        """What is fed next."""
        if self.prompt:
            past.grow([0], len(self.prompt))
            last, start = len(self.prompt) - 1, list(self.prompt).index(special.start)
            return Rows(self.heard, past, self.prompt, sorted({start, last}))
        past.grow(self.strategy.parents, 1)
        return Rows(self.heard, past, self.strategy.tokens, range(len(self.strategy.tokens)))

    def advance(self, following: Next, special: Special) -> None:
        """Take what follows the rows that were asked for."""
        if self.prompt:
            share = following.special_shares(special.no_speech - special.end)
            self.no_speech_prob = float(share[0])
            self.prompt = ()
            following = following.of(slice(-1, None))
        self.strategy.advance(following)
        self.left -= 1
        if self.strategy.done or self.left <= 0:
            self.outcome = self.strategy.best(self.no_speech_prob)


class Batch:
    """Decodes windows together, a step at a time. One thread at a time may use it.

    Args:
        places: windows that are decoded together.
    """

    def __init__(self, decoder: Decoder, places: int, special: Special) -> None:
        self._decoder, self._places, self._special = decoder, places, special
        self._waiting: deque[Decoding] = deque()
        self._active: list[Decoding] = []

    def add(self, decodings: Sequence[Decoding]) -> None:
        """Let windows wait for their places; any thread may do so at any time."""
        self._waiting.extend(decodings)

    def step(self) -> None:
        """Go on by one step. What fails is told in the decodings that were part of it."""
        try:
            while self._waiting and len(self._active) < self._places:
                self._active.append(self._waiting.popleft())
            if self._active:
                self._advance()
        except BaseException as error:
            failure = (
                error
                if isinstance(error, EngineFailed)
                else EngineFailed(f"A batch was given up: {type(error).__name__}", do="Try again")
            )
            for one in self._active:
                one.outcome = failure
            self._release()
            if not isinstance(error, EngineFailed):
                raise
        else:
            self._release()

    def _advance(self) -> None:
        windows = []
        for one in self._active:
            one.past = one.past or self._decoder.past()
            windows.append(one.rows(one.past, self._special))
        following = self._decoder.step(windows)
        first = 0
        for one, rows in zip(self._active, windows, strict=True):
            last = first + len(rows.asked)
            try:
                one.advance(following.of(slice(first, last)), self._special)
            except EngineFailed as error:  # of this window alone
                one.outcome = error
            first = last

    def _release(self) -> None:
        """Let windows go that are done."""
        for one in self._active:
            one.has_left = one.outcome is not None
            if one.has_left:
                one.past = None
        self._active = [one for one in self._active if not one.has_left]
