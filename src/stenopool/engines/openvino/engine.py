"""Whisper on x86 CPUs. See `engines.base.Engine` for the methods."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from stenopool.audio.features import FRAMES_PER_SECOND, Features
from stenopool.engines.alignment import starts_of_text
from stenopool.engines.base import POSITIONS_PER_SECOND, Alignment, Encoded, Hypothesis, Search
from stenopool.engines.openvino.batch import Batch, Decoding
from stenopool.engines.openvino.decoder import Decoder, Heard, PackedDecoder
from stenopool.engines.openvino.encoder import Encoder, PackedEncoder
from stenopool.engines.openvino.groups import Groups, groups_of
from stenopool.engines.openvino.library import Team, library
from stenopool.engines.openvino.memory import give_back_freed_memory
from stenopool.engines.openvino.processor import FLOAT32, INT8
from stenopool.engines.openvino.turns import Turns
from stenopool.engines.search import LanguageShares, Strategy, strategy
from stenopool.engines.special import Special, special_tokens
from stenopool.errors import EngineFailed
from stenopool.models.weights import read_weights

MOST_PLACES = 8  # windows in a batch
MOST_BATCH_BYTES = 400_000_000  # of keys and values: a large model has fewer places
AHEAD = 3  # windows that are encoded, aligned and judged while others are in the batch


class OpenVINOEngine:
    """A Whisper model in a folder.

    Args:
        folder: with weights that `models.weights` reads and `tokenizer.json`.
        precision: see `processor.precision`; `int8` quantises weights, and what layers take. The
            encoder is bfloat16 then where there is AMX, which is faster, and float32 without VNNI.
        threads: cores to use; each four of them run a batch of their own, up to four batches.

    Raises:
        ModelDamaged: the files are not those of a Whisper model.
        EngineMissing: the kernels were not compiled.
    """

    name = "openvino"
    device = "cpu"
    batch_size = 1  # windows of different calls meet in the batch that runs
    short_frames = 10 * FRAMES_PER_SECOND
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
        team = Team(threads)
        encoder = PackedEncoder(weights, exact=precision == FLOAT32, team=team)
        decoder = PackedDecoder(
            weights,
            int8=precision == INT8 and library().decoder_has_int8(),
            end=special.end,
            suppressed=special.suppressed,
            team=team,
        )
        fitting = MOST_BATCH_BYTES // decoder.window_bytes
        places = min(max(1, fitting), MOST_PLACES)
        teams = [Team(threads // groups) for _ in range(groups)]
        self._groups = Groups(
            [
                _Group(Encoder(encoder, team), Decoder(decoder, team), places, special)
                for team in teams
            ]
        )
        self.workers = groups * (places + AHEAD)

    def encode(self, features: Features) -> Encoded:
        found = []
        with self._groups.one() as group:
            for window in features:
                with group.turns:
                    found.append(group.decoder.hear(group.encoder.run(window)))
        return cast(Encoded, found)

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
                path = starts_of_text(normalised(attention), len(head), len(text))
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

    def __init__(self, encoder: Encoder, decoder: Decoder, places: int, special: Special) -> None:
        self.turns = Turns()
        self.encoder, self.decoder = encoder, decoder
        self._batch = Batch(decoder, places, special)

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
