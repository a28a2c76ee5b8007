"""Whisper's encoder and decoder in PyTorch (Radford et al. 2022, section 2.2).

They are driven a layer at a time, without modules of another library around them: a step of the
decoder takes a few milliseconds, of which layers of Python would be a good part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from stenopool.engines.torch.parts import Attend, Parts
from stenopool.models.weights import HEAD_WIDTH

GROWTH = 64  # tokens that a cache grows by, at least

Layer = Callable[..., Tensor]
Heard = list[tuple[Tensor, Tensor]]  # a layer's keys and values, (windows, heads, positions, 64)


class Encoder:
    """Features to states, (windows, positions, width)."""

    def __init__(self, parts: Parts) -> None:
        name = "model.encoder"
        self._convolutions = [
            (parts.tensor(f"{name}.{one}.weight"), parts.tensor(f"{name}.{one}.bias"))
            for one in ("conv1", "conv2")
        ]
        self._places = parts.tensor(f"{name}.embed_positions.weight")
        layers = range(parts.shape.encoder_layers)
        made = [_EncoderLayer(parts, f"{name}.layers.{layer}") for layer in layers]
        self.layers: list[Layer] = [one.forward for one in made]
        self._norm = parts.norm(f"{name}.layer_norm")

    def __call__(self, features: Tensor) -> Tensor:
        """(windows, mel bins, frames) → (windows, frames / 2, width)."""
        x = features
        for stride, (kernel, bias) in enumerate(self._convolutions, start=1):
            x = functional.gelu(functional.conv1d(x, kernel, bias, stride, padding=1))
        x = x.transpose(1, 2) + self._places[: x.shape[2]]
        for layer in self.layers:
            x = layer(x)
        return self._norm(x)


class _EncoderLayer:
    def __init__(self, parts: Parts, name: str) -> None:
        self._first, self._second = parts.norms(name, "self_attn", "final")
        self._into = parts.linear(*(f"{name}.self_attn.{kind}_proj" for kind in "qkv"), many=True)
        self._out = parts.linear(f"{name}.self_attn.out_proj", many=True)
        self._wide, self._narrow = (
            parts.linear(f"{name}.{kind}", many=True) for kind in ("fc1", "fc2")
        )
        self._attend = parts.attend

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (heads(one) for one in self._into(self._first(x)).chunk(3, -1))
        x = x + self._out(joined(self._attend(query, key, value, None)))
        return x + self._narrow(functional.gelu(self._wide(self._second(x))))


@dataclass(slots=True)
class Cache:
    """Keys and values of the tokens so far, of all rows alike.

    Attributes:
        length: tokens that are in it.
        stored: (layers, 2, rows, heads, room, 64).
    """

    stored: Tensor
    length: int = 0

    def grown(self, new: int) -> None:
        """Make room for so many more tokens."""
        lacking = self.length + new - self.stored.shape[4]
        if lacking > 0:
            self.stored = functional.pad(self.stored, (0, 0, 0, max(lacking, GROWTH)))

    def follow(self, parents: Sequence[int]) -> None:
        """Each row goes on from the one that is named."""
        if list(parents) != list(range(self.stored.shape[2])):
            chosen = torch.tensor(parents, device=self.stored.device)
            self.stored = self.stored.index_select(2, chosen)


class Decoder:
    """Tokens to what follows them, with what was heard of each window.

    Args:
        unwritten: tokens that have no logits.
    """

    def __init__(self, parts: Parts, unwritten: slice) -> None:
        name = "model.decoder"
        self._shape = parts.shape
        self.table = parts.table()
        self._places = parts.tensor(f"{name}.embed_positions.weight")
        layers = range(parts.shape.decoder_layers)
        made = [_DecoderLayer(parts, f"{name}.layers.{layer}") for layer in layers]
        self.layers: list[Layer] = [one.forward for one in made]
        self._hearing = [one.heard for one in made]
        self._norm = parts.norm(f"{name}.layer_norm")
        written = self.table
        if unwritten.start < unwritten.stop:
            written = torch.cat((written[: unwritten.start], written[unwritten.stop :]))
        self._head = parts.head(written)

    def heard(self, states: Tensor) -> Heard:
        """What all steps need of the encoder's states, computed once."""
        return [one(states) for one in self._hearing]

    def cache(self, rows: int) -> Cache:
        """Of no token yet."""
        shape = self._shape
        size = (shape.decoder_layers, 2, rows, shape.heads, 0, HEAD_WIDTH)
        return Cache(self._places.new_empty(size))

    def __call__(
        self, tokens: Tensor, cache: Cache, heard: Heard, noted: list[Tensor] | None = None
    ) -> Tensor:
        """(rows, new) tokens → (rows, new, width), normalised; the cache has them then.

        Rows of a window stand together, and all windows have as many.

        Args:
            noted: gets each layer's queries to the window, (windows, heads, rows * new, 64).
        """
        new = tokens.shape[1]
        cache.grown(new)
        begin, end = cache.length, cache.length + new
        x = functional.embedding(tokens, self.table) + self._places[begin:end]
        # A token sees those before it and itself.
        mask = None
        if new > 1:
            mask = torch.ones(new, end, dtype=torch.bool, device=x.device).tril(begin)
        for layer, stored, audio in zip(self.layers, cache.stored, heard, strict=True):
            x = layer(x, stored, begin, mask, audio, noted)
        cache.length = end
        return self._norm(x)

    def logits(self, x: Tensor) -> Tensor:
        """(…, width) → (…, tokens that are written) float32."""
        return self._head(x).float().contiguous()


