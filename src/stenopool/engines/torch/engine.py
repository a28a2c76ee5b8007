"""Whisper on PyTorch. See `engines.base.Engine` for the methods."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import cast

import torch
from torch import Tensor

from stenopool.audio.features import FRAMES_PER_SECOND, Features
from stenopool.engines.alignment import starts_of_text
from stenopool.engines.base import POSITIONS_PER_SECOND, Alignment, Encoded, Hypothesis, Search
from stenopool.engines.search import LanguageShares, strategy
from stenopool.engines.special import special_tokens
from stenopool.engines.torch.assistance import Assistance
from stenopool.engines.torch.decoding import decoded
from stenopool.engines.torch.model import Model
from stenopool.engines.torch.network import Heard
from stenopool.engines.torch.parts import SDPA, Place
from stenopool.engines.torch.speculative import speculated
from stenopool.errors import EngineFailed
from stenopool.models.weights import read_weights

BATCH_SIZE = {"cpu": 4, "cuda": 16}  # windows
SHORT_FRAMES = 10 * FRAMES_PER_SECOND


class Unassisted(UserWarning):
    """The assistant was left out where it would not help."""


@dataclass(slots=True)
class _Windows:
    """What was heard of some windows.

    Attributes:
        states: of the encoder, (windows, positions, width).
        heard: what the decoder needs of them.
        features: where the assistant has to encode them itself.
    """

    states: Tensor
    heard: Heard
    features: Features | None


class TorchEngine:
    """A Whisper model in a folder.

    Args:
        folder: with weights that `models.weights` reads and `tokenizer.json`.
        device: `cpu` or `cuda`.
        precision: see `parts.Place`.
        attention: one of `parts.ATTENTIONS`.
        threads: cores to use on a CPU.
        compiled: let `torch.compile` make kernels for it; the first windows then take minutes.
        assistant: folder of a smaller model of the same tokens, for speculative decoding.

    Raises:
        ModelDamaged: the files are not those of a Whisper model.
        EngineMissing: the device has no layers of this precision.
        EngineFailed: there is no memory for it.
        UsageError: the assistant has other tokens.
    """

    name = "torch"
    workers = 1
    short_frames = SHORT_FRAMES

    def __init__(
        self,
        folder: Path,
        *,
        device: str,
        precision: str,
        attention: str = SDPA,
        threads: int = 1,
        compiled: bool = False,
        assistant: Path | None = None,
    ) -> None:
        torch.set_num_threads(threads)
        weights = read_weights(folder)
        self.device, self.precision = device, precision
        self.mel_bins = weights.shape.mel_bins
        self._special = special_tokens(folder, weights.generation)
        self.multilingual = bool(self._special.languages)
        self._lock = Lock()
        self._told: set[str] = set()
        with _running():
            self._model = Model(weights, self._special, Place(device, precision, attention))
            self._assistance = (
                Assistance(self._model, weights, folder, assistant) if assistant else None
            )
            if compiled:
                self._model.compile()
        self.batch_size = 1 if assistant else BATCH_SIZE[device]
        self.beam_size = 1 if assistant else 3

    def encode(self, features: Features) -> Encoded:
        with self._lock, _running():
            states = self._model.states(features)
            own = self._assistance is not None and not self._assistance.shares_encoder
            heard = self._model.decoder.heard(states)
            return cast(Encoded, _Windows(states, heard, features if own else None))

    def detect_language(self, encoded: Encoded) -> list[dict[str, float]]:
        special, windows = self._special, cast(_Windows, encoded)
        found = [LanguageShares(special) for _ in windows.states]
        with self._lock, _running():
            decoded(self._model, special, windows.heard, [special.start], found, 1)
        return [one.shares for one in found]

    def generate(
        self, encoded: Encoded, prompts: Sequence[Sequence[int]], search: Search
    ) -> list[Hypothesis]:
        windows, special, prompt = cast(_Windows, encoded), self._special, prompts[0]
        left = min(search.max_tokens, self._model.shape.text_positions) - len(prompt)
        with self._lock, _running():
            if len(prompts) != len(windows.states):
                raise ValueError(f"{len(prompts)} prompts for {len(windows.states)} windows")
            if self._assistance and self._pays(search, len(prompts)):
                heard = windows.heard, self._assistance.heard(windows.states, windows.features)
                assistant = self._assistance.model
                return [speculated(self._model, assistant, special, heard, prompt, left)]
            timestamps = special.no_timestamps not in prompt
            strategies = [strategy(special, search, timestamps=timestamps) for _ in prompts]
            return decoded(self._model, special, windows.heard, prompt, strategies, left)

    def _pays(self, search: Search, windows: int) -> bool:
        """Whether the assistant is used; where it is not, that is told once for each reason."""
        reasons = {
            "sampling": search.temperature > 0,
            "beam search": search.temperature == 0 and search.beam_size > 1,
            "several windows at a time": windows > 1,
        }
        reason = next((name for name, holds in reasons.items() if holds), None)
        if reason and reason not in self._told:
            self._told.add(reason)
            warnings.warn(f"{reason} goes without the assistant", Unassisted, stacklevel=3)
        return reason is None

    def align(
        self,
        encoded: Encoded,
        start: Sequence[int],
        texts: Sequence[Sequence[int]],
        seconds: Sequence[float],
    ) -> list[Alignment]:
        head = [*start, self._special.no_timestamps]
        windows, found = cast(_Windows, encoded), []
        with self._lock, _running():
            for number, (text, sound) in enumerate(zip(texts, seconds, strict=True)):
                heard = [(k[number, None], v[number, None]) for k, v in windows.heard]
                length = min(max(1, round(sound * POSITIONS_PER_SECOND)), windows.states.shape[1])
                tokens = [*head, *text, self._special.end][: self._model.shape.text_positions]
                attention = self._model.attention(tokens, heard, length)
                path = starts_of_text(attention, len(head), len(text))
                found.append(Alignment(path / POSITIONS_PER_SECOND, None))
        return found


@contextmanager
def _running() -> Iterator[None]:
    """Without gradients, and PyTorch's errors as ours."""
    try:
        with torch.inference_mode():
            yield
    except (RuntimeError, ValueError) as error:
        raise EngineFailed(
            f"PyTorch failed: {error!s:.300}",
            do="Try a smaller `--batch-size`; if it stays, run `steno doctor` and report it",
        ) from error
