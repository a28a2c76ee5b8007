"""Whisper on OpenVINO for x86 CPUs. See `engines.base.Engine` for the methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Lock
from typing import cast

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from stenopool.audio.features import FRAMES_PER_SECOND, WINDOW_FRAMES, Features
from stenopool.engines.alignment import starts
from stenopool.engines.base import POSITIONS_PER_SECOND, Alignment, Encoded, Hypothesis, Search
from stenopool.engines.openvino.batch import UNHEARD, Batch, Decoding, failures, infer
from stenopool.engines.openvino.cache import Compiled
from stenopool.engines.openvino.decoder import aligner, writer
from stenopool.engines.openvino.encoder import MERGED, encoder
from stenopool.engines.openvino.graph import Parts
from stenopool.engines.openvino.groups import Groups, groups_of
from stenopool.engines.openvino.memory import Room, Rooms, give_back_freed_memory
from stenopool.engines.openvino.processor import FLOAT32, INT8, has_bfloat16, least_rows
from stenopool.engines.openvino.turns import Turns
from stenopool.engines.search import LanguageShares, Strategy, strategy
from stenopool.engines.special import Special, special_tokens
from stenopool.errors import EngineFailed
from stenopool.models.weights import AUDIO_POSITIONS, WhisperWeights, read_weights

MOST_PLACES = 8  # windows in a batch
MOST_BATCH_BYTES = 400_000_000  # of keys and values: a large model has fewer places
# Layers of the encoder to the layer after which positions are merged. None: {6: 1} makes `base` a
# quarter faster, as good in clean speech and worse in noise (docs/concepts/cpu-speed.md).
MERGED_AFTER: dict[int, int] = {}
PADDED_TO = 32  # tokens to align: OpenVINO keeps what it made for each length, a megabyte or more
KEPT_SHAPES = 100  # instead of 5,000, for the same reason; it is not slower
SHORT_FRAMES = 10 * FRAMES_PER_SECOND  # a third of a window
AHEAD = 3  # windows that are encoded, aligned and judged while others are in the batch


class OpenVINOEngine:
    """A Whisper model in a folder.

    Args:
        folder: with weights that `models.weights` reads and `tokenizer.json`.
        precision: see `processor.precision`; `int8` quantises weights, and what the encoder's
            layers take.
        threads: cores to use; each four of them run a batch of their own, up to four batches.

    Raises:
        ModelDamaged: the files are not those of a Whisper model.
        EngineFailed: OpenVINO cannot build the graphs.
    """

    name = "openvino"
    device = "cpu"
    batch_size = 1  # windows of different calls meet in the batch that runs
    short_frames = SHORT_FRAMES
    beam_size = 3  # more takes longer and is hardly better: see docs/concepts/cpu-speed.md

    def __init__(self, folder: Path, *, precision: str, threads: int) -> None:
        give_back_freed_memory()
        weights = read_weights(folder)
        self.precision = precision
        groups = groups_of(threads)
        self.mel_bins = weights.shape.mel_bins
        self._special = special_tokens(folder, weights.generation)
        self.multilingual = bool(self._special.languages)
        layers = weights.shape.encoder_layers
        self._merged_after = MERGED_AFTER.get(layers) if precision == INT8 else None
        merged = 1 if self._merged_after is None else MERGED
        self._positions = AUDIO_POSITIONS // merged
        self._per_second = POSITIONS_PER_SECOND / merged
        bfloat16 = precision != FLOAT32 and has_bfloat16()
        self._stored = ov.Type.bf16 if bfloat16 else ov.Type.f32
        floating = "bf16" if bfloat16 else "f32"
        options: dict[str, str | int] = {
            "NUM_STREAMS": groups,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": floating,
            "CPU_RUNTIME_CACHE_CAPACITY": KEPT_SHAPES,
            # Not u8, though it is faster: where rows go on from themselves (greedy, sampling) while
            # windows join and leave, it gave NaN and wrong texts (OpenVINO 2026.4).
            "KV_CACHE_PRECISION": floating,
        }
        self._folder = folder
        self._short_lock = Lock()
        self._short: ov.CompiledModel | None = None  # made when it is needed
        with failures():
            self._compiled = compiled = Compiled(folder / "model.bin", options, precision)
            graphs = dict(self._graphs(weights))
            with ThreadPoolExecutor(len(graphs)) as pool:
                made = pool.map(compiled.graph, graphs, graphs.values())
                models = dict(zip(graphs, made, strict=True))
            self._rooms = Rooms(weights.shape, self._positions, self._stored)
            fitting = MOST_BATCH_BYTES // self._rooms.window_bytes
            places = min(max(1, fitting), MOST_PLACES)
            least = least_rows() if bfloat16 else 1
            self._groups = Groups(
                [_Group(models, self._rooms, places, self._special, least) for _ in range(groups)]
            )
        self.workers = groups * (places + AHEAD)
        self._aligned = [one.any_name for one in models["aligner"].inputs if "." in one.any_name]

    def _graphs(self, weights: WhisperWeights) -> Iterator[tuple[str, Callable[[], ov.Model]]]:
        """Names of the graphs, and what builds each.

        They are built on threads side by side, so that no node may belong to two of them.
        """
        parts = partial(Parts, weights, int8=self.precision == INT8)
        heads = weights.generation.alignment_heads or weights.shape.upper_heads
        special, stored = self._special, self._stored
        yield "encoder", lambda: encoder(parts(), stored, self._merged_after)
        yield "writer", lambda: writer(parts(), stored, special.end, special.suppressed)
        yield "aligner", lambda: aligner(parts(), stored, heads)

    def encode(self, features: Features) -> Encoded:
        with self._groups.one() as group:
            return cast(Encoded, [self._encoded(group, window) for window in features])

    def _encoded(self, group: _Group, window: Features) -> Room:
        room = self._rooms.take()
        model = self._short_encoder() if window.shape[1] < WINDOW_FRAMES else None
        with group.turns:
            request = group.short(model) if model else group.encoder
            for name, tensor in room.tensors(1).items():
                request.set_tensor(name, tensor)
            infer(request, {"features": window[None]})
        return room

    def _short_encoder(self) -> ov.CompiledModel:
        """The encoder of short windows. Most processes never need it."""

        def build() -> ov.Model:
            parts = Parts(read_weights(self._folder), int8=self.precision == INT8)
            return encoder(parts, self._stored, self._merged_after, SHORT_FRAMES)

        with self._short_lock, failures():
            if self._short is None:
                self._short = self._compiled.graph("short", build)
            return self._short

    def detect_language(self, encoded: Encoded) -> list[dict[str, float]]:
        special = self._special
        found = [LanguageShares(special) for _ in cast(list[Room], encoded)]
        self._decode(encoded, [[special.start]] * len(found), found, left=1)
        return [one.shares for one in found]

    def generate(
        self, encoded: Encoded, prompts: Sequence[Sequence[int]], search: Search
    ) -> list[Hypothesis]:
        special = self._special
        strategies = [
            strategy(special, search, timestamps=special.no_timestamps not in prompt)
            for prompt in prompts
        ]
        left = search.max_tokens - max(map(len, prompts))
        return self._decode(encoded, prompts, strategies, left=left)

    def _decode(
        self,
        encoded: Encoded,
        prompts: Sequence[Sequence[int]],
        strategies: Sequence[Strategy],
        *,
        left: int,
    ) -> list[Hypothesis]:
        """A hypothesis for each window, which join the batch of a group."""
        rooms = cast(list[Room], encoded)
        decodings = [
            Decoding.of(room, prompt, chosen, left, self._special)
            for room, prompt, chosen in zip(rooms, prompts, strategies, strict=True)
        ]
        with self._groups.one() as group:
            return group.decode(decodings)

    def align(
        self,
        encoded: Encoded,
        start: Sequence[int],
        texts: Sequence[Sequence[int]],
        seconds: Sequence[float],
    ) -> list[Alignment]:
        head = [*start, self._special.no_timestamps]
        found: list[Alignment] = []
        with self._groups.one() as group:
            for room, text, sound in zip(cast(list[Room], encoded), texts, seconds, strict=True):
                length = max(1, round(sound * self._per_second))
                attention = self._attention(group, room, [*head, *text, self._special.end], length)
                # The row of a token's predecessor is where that token is predicted.
                path = starts(attention[len(head) - 1 : -1, :length])
                found.append(Alignment(path / self._per_second, None))
        return found

    def _attention(
        self, group: _Group, room: Room, tokens: Sequence[int], length: int
    ) -> NDArray[np.float32]:
        """The output of `decoder.aligner` for one window: (tokens, positions)."""
        heard = np.full((1, 1, 1, self._positions), UNHEARD, dtype=np.float32)
        heard[..., :length] = 0.0
        padded = np.full((1, -(-len(tokens) // PADDED_TO) * PADDED_TO), self._special.end, np.int32)
        padded[0, : len(tokens)] = tokens
        weights = np.zeros((1, 1, padded.size, 1), dtype=np.float32)
        weights[:, :, : len(tokens)] = 1.0
        tensors = room.tensors(1)
        with group.turns:
            for name in self._aligned:
                group.aligner.set_tensor(name, tensors[name])
            infer(group.aligner, {"tokens": padded, "weights": weights, "heard": heard})
            return np.array(group.aligner.get_output_tensor(0).data[0, : len(tokens)])


class _Group:
    """The cores that run one batch, and what they need for it.

    Attributes:
        turns: held while its requests are used.
    """

    def __init__(
        self,
        models: Mapping[str, ov.CompiledModel],
        rooms: Rooms,
        places: int,
        special: Special,
        least: int,
    ) -> None:
        self.turns = Turns()
        self.encoder = models["encoder"].create_infer_request()
        self._short: ov.InferRequest | None = None
        self.aligner = models["aligner"].create_infer_request()
        self._batch = Batch(models["writer"].create_infer_request(), rooms, places, special, least)

    def short(self, model: ov.CompiledModel) -> ov.InferRequest:
        """The encoder of short windows; `turns` is held."""
        if self._short is None:
            self._short = model.create_infer_request()
        return self._short

    def decode(self, decodings: Sequence[Decoding]) -> list[Hypothesis]:
        """Let windows join the batch, and take turns with other callers in going on with it."""
        self._batch.add(decodings)
        try:
            while not all(one.has_left for one in decodings):
                with self.turns:
                    if not all(one.has_left for one in decodings):
                        self._batch.step()
        finally:
            for one in decodings:
                one.left = 0  # where nobody waits for it any more
        found: list[Hypothesis] = []
        for one in decodings:
            if isinstance(one.outcome, EngineFailed):
                raise one.outcome
            found += [one.outcome] if one.outcome else []
        return found
