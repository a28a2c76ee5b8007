"""A Whisper model's tensors as NumPy arrays, whatever file they lie in.

Names and layouts are those of Transformers (`model.encoder.layers.0.self_attn.q_proj.weight`),
which all other formats can be written from; `formats` has a reader and a writer for each. Files are
mapped into memory, not read: a tensor costs memory when it is used. No file is ever unpickled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stenopool.errors import ModelDamaged
from stenopool.models.files import damaged

Tensor = NDArray[Any]
Tensors = Mapping[str, Tensor]

AUDIO_POSITIONS = 1500  # of the encoder's output, for 30 s
HEAD_WIDTH = 64  # of every Whisper model

_MOST_LAYERS = 200
_MOST_NUMBERS = 2**31  # of a tensor: the largest in large-v3 has 66 million


@dataclass(frozen=True, slots=True)
class WhisperShape:
    """The sizes of a model (Radford et al. 2022, table 1)."""

    mel_bins: int
    width: int
    encoder_layers: int
    decoder_layers: int
    vocabulary: int
    text_positions: int

    @property
    def heads(self) -> int:
        return self.width // HEAD_WIDTH

    @property
    def upper_heads(self) -> tuple[tuple[int, int], ...]:
        """(decoder layer, head) of the upper half, as the paper's code takes for alignment."""
        layers = range(self.decoder_layers // 2, self.decoder_layers)
        return tuple((layer, head) for layer in layers for head in range(self.heads))


@dataclass(frozen=True, slots=True)
class Generation:
    """What a model's publisher says of decoding.

    Attributes:
        suppress: token ids that are never written.
        suppress_first: token ids that no text begins with.
        alignment_heads: (decoder layer, head) of cross-attention that follow the audio; empty where
            nobody has found out, then all heads of the upper half are used, as in the paper's code.
    """

    suppress: tuple[int, ...]
    suppress_first: tuple[int, ...]
    alignment_heads: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class WhisperWeights:
    """A model, as its file has it.

    Attributes:
        tensors: by their names in Transformers; float16 or float32. The output projection is the
            token embedding (`model.decoder.embed_tokens.weight`).
    """

    shape: WhisperShape
    generation: Generation
    tensors: Tensors

    def stored(self) -> dict[str, Stored]:
        """The tensors by name, none of them made yet."""
        if isinstance(self.tensors, LazyTensors):
            return self.tensors.stored
        return {name: Stored.of(tensor) for name, tensor in self.tensors.items()}


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor that lies in a file: its shape, and what makes an array of it."""

    shape: tuple[int, ...]
    load: Callable[[], Tensor]

    @classmethod
    def of(cls, tensor: Tensor) -> Stored:
        """An array, which may be mapped into memory."""
        return cls(tensor.shape, lambda: tensor)


class LazyTensors(Mapping[str, Tensor]):
    """Tensors that are made when they are asked for, each time anew."""

    def __init__(self, stored: Mapping[str, Stored]) -> None:
        self.stored = dict(stored)

    def __getitem__(self, name: str) -> Tensor:
        return self.stored[name].load()

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)


def read_weights(path: Path) -> WhisperWeights:
    """The weights in a model's folder or file, in any of the formats that can be read.

    Raises:
        ModelDamaged: the files are not those of a Whisper model.
    """
    from stenopool.models.formats.reading import read_whisper_weights

    return read_whisper_weights(path)


def assembled(stored: Mapping[str, Stored], generation: Generation, do: str) -> WhisperWeights:
    """A model of a file's tensors, which are of the names and the shapes that Whisper's have.

    Args:
        stored: by their names in Transformers; others are left out.
        do: what to do where they are not.

    Raises:
        ModelDamaged: one is missing, or of another shape.
    """
    shape, inner = _sizes(stored, do)
    found = {}
    for name, size in expected(shape, inner):
        if name not in stored:
            raise ModelDamaged(f"the model lacks the tensor `{name}`", do=do)
        if stored[name].shape != size:
            what = f"`{name}` is of {list(stored[name].shape)}, not of {list(size)}"
            raise ModelDamaged(f"the tensor {what}", do=do)
        found[name] = stored[name]
    return WhisperWeights(shape, generation, LazyTensors(found))


def _sizes(stored: Mapping[str, Stored], do: str) -> tuple[WhisperShape, int]:
    """The sizes that the first tensors imply, and the width between the two parts of a layer."""
    try:
        width, mel_bins, _ = stored["model.encoder.conv1.weight"].shape
        vocabulary, _ = stored["model.decoder.embed_tokens.weight"].shape
        positions, _ = stored["model.decoder.embed_positions.weight"].shape
        inner, _ = stored["model.encoder.layers.0.fc1.weight"].shape
    except KeyError as error:
        raise ModelDamaged(f"the model lacks the tensor {error}", do=do) from error
    except ValueError as error:
        what = "its first tensors do not have the shapes of Whisper's"
        raise ModelDamaged(what, do=do) from error
    layers = {side: _layers(stored, side) for side in ("encoder", "decoder")}
    shape = WhisperShape(
        mel_bins=mel_bins,
        width=width,
        encoder_layers=layers["encoder"],
        decoder_layers=layers["decoder"],
        vocabulary=vocabulary,
        text_positions=positions,
    )
    numbers = (mel_bins, width, vocabulary, positions, inner, *layers.values())
    largest = max(prod(one.shape) for one in stored.values())
    sound = width % HEAD_WIDTH == 0 and min(numbers) > 0
    if not sound or max(layers.values()) > _MOST_LAYERS or largest > _MOST_NUMBERS:
        raise ModelDamaged("its sizes are not those of a Whisper model", do=do)
    return shape, inner


def _layers(stored: Mapping[str, Stored], side: str) -> int:
    begin, end = f"model.{side}.layers.", ".fc1.bias"
    return sum(1 for name in stored if name.startswith(begin) and name.endswith(end))


def expected(shape: WhisperShape, inner: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of each tensor of a model.

    Args:
        inner: width between the two parts of a layer's feed-forward network.
    """
    width = shape.width
    yield from _both("model.encoder.conv1", (width, shape.mel_bins, 3))
    yield from _both("model.encoder.conv2", (width, width, 3))
    yield "model.encoder.embed_positions.weight", (AUDIO_POSITIONS, width)
    yield "model.decoder.embed_tokens.weight", (shape.vocabulary, width)
    yield "model.decoder.embed_positions.weight", (shape.text_positions, width)
    for side, layers, attentions in (
        ("encoder", shape.encoder_layers, ("self_attn",)),
        ("decoder", shape.decoder_layers, ("self_attn", "encoder_attn")),
    ):
        yield from _both(f"model.{side}.layer_norm", (width,))
        for layer in range(layers):
            name = f"model.{side}.layers.{layer}"
            for attention in attentions:
                yield from _both(f"{name}.{attention}_layer_norm", (width,))
                yield f"{name}.{attention}.k_proj.weight", (width, width)  # keys have no bias
                for kind in ("q", "v", "out"):
                    yield from _both(f"{name}.{attention}.{kind}_proj", (width, width))
            yield from _both(f"{name}.fc1", (inner, width))
            yield from _both(f"{name}.fc2", (width, inner))
            yield from _both(f"{name}.final_layer_norm", (width,))


def _both(name: str, size: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", size
    yield f"{name}.bias", size[:1]


def inner_width(weights: WhisperWeights) -> int:
    """Width between the two parts of a layer's feed-forward network."""
    return len(weights.tensors["model.encoder.layers.0.fc1.bias"])


def refuse_overflow(name: str, tensor: Tensor) -> Tensor:
    """The tensor itself, all of whose numbers are numbers.

    A model that was trained into overflow, or was damaged before it was hashed, would say anything
    or nothing without an error.

    Raises:
        ModelDamaged: one is infinite or not a number.
    """
    if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
        raise damaged(f"`{name}` has numbers that are infinite or none at all")
    return tensor


def from_bfloat16(bits: Tensor) -> Tensor:
    """The numbers whose upper halves in float32 are given, which NumPy has no type for."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
