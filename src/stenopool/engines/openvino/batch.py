"""The batch that runs: windows join it when there is a place, and leave it when their text is done.

Each step feeds the newest tokens of all windows to `decoder.writer`, whose state holds what came
before. A row of that state is a hypothesis, a column a step. A window that joins later has nothing
in the columns before its own, and they are masked; when all windows have left them behind, they are
cut off.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from stenopool.engines.base import Hypothesis
from stenopool.engines.openvino.memory import Room, Rooms
from stenopool.engines.rules import Next
from stenopool.engines.search import Strategy
from stenopool.engines.special import Special
from stenopool.errors import EngineFailed

UNHEARD = -1e9  # added to the scores of what is not attended to

STALE_COLUMNS = 96  # then they are cut off: the cut takes as long as a step or two
STEPS_BEFORE_NARROWING = 8  # each new shape costs OpenVINO half a step


@dataclass(slots=True, eq=False)
class Decoding:
    """The decoding of one window.

    Attributes:
        heard: the window; its room is empty from when it joins the batch until it has left.
        prompt: what is still to be fed of the prompt, in stretches: up to the start token, and the
            rest.
        left: tokens that may still be written.
        outcome: the result, or why there is none.
        has_left: the batch: the outcome is there, and so is the window.
        first_column: of the batch's state, with a token of this window.
        length: tokens in the state.
        first_row: of this window, in the last step.
    """

    heard: Room
    prompt: deque[list[int]]
    strategy: Strategy
    left: int
    outcome: Hypothesis | EngineFailed | None = None
    has_left: bool = False
    no_speech_prob: float = 0.0
    first_column: int = 0
    length: int = 0
    first_row: int = 0

    @classmethod
    def of(
        cls, heard: Room, prompt: Sequence[int], strategy: Strategy, left: int, special: Special
    ) -> Self:
        """The decoding of a window after a prompt that has the start token."""
        cut = list(prompt).index(special.start) + 1
        stretches = deque(list(part) for part in (prompt[:cut], prompt[cut:]) if part)
        return cls(heard, stretches, strategy, left)

    @property
    def stretch(self) -> int:
        """Tokens that can be fed at once."""
        return len(self.prompt[0]) if self.prompt else 1

    @property
    def lanes(self) -> int:
        """Hypotheses that go on."""
        return 1 if self.prompt else len(self.strategy.tokens)

    def tokens(self, count: int, lanes: int) -> list[list[int]]:
        """The next tokens of each lane, the first lane's again where there is no other."""
        if self.prompt:
            return [self.prompt[0][:count]] * lanes
        tokens = [[token] for token in self.strategy.tokens]
        return [*tokens, *tokens[:1] * (lanes - len(tokens))]

    def parents(self, lanes: int) -> list[int]:
        """The row of the last step that each lane goes on from."""
        parents = [] if self.prompt else self.strategy.parents
        found = [self.first_row + parent for parent in parents] or [self.first_row]
        return [*found, *found[:1] * (lanes - len(found))]

    def advance(self, count: int, following: Next, special: Special) -> None:
        """Take what follows the tokens that were fed."""
        self.length += count
        if self.prompt:
            stretch = self.prompt[0]
            last = stretch[count - 1]
            del stretch[:count]
            if last == special.start and not stretch:
                share = following.special_shares(special.no_speech - special.end)
                self.no_speech_prob = float(share[0])
            if not stretch:
                self.prompt.popleft()
            if self.prompt:
                return
        self.strategy.advance(following)
        self.left -= 1
        if self.strategy.done or self.left <= 0:
            self.outcome = self.strategy.best(self.no_speech_prob)