class _DecoderLayer:
    def __init__(self, parts: Parts, name: str) -> None:
        self._norms = parts.norms(name, "self_attn", "encoder_attn", "final")
        self._into = parts.linear(*(f"{name}.self_attn.{kind}_proj" for kind in "qkv"))
        self._out = parts.linear(f"{name}.self_attn.out_proj")
        self._ask = parts.linear(f"{name}.encoder_attn.q_proj")
        self._audio = parts.linear(
            *(f"{name}.encoder_attn.{kind}_proj" for kind in "kv"), many=True
        )
        self._told = parts.linear(f"{name}.encoder_attn.out_proj")
        self._wide, self._narrow = parts.linear(f"{name}.fc1"), parts.linear(f"{name}.fc2")
        self._attend: Attend = parts.attend

    def heard(self, states: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self._audio(states).chunk(2, -1)
        return heads(keys).contiguous(), heads(values).contiguous()

    def forward(
        self,
        x: Tensor,
        stored: Tensor,
        begin: int,
        mask: Tensor | None,
        audio: tuple[Tensor, Tensor],
        noted: list[Tensor] | None,
    ) -> Tensor:
        rows, new, width = x.shape
        first, second, third = self._norms
        query, key, value = (heads(one) for one in self._into(first(x)).chunk(3, -1))
        end = begin + new
        stored[0, :, :, begin:end], stored[1, :, :, begin:end] = key, value
        seen = self._attend(query, stored[0, :, :, :end], stored[1, :, :, :end], mask)
        x = x + self._out(joined(seen))
        windows = audio[0].shape[0]
        query = heads(self._ask(second(x)).view(windows, -1, width))
        if noted is not None:
            noted.append(query)
        told = self._attend(query, *audio, None)
        x = x + self._told(joined(told).view(rows, new, width))
        return x + self._narrow(functional.gelu(self._wide(third(x))))


def heads(x: Tensor) -> Tensor:
    """(rows, positions, width) → (rows, heads, positions, 64)."""
    return x.view(x.shape[0], x.shape[1], -1, HEAD_WIDTH).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    """(rows, heads, positions, 64) → (rows, positions, width)."""
    return x.transpose(1, 2).flatten(2)
