"""The decoding of a batch of windows: the graph's steps and the hypotheses that they serve."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from stenopool.engines.base import Hypothesis, Search
from stenopool.engines.openvino.search import Next, Special, Strategy, strategy
from stenopool.errors import EngineFailed
from stenopool.models.weights import AUDIO_POSITIONS, HEAD_WIDTH, WhisperShape

UNHEARD = -1e9  # added to the scores of what is not attended to


Bits = NDArray[Any]  # uint16 or float32; NumPy has no bfloat16: its bits as numbers


@dataclass(slots=True, weakref_slot=True, eq=False)
class Heard:
    """The keys and values of a batch of windows.

    Attributes:
        audio: by input name, arrays of all windows, (windows, heads, …).
        stored: the type that the arrays stand for.
        order: the window at each place; a window that is done changes places with another.
    """

    audio: dict[str, Bits]
    stored: ov.Type
    order: list[int]

    def tensors(self, first: int, after: int) -> dict[str, ov.Tensor]:
        """The windows in some places, where they lie.

        OpenVINO would copy a view of one of its own tensors at each inference.
        """
        return {
            name: ov.Tensor(bits[first:after], ov.Shape(bits[first:after].shape), self.stored)
            for name, bits in self.audio.items()
        }

    def swap(self, one: int, other: int) -> None:
        """Let two windows change places."""
        if one == other:
            return
        for bits in self.audio.values():
            bits[[one, other]] = bits[[other, one]]
        self.order[one], self.order[other] = self.order[other], self.order[one]


class Rooms:
    """Memory for the keys and values of batches, used again: fresh pages cost a tenth of encoding.

    There are as many rooms as batches were ever held at the same time, each as large as its largest
    batch.
    """

    def __init__(self, shape: WhisperShape, stored: ov.Type) -> None:
        self._shape, self._stored = shape, stored
        self._free: deque[dict[str, Bits]] = deque()

    def take(self, windows: int) -> Heard:
        """Room for a batch, which is free again when nobody holds it any more."""
        try:
            room = self._free.pop()
        except IndexError:
            room = {}
        if not room or len(room["0.keys"]) < windows:
            room = self._built(windows)
        audio = {name: bits[:windows] for name, bits in room.items()}
        heard = Heard(audio, self._stored, list(range(windows)))
        weakref.finalize(heard, self._free.append, room)
        return heard

    def _built(self, windows: int) -> dict[str, Bits]:
        kind: type[np.uint16 | np.float32] = (
            np.uint16 if self._stored == ov.Type.bf16 else np.float32
        )
        heads = self._shape.heads
        built: dict[str, Bits] = {}
        for layer in range(self._shape.decoder_layers):
            built[f"{layer}.keys"] = np.empty((windows, heads, AUDIO_POSITIONS, HEAD_WIDTH), kind)
            built[f"{layer}.values"] = np.empty((windows, heads, HEAD_WIDTH, AUDIO_POSITIONS), kind)
        return built


class Stepper:
    """Feeds tokens to the decoder, whose state holds what came before."""

    def __init__(self, request: ov.InferRequest, heard: Heard) -> None:
        self._request, self._heard, self._fed = request, heard, 0
        request.reset_state()
        self.hear(len(heard.order))

    def hear(self, windows: int) -> None:
        """From now on only the first windows are decoded."""
        for name, tensor in self._heard.tensors(0, windows).items():
            self._request.set_tensor(name, tensor)

    def begin(self, tokens: Sequence[int]) -> Next:
        """What follows after the same new tokens in all windows, which have one row each."""
        windows = len(self._heard.order)
        return self.step([tokens] * windows, range(windows), [1] * windows)

    def step(
        self, tokens: Sequence[Sequence[int]], parents: Sequence[int], counts: Sequence[int]
    ) -> Next:
        """What follows after new tokens, as many for each row.

        Args:
            parents: the row of the last step that each row goes on from.
            counts: rows of each window.
        """
        new = np.array(tokens, dtype=np.int32)
        count, past = new.shape[1], self._fed
        mask = np.triu(np.full((count, past + count), UNHEARD, np.float32), past + 1)
        lanes, places = _lanes(counts)
        inputs = {
            "tokens": new,
            "positions": np.arange(past, past + count, dtype=np.int32),
            "parents": np.array(parents, dtype=np.int32),
            "mask": mask[None, None],
            "lanes": lanes,
            "places": places,
        }
        infer(self._request, inputs)
        self._fed += count
        names = ("ids", "logits", "mass", "specials")
        return Next(*(self._request.get_tensor(name).data for name in names))


def _lanes(counts: Sequence[int]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The row in each lane of each window, and the lane of each row; see `decoder.writer`."""
    rows, lane = np.array(counts), np.arange(max(counts))
    first = np.cumsum(rows) - rows
    lanes = first[:, None] + np.minimum(lane, rows[:, None] - 1)
    places = np.flatnonzero(lane < rows[:, None])
    return lanes.astype(np.int32), places.astype(np.int32)