class Batch:
    """Decodes windows together, a step at a time. One thread at a time may use it.

    Args:
        request: of `decoder.writer`.
        rooms: those of the windows. One that is in the batch lies there only.
        places: windows that are decoded together.
        least: rows at the least; where there are fewer, some stand there twice.
    """

    def __init__(
        self, request: ov.InferRequest, rooms: Rooms, places: int, special: Special, least: int
    ) -> None:
        self._request, self._rooms, self._places, self._special = request, rooms, places, special
        self._room = rooms.built(places)
        self._least = least
        self._waiting: deque[Decoding] = deque()
        self._active: list[Decoding] = []
        self._columns = 0  # of the state
        self._rest: NDArray[np.float32] = np.empty(0, np.float32)  # of a variable that was cut
        self._needed: deque[int] = deque(maxlen=STEPS_BEFORE_NARROWING)  # lanes in the last steps

    def add(self, decodings: Sequence[Decoding]) -> None:
        """Let windows wait for their places; any thread may do so at any time."""
        self._waiting.extend(decodings)

    def step(self) -> None:
        """Go on by one step. What fails is told in the decodings that were part of it."""
        try:
            self._join()
            if self._active:
                self._advance()
                self._release()
        except BaseException as error:
            failure = (
                error
                if isinstance(error, EngineFailed)
                else EngineFailed(f"A batch was given up: {type(error).__name__}", do="Try again")
            )
            for place, one in enumerate(self._active):
                self._rooms.fill(one.heard, self._room, place)
                one.outcome, one.has_left = failure, True
            self._active.clear()
            if not isinstance(error, EngineFailed):
                raise

    def _join(self) -> None:
        """Give free places to windows that wait."""
        if not self._active:
            self._request.reset_state()
            self._columns = 0
            self._needed.clear()
        before = len(self._active)
        while self._waiting and len(self._active) < self._places:
            one = self._waiting.popleft()
            one.first_column = self._columns
            self._room.put(len(self._active), one.heard)
            self._rooms.empty(one.heard)
            self._active.append(one)
        if len(self._active) > before:
            self._hear()

    def _hear(self) -> None:
        """From now on the windows in the first places are decoded."""
        for name, tensor in self._room.tensors(len(self._active)).items():
            self._request.set_tensor(name, tensor)

    def _advance(self) -> None:
        self._cut()
        count = min(one.stretch for one in self._active)
        self._needed.append(max(one.lanes for one in self._active))
        lanes = max(*self._needed, -(-self._least // len(self._active)))
        following = self._next(count, lanes)
        for place, one in enumerate(self._active):
            one.first_row = place * lanes
            rows = slice(one.first_row, one.first_row + one.lanes)
            one.advance(count, following.of(rows), self._special)

    def _next(self, count: int, lanes: int) -> Next:
        """What follows after `count` new tokens in each lane of each window."""
        active = self._active
        total = self._columns + count
        mask = np.zeros((len(active), lanes, count, total), dtype=np.float32)
        for place, one in enumerate(active):
            mask[place, ..., : one.first_column] = UNHEARD
        if count > 1:
            mask += np.triu(np.full((count, total), UNHEARD, np.float32), self._columns + 1)
        lengths = np.repeat([one.length for one in active], lanes)
        tokens = [row for one in active for row in one.tokens(count, lanes)]
        parents = [row for one in active for row in one.parents(lanes)]
        inputs: dict[str, NDArray[Any]] = {
            "tokens": np.array(tokens, dtype=np.int32),
            "positions": (lengths[:, None] + np.arange(count)).astype(np.int32),
            "parents": np.array(parents, dtype=np.int32),
            "mask": mask.reshape(-1, 1, count, total),
        }
        infer(self._request, inputs)
        self._columns = total
        names = ("ids", "logits", "mass", "specials")
        return Next(*(self._request.get_tensor(name).data for name in names))

    def _cut(self) -> None:
        """Cut off the columns that all windows have left behind, when there are many."""
        stale = min(one.first_column for one in self._active)
        if stale < STALE_COLUMNS:
            return
        with failures():
            for variable in self._request.query_state():
                kept = variable.state.data[:, :, stale:]
                if self._rest.size < kept.size:
                    self._rest = np.empty(kept.size, kept.dtype)
                rest = self._rest[: kept.size].reshape(kept.shape)
                rest[...] = kept
                # OpenVINO copies this, and yet holds it until the next cut: one for all variables.
                variable.state = ov.Tensor(rest, shared_memory=True)
        self._columns -= stale
        for one in self._active:
            one.first_column -= stale

    def _release(self) -> None:
        """Let windows go that are done; the last ones take their places."""
        before = len(self._active)
        for place in reversed(range(before)):
            one = self._active[place]
            if one.outcome:
                self._rooms.fill(one.heard, self._room, place)
                last = self._active.pop()
                if place < len(self._active):
                    self._active[place] = last
                    self._room.move(len(self._active), place)
                one.has_left = True
        if 0 < len(self._active) < before:
            self._hear()


def infer(request: ov.InferRequest, inputs: Mapping[str, NDArray[Any]]) -> None:
    """Run a graph on these inputs and those that were set before."""
    with failures():
        for name, values in inputs.items():
            request.set_tensor(name, ov.Tensor(values))
        request.infer()


@contextmanager
def failures() -> Iterator[None]:
    """OpenVINO's errors as ours."""
    try:
        yield
    except RuntimeError as error:
        raise EngineFailed(
            f"OpenVINO failed: {error}",
            do="Try `--engine ctranslate2`; if it stays, run `steno doctor` and report it",
        ) from error
