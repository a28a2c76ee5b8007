"""The parts that the networks are made of, for one device, one precision and one attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from stenopool.engines.torch.linear import Linear, linear
from stenopool.models.weights import HEAD_WIDTH, WhisperShape, WhisperWeights

EAGER, SDPA, FLASH = "eager", "sdpa", "flash"
ATTENTIONS = (SDPA, EAGER, FLASH)

_EPSILON = 1e-5
_TABLE = "model.decoder.embed_tokens.weight"

# Queries, keys and values, (rows, heads, positions, 64), and which keys each query sees: a lower
# right triangle (queries, keys), or all.
Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
Norm = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Place:
    """Where and how a network runs.

    Attributes:
        device: of PyTorch.
        precision: `float32`, `float16`, `bfloat16`, or `int8` or `int4` weights.
        attention: one of `ATTENTIONS`.
    """

    device: str
    precision: str
    attention: str = SDPA

    @property
    def dtype(self) -> torch.dtype:
        """Of what is not a quantised weight."""
        if self.precision in ("int8", "int4"):
            return torch.float32 if self.device == "cpu" else torch.float16
        found: torch.dtype = getattr(torch, self.precision)
        return found


class Parts:
    """Makes parts of a model's tensors."""

    def __init__(self, weights: WhisperWeights, place: Place) -> None:
        self.shape: WhisperShape = weights.shape
        self.attend = _ATTENDS[place.attention]
        self._weights, self._place = weights.tensors, place

    def tensor(self, name: str) -> Tensor:
        """Weights by their name in Transformers."""
        return self._tensor(name).to(self._place.device, self._place.dtype)

    def linear(self, *names: str, many: bool = False) -> Linear:
        """Linear layers of the same input as one, side by side.

        Args:
            many: for whole windows, where reading the weights is not what takes the time: on CPUs
                they are of floating point always.
        """
        weight = torch.cat([self._tensor(f"{name}.weight") for name in names])
        sizes = weight.shape[0] // len(names)
        biases = [
            self._tensor(f"{name}.bias") if f"{name}.bias" in self._weights else torch.zeros(sizes)
            for name in names
        ]
        place = self._place
        floating = many and place.device == "cpu"
        precision = "float" if floating else place.precision
        return linear(weight, torch.cat(biases), place.device, place.dtype, precision)

    def table(self) -> Tensor:
        """The embedding of each token, (vocabulary, width)."""
        return self.tensor(_TABLE)

    def head(self, table: Tensor) -> Linear:
        """Such a table as the layer that gives the logits."""
        place = self._place
        return linear(table, None, place.device, place.dtype, place.precision)

    def norm(self, name: str) -> Norm:
        """Layer normalisation."""
        weight, bias = self.tensor(f"{name}.weight"), self.tensor(f"{name}.bias")
        size = (self.shape.width,)
        return lambda x: functional.layer_norm(x, size, weight, bias, _EPSILON)

    def norms(self, layer: str, *names: str) -> tuple[Norm, ...]:
        """Those before the parts of a layer."""
        return tuple(self.norm(f"{layer}.{name}_layer_norm") for name in names)

    def _tensor(self, name: str) -> Tensor:
        """float32 on the CPU."""
        return torch.from_numpy(np.array(self._weights[name], dtype=np.float32))


def _eager(query: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None) -> Tensor:
    scores = query @ keys.transpose(2, 3) * HEAD_WIDTH**-0.5
    if seen is not None:
        scores = scores.masked_fill(~seen, -torch.inf)
    return torch.softmax(scores, -1) @ values


def _fused(query: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None) -> Tensor:
    return functional.scaled_dot_product_attention(query, keys, values, seen)


def _flash(query: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None) -> Tensor:
    """Flash Attention 2 (Dao 2023), which PyTorch has for CUDA; nothing else is tried."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.attention.bias import causal_lower_right

    mask = None if seen is None else causal_lower_right(query.shape[2], keys.shape[2])
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return functional.scaled_dot_product_attention(query, keys, values, mask)


_ATTENDS: dict[str, Attend] = {EAGER: _eager, SDPA: _fused, FLASH: _flash}