class Generation:
    """The decoding of one batch of windows."""

    def __init__(
        self, request: ov.InferRequest, heard: Heard, special: Special, search: Search
    ) -> None:
        self._stepper = Stepper(request, heard)
        self._heard, self._special, self._search = heard, special, search
        self._results: dict[int, Hypothesis] = {}

    def run(self, prompt: Sequence[int]) -> list[Hypothesis]:
        """A hypothesis for each window, all after the same prompt."""
        following, no_speech = self._prompted(list(prompt))
        timestamps = self._special.no_timestamps not in prompt
        windows = len(self._heard.order)
        active = [
            strategy(self._special, self._search, timestamps=timestamps) for _ in range(windows)
        ]
        counts = [1] * windows
        left = self._search.max_tokens - len(prompt)
        while active:
            firsts = [0, *accumulate(counts)]
            for one, first, after in zip(active, firsts, firsts[1:], strict=False):
                one.advance(following.of(slice(first, after)))
            left -= 1
            self._release(active, firsts, no_speech, all_of_them=left <= 0)
            if active:
                counts = [len(one.tokens) for one in active]
                following = self._next(active, firsts, counts)
        return [self._results[window] for window in range(windows)]

    def _prompted(self, prompt: list[int]) -> tuple[Next, list[float]]:
        """What follows the prompt, and each window's probability of no speech."""
        cut = prompt.index(self._special.start) + 1
        following = self._stepper.begin(prompt[:cut])
        places = following.special_shares(self._special.no_speech - self._special.end)
        no_speech = [0.0] * len(self._heard.order)
        for place, window in enumerate(self._heard.order):
            no_speech[window] = float(places[place])
        if prompt[cut:]:
            following = self._stepper.begin(prompt[cut:])
        return following, no_speech

    def _release(
        self,
        active: list[Strategy],
        firsts: list[int],
        no_speech: Sequence[float],
        *,
        all_of_them: bool,
    ) -> None:
        """Let the windows that are done leave the batch; the last ones take their places."""
        for place in reversed(range(len(active))):
            if active[place].done or all_of_them:
                window = self._heard.order[place]
                self._results[window] = active[place].best(no_speech[window])
                last = len(active) - 1
                self._heard.swap(place, last)
                active[place], firsts[place] = active[last], firsts[last]
                active.pop()

    def _next(
        self, active: Sequence[Strategy], firsts: Sequence[int], counts: Sequence[int]
    ) -> Next:
        """One step of all windows that go on."""
        self._stepper.hear(len(active))
        parents = [
            first + parent
            for one, first in zip(active, firsts, strict=False)
            for parent in one.parents
        ]
        tokens = [[token] for one in active for token in one.tokens]
        return self._stepper.step(tokens, parents, counts)


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
