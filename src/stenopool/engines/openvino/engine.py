"""Whisper on OpenVINO for x86 CPUs. See `engines.base.Engine` for the methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from queue import LifoQueue
from typing import cast

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from stenopool.audio.features import Features
from stenopool.engines.base import POSITIONS_PER_SECOND, Alignment, Encoded, Hypothesis, Search
from stenopool.engines.openvino.alignment import starts
from stenopool.engines.openvino.cache import Compiled
from stenopool.engines.openvino.decoder import aligner, writer
from stenopool.engines.openvino.encoder import encoder
from stenopool.engines.openvino.generation import (
    UNHEARD,
    Generation,
    Heard,
    Rooms,
    Stepper,
    failures,
    infer,
)
from stenopool.engines.openvino.graph import Parts
from stenopool.engines.openvino.processor import FLOAT32, INT8, has_bfloat16
from stenopool.engines.openvino.special import special_tokens
from stenopool.models.weights import AUDIO_POSITIONS, WhisperWeights, read_weights

CORES_OF_A_WORKER = 4  # with fewer, one batch at a time is the fastest and needs half the memory
MOST_WORKERS = 4
BATCH_SIZE = 8  # windows
ALIGNED_TOGETHER = 2  # windows: each takes 40 MB, and more are not faster


class OpenVINOEngine:
    """A Whisper model in a folder.

    Args:
        folder: with weights that `models.weights` reads and `tokenizer.json`.
        precision: see `processor.precision`; `int8` quantises weights, and what the encoder's
            layers take.
        threads: cores to use; each four of them have a worker, up to four workers.

    Raises:
        ModelDamaged: the files are not those of a Whisper model.
        EngineFailed: OpenVINO cannot build the graphs.
    """

    name = "openvino"
    device = "cpu"

    def __init__(self, folder: Path, *, precision: str, threads: int) -> None:
        weights = read_weights(folder)
        self.precision = precision
        self.workers = min(max(1, threads // CORES_OF_A_WORKER), MOST_WORKERS)
        self.batch_size = BATCH_SIZE
        self.mel_bins = weights.shape.mel_bins
        self._shape = weights.shape
        self._special = special_tokens(folder, weights.generation)
        self.multilingual = bool(self._special.languages)
        bfloat16 = precision != FLOAT32 and has_bfloat16()
        self._stored = ov.Type.bf16 if bfloat16 else ov.Type.f32
        floating = "bf16" if bfloat16 else "f32"
        options: dict[str, str | int] = {
            "NUM_STREAMS": self.workers,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": floating,
            "KV_CACHE_PRECISION": floating,
        }
        with failures():
            compiled = Compiled(folder / "model.bin", options, precision)
            graphs = dict(self._graphs(weights))
            with ThreadPoolExecutor(len(graphs)) as pool:
                made = pool.map(compiled.graph, graphs, graphs.values())
                models = dict(zip(graphs, made, strict=True))
            self._idle: LifoQueue[dict[str, ov.InferRequest]] = LifoQueue()
            for _ in range(self.workers):
                self._idle.put(
                    {name: model.create_infer_request() for name, model in models.items()}
                )
        self._rooms = Rooms(weights.shape, self._stored)
        self._aligned = [one.any_name for one in models["aligner"].inputs if "." in one.any_name]

    def _graphs(self, weights: WhisperWeights) -> Iterator[tuple[str, Callable[[], ov.Model]]]:
        """Names of the graphs, and what builds each.

        They are built on threads side by side, so that no node may belong to two of them.
        """
        parts = partial(Parts, weights, int8=self.precision == INT8)
        heads = weights.generation.alignment_heads or _upper_heads(weights)
        special, stored = self._special, self._stored
        yield "encoder", lambda: encoder(parts(), stored)
        yield "writer", lambda: writer(parts(), stored, special.end, special.suppressed)
        yield "aligner", lambda: aligner(parts(), stored, heads)

    def encode(self, features: Features) -> Encoded:
        heard = self._rooms.take(len(features))
        with self._requests() as requests:
            for window in range(len(features)):
                for name, tensor in heard.tensors(window, window + 1).items():
                    requests["encoder"].set_tensor(name, tensor)
                infer(requests["encoder"], {"features": features[window : window + 1]})
        return cast(Encoded, heard)

    def detect_language(self, encoded: Encoded) -> list[dict[str, float]]:
        heard = cast(Heard, encoded)
        special = self._special
        with self._requests() as requests:
            following = Stepper(requests["writer"], heard).begin([special.start])
            chosen = following.specials[:, [id - special.end for id in special.languages.values()]]
        shares = np.exp(chosen - chosen.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        found: list[dict[str, float]] = [{} for _ in heard.order]
        for place, window in enumerate(heard.order):
            found[window] = dict(zip(special.languages, shares[place].tolist(), strict=True))
        return found

    def generate(
        self, encoded: Encoded, prompts: Sequence[Sequence[int]], search: Search
    ) -> list[Hypothesis]:
        heard = cast(Heard, encoded)
        if len({tuple(prompt) for prompt in prompts}) != 1 or len(prompts) != len(heard.order):
            raise ValueError("windows of one call need the same prompt, one for each")
        with self._requests() as requests:
            return Generation(requests["writer"], heard, self._special, search).run(prompts[0])

    def align(
        self,
        encoded: Encoded,
        start: Sequence[int],
        texts: Sequence[Sequence[int]],
        seconds: Sequence[float],
    ) -> list[Alignment]:
        heard = cast(Heard, encoded)
        head = [*start, self._special.no_timestamps]
        rows = [[*head, *texts[window], self._special.end] for window in heard.order]
        lengths = [max(1, round(seconds[window] * POSITIONS_PER_SECOND)) for window in heard.order]
        found: dict[int, Alignment] = {}
        with self._requests() as requests:
            for first in range(0, len(rows), ALIGNED_TOGETHER):
                some = slice(first, first + ALIGNED_TOGETHER)
                attention = self._attention(requests["aligner"], heard, some, rows, lengths)
                for place, window in enumerate(heard.order[some], start=first):
                    # The row of a token's predecessor is where that token is predicted.
                    predicted = slice(len(head) - 1, len(rows[place]) - 1)
                    path = starts(attention[place - first, predicted, : lengths[place]])
                    found[window] = Alignment(path / POSITIONS_PER_SECOND, None)
        return [found[window] for window in range(len(found))]

    def _attention(
        self,
        request: ov.InferRequest,
        heard: Heard,
        some: slice,
        rows: Sequence[Sequence[int]],
        lengths: Sequence[int],
    ) -> NDArray[np.float32]:
        """The output of `decoder.aligner` for the windows in some places."""
        tensors = heard.tensors(some.start, some.stop)
        for name in self._aligned:
            request.set_tensor(name, tensors[name])
        tokens, weights = _padded(rows[some], self._special.end)
        infer(request, {"tokens": tokens, "weights": weights, "heard": _unmasked(lengths[some])})
        return np.asarray(request.get_output_tensor(0).data)

    @contextmanager
    def _requests(self) -> Iterator[dict[str, ov.InferRequest]]:
        """The requests of an idle worker: their state is its own meanwhile."""
        requests = self._idle.get()
        try:
            yield requests
        finally:
            self._idle.put(requests)


def _upper_heads(weights: WhisperWeights) -> Sequence[tuple[int, int]]:
    """All heads of the upper half, as in the paper's code."""
    layers = weights.shape.decoder_layers
    heads = range(weights.shape.heads)
    return [(layer, head) for layer in range(layers // 2, layers) for head in heads]


def _padded(
    rows: Sequence[Sequence[int]], filler: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """(rows, longest) int32 tokens, and (rows, 1, longest, 1) float32: 1 where there is one."""
    longest = max(map(len, rows))
    tokens = np.full((len(rows), longest), filler, dtype=np.int32)
    weights = np.zeros((len(rows), 1, longest, 1), dtype=np.float32)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = row
        weights[number, 0, : len(row)] = 1.0
    return tokens, weights


def _unmasked(lengths: Sequence[int]) -> NDArray[np.float32]:
    """(windows, 1, 1, 1500): 0 for the first positions of each window, large negative beyond."""
    mask = np.full((len(lengths), 1, 1, AUDIO_POSITIONS), UNHEARD, dtype=np.float32)
    for window, count in enumerate(lengths):
        mask[window, ..., :count] = 0.0
    return mask
