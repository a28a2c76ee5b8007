"""What every reader gives and every writer takes: a model with its tokens, in no format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from stenopool.errors import UnsupportedOption
from stenopool.models.formats.special import SpecialTokens, special_tokens
from stenopool.models.weights import (
    LazyTensors,
    Stored,
    Tensor,
    WhisperWeights,
    refuse_overflow,
)

FLOAT16, FLOAT32 = "float16", "float32"


@dataclass(frozen=True)
class Whisper:
    """A Whisper model.

    Attributes:
        weights: sizes, tensors, and what the publisher says of decoding.
        tokenizer: content of its `tokenizer.json`.
    """

    weights: WhisperWeights
    tokenizer: bytes

    @cached_property
    def tokens(self) -> SpecialTokens:
        """Raises ModelDamaged where the tokenizer is not that of a Whisper model."""
        return special_tokens(self.tokenizer, self.weights.shape.vocabulary)

    @cached_property
    def precision(self) -> str:
        """Type of most of its numbers."""
        return str(self.weights.tensors["model.decoder.embed_tokens.weight"].dtype)

    def sound(self) -> Whisper:
        """The same model, every number of which is looked at.

        Raises (when a tensor is used):
            ModelDamaged: one is infinite, or none at all.
        """
        checked = {
            name: Stored(one.shape, partial(_sound, name, one))
            for name, one in self.weights.stored().items()
        }
        return self._of(checked)

    def in_precision(self, wanted: str) -> Whisper:
        """The same model with all tensors of one type.

        Raises (when a tensor is used):
            UnsupportedOption: it has numbers that float16 cannot hold.
        """
        changed = {
            name: Stored(one.shape, partial(_converted, name, one, wanted))
            for name, one in self.weights.stored().items()
        }
        return self._of(changed)

    def _of(self, tensors: Mapping[str, Stored]) -> Whisper:
        return replace(self, weights=replace(self.weights, tensors=LazyTensors(tensors)))


def _sound(name: str, stored: Stored) -> Tensor:
    return refuse_overflow(name, stored.load())


def _converted(name: str, stored: Stored, wanted: str) -> Tensor:
    tensor = stored.load()
    if tensor.dtype == wanted:
        return tensor
    with np.errstate(over="ignore"):
        changed: Tensor = tensor.astype(wanted)
    if wanted == FLOAT16 and not np.isfinite(changed).all():
        raise UnsupportedOption(
            f"`{name}` has numbers that float16 cannot hold", do="Export it with float32"
        )
    return changed
