"""Whisper on OpenVINO for x86 CPUs. See `engines.base.Engine` for the methods."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import cast

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from stenopool.audio.features import FRAMES_PER_SECOND, WINDOW_FRAMES, Features
from stenopool.engines.alignment import starts
from stenopool.engines.base import POSITIONS_PER_SECOND, Alignment, Encoded, Hypothesis, Search
from stenopool.engines.openvino.batch import Batch, Decoding
from stenopool.engines.openvino.cache import Compiled
from stenopool.engines.openvino.decoder import Decoder, Heard, PackedDecoder
from stenopool.engines.openvino.encoder import Encoder, encoder
from stenopool.engines.openvino.graph import Parts
from stenopool.engines.openvino.groups import Groups, groups_of
from stenopool.engines.openvino.inference import failures
from stenopool.engines.openvino.library import library
from stenopool.engines.openvino.memory import give_back_freed_memory
from stenopool.engines.openvino.processor import (
    FLOAT32,
    INT8,
    has_bfloat16,
    is_fast_in_bfloat16,
)
from stenopool.engines.openvino.turns import Turns
from stenopool.engines.search import LanguageShares, Strategy, strategy
from stenopool.engines.special import Special, special_tokens
from stenopool.errors import EngineFailed
from stenopool.models.weights import read_weights

MOST_PLACES = 8  # windows in a batch
MOST_BATCH_BYTES = 400_000_000  # of keys and values: a large model has fewer places
KEPT_SHAPES = 100  # instead of 5,000: OpenVINO keeps a megabyte for each; it is not slower
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
    beam_size = 5

    def __init__(self, folder: Path, *, precision: str, threads: int) -> None:
        give_back_freed_memory()
        weights = read_weights(folder)
        self.precision = precision
        groups = groups_of(threads)
        self.mel_bins = weights.shape.mel_bins
        self._special = special = special_tokens(folder, weights.generation)
        self.multilingual = bool(special.languages)
        self._text_positions = weights.shape.text_positions
        self._heads = weights.generation.alignment_heads or weights.shape.upper_heads
        bfloat16 = precision != FLOAT32 and has_bfloat16()
        self._stored = ov.Type.bf16 if bfloat16 else ov.Type.f32
        self._int8 = precision == INT8 and not is_fast_in_bfloat16()  # of the encoder
        options: dict[str, str | int] = {
            "NUM_STREAMS": groups,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
            "CPU_RUNTIME_CACHE_CAPACITY": KEPT_SHAPES,
        }
        self._folder = folder
        self._short_lock = Lock()
        self._short: ov.CompiledModel | None = None  # made when it is needed
        with failures():
            self._compiled = Compiled(folder / "model.bin", options, precision)
            with ThreadPoolExecutor(1) as pool:
                made = pool.submit(
                    self._compiled.graph,
                    "encoder",
                    lambda: encoder(Parts(weights, int8=self._int8), self._stored),
                )
                packed = PackedDecoder(
                    weights,
                    int8=precision == INT8 and library().decoder_has_int8(),
                    end=special.end,
                    suppressed=special.suppressed,
                    threads=threads,
                )
                model = made.result()
        fitting = MOST_BATCH_BYTES // packed.window_bytes
        places = min(max(1, fitting), MOST_PLACES)
        self._groups = Groups(
            [
                _Group(model, Decoder(packed, threads // groups), places, special)
                for _ in range(groups)
            ]
        )
        self.workers = groups * (places + AHEAD)

    def encode(self, features: Features) -> Encoded:
        with self._groups.one() as group:
            return cast(Encoded, [self._encoded(group, window) for window in features])

    def _encoded(self, group: _Group, window: Features) -> Heard:
        model = self._short_encoder() if window.shape[1] < WINDOW_FRAMES else None
        with group.turns:
            encoder = group.short(model) if model else group.encoder
            return group.decoder.hear(encoder.run(window))

    def _short_encoder(self) -> ov.CompiledModel:
        """The encoder of short windows. Most processes never need it."""

        def build() -> ov.Model:
            parts = Parts(read_weights(self._folder), int8=self._int8)
            return encoder(parts, self._stored, SHORT_FRAMES)

        with self._short_lock, failures():
            if self._short is None:
                self._short = self._compiled.graph("short", build)
            return self._short

    def detect_language(self, encoded: Encoded) -> list[dict[str, float]]:
        special = self._special
        found = [LanguageShares(special) for _ in cast(list[Heard], encoded)]
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
        windows = cast(list[Heard], encoded)
        decodings = [
            Decoding(heard, prompt, chosen, left)
            for heard, prompt, chosen in zip(windows, prompts, strategies, strict=True)
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
            for heard, text, sound in zip(cast(list[Heard], encoded), texts, seconds, strict=True):
                length = min(max(1, round(sound * POSITIONS_PER_SECOND)), heard.positions)
                tokens = [*head, *text, self._special.end][: self._text_positions]
                with group.turns:
                    attention = group.decoder.attention(heard, tokens, length, self._heads)
                # The row of a token's predecessor is where that token is predicted.
                path = starts(normalised(attention)[len(head) - 1 : len(head) + len(text)])
                path = np.pad(path, (0, len(text) + 1 - len(path)), mode="edge")
                found.append(Alignment(path / POSITIONS_PER_SECOND, None))
        return found


def normalised(attention: NDArray[np.float32]) -> NDArray[np.float32]:
    """(heads, tokens, positions) → (tokens, positions): the mean of the heads, each position less
    its mean over the tokens, in units of its deviation."""
    apart = attention - attention.mean(axis=1, keepdims=True)
    deviation = np.sqrt((apart * apart).mean(axis=1, keepdims=True) + 1e-12)
    return np.asarray((apart / deviation).mean(axis=0), dtype=np.float32)


class _Group:
    """The cores that run one batch, and what they need for it.

    Attributes:
        turns: held while its requests are used.
    """

    def __init__(
        self, model: ov.CompiledModel, decoder: Decoder, places: int, special: Special
    ) -> None:
        self.turns = Turns()
        self.encoder = Encoder(model, WINDOW_FRAMES)
        self.decoder = decoder
        self._short: Encoder | None = None
        self._batch = Batch(decoder, places, special)

    def short(self, model: ov.CompiledModel) -> Encoder:
        """The encoder of short windows; `turns` is held."""
        if self._short is None:
            self._short = Encoder(model, SHORT_FRAMES)
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
