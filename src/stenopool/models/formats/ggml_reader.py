"""Reads whisper.cpp's file; see `ggml` for its layout."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from stenopool.models.formats.fields import Fields
from stenopool.models.formats.ggml import (
    AS_EIGHT_BITS,
    AS_FIVE_BITS,
    AS_FLOAT16,
    AS_FLOAT32,
    MAGIC,
    QUANTISATION_VERSION,
)
from stenopool.models.formats.ggml_blocks import (
    BLOCK,
    EIGHT_BITS,
    FIVE_BITS,
    from_eight_bits,
    from_five_bits,
)
from stenopool.models.formats.openai import dimensions, transformers_name
from stenopool.models.weights import Generation, Stored, Tensor, WhisperWeights, assembled

_HEADER = (
    "n_vocab",
    "n_audio_ctx",
    "n_audio_state",
    "n_audio_head",
    "n_audio_layer",
    "n_text_ctx",
    "n_text_state",
    "n_text_head",
    "n_text_layer",
    "n_mels",
)
_MOST_WORDS, _LONGEST_WORD = 200_000, 1000
_MOST_TENSORS, _LONGEST_NAME, _MOST_DIMENSIONS = 20_000, 200, 4
_BLOCKS: dict[int, tuple[np.dtype[Any], Callable[..., Tensor]]] = {
    AS_EIGHT_BITS: (EIGHT_BITS, from_eight_bits),
    AS_FIVE_BITS: (FIVE_BITS, from_five_bits),
}
_FLOATS: dict[int, np.dtype[Any]] = {AS_FLOAT32: np.dtype("<f4"), AS_FLOAT16: np.dtype("<f2")}
_DO = "Download the file again, or export it again"


def read_ggml(file: Path) -> tuple[WhisperWeights, list[bytes]]:
    """The weights in a file, and the bytes of each of its words; it says nothing of decoding.

    Tensors of float32 in a file of float16 are given as float16 where that holds them all.

    Raises:
        ModelDamaged: it is no such file, is cut off, or has tensors of other types.
    """
    reader = _Reader(file, _DO)
    if reader.number() != MAGIC:
        raise reader.damaged("is not a file of whisper.cpp")
    sizes = {name: reader.number() for name in _HEADER}
    reader.number()  # the type of most tensors
    rows, columns = reader.number(), reader.number()
    reader.take(4 * rows * columns)  # mel filters, which are the same in all models
    words = reader.words()
    kinds, stored = reader.tensors()
    weights = assembled(_narrowed(stored, kinds), Generation((), (), ()), _DO)
    for name, size in dimensions(weights).items():
        if sizes[name] != size:
            raise reader.damaged(f"does not have the sizes that it says: `{name}`")
    return weights, words


def is_ggml_quantised(file: Path) -> bool:
    """Whether a file says that its matrices are of blocks."""
    with file.open("rb") as opened:
        head = opened.read(4 * (len(_HEADER) + 2))
    kind = int.from_bytes(head[-4:], "little") % (QUANTISATION_VERSION // 2)
    return kind not in (AS_FLOAT32, AS_FLOAT16)


class _Reader(Fields):
    """Reads the parts of such a file."""

    def words(self) -> list[bytes]:
        count = self.number()
        if count > _MOST_WORDS:
            raise self.damaged(f"has {count} words, more than a model")
        return [self.take(self.size(_LONGEST_WORD, "a word")) for _ in range(count)]

    def tensors(self) -> tuple[set[int], dict[str, Stored]]:
        """The types of the tensors, and each by its name in Transformers."""
        kinds: set[int] = set()
        found: dict[str, Stored] = {}
        while self.left:
            if len(found) > _MOST_TENSORS:
                raise self.damaged("holds more tensors than a model has")
            dimensions = self.size(_MOST_DIMENSIONS, "a tensor")
            length, kind = self.size(_LONGEST_NAME, "a name"), self.number()
            shape = tuple(self.number() for _ in range(dimensions))[::-1]
            name = self.take(length).decode("ascii", "replace")
            if name in ("encoder.conv1.bias", "encoder.conv2.bias"):
                shape = (prod(shape),)
            if name in found:
                raise self.damaged(f"holds `{name[:80]!a}` twice")
            found[name] = self._tensor(kind, shape)
            kinds.add(kind)
        return kinds, {transformers_name(name): one for name, one in found.items()}

    def _tensor(self, kind: int, shape: tuple[int, ...]) -> Stored:
        if kind in _FLOATS:
            return Stored.of(self.array(_FLOATS[kind], prod(shape)).reshape(shape))
        if kind not in _BLOCKS or not shape or shape[-1] % BLOCK:
            raise self.damaged(f"has tensors of type {kind}, which is not supported")
        layout, unpacked = _BLOCKS[kind]
        blocks = self.array(layout, prod(shape) // BLOCK)
        return Stored(shape, partial(unpacked, blocks, shape))


def _narrowed(stored: dict[str, Stored], kinds: set[int]) -> dict[str, Stored]:
    """What whisper.cpp keeps in float32 though the model is of float16, as the model had it."""
    if kinds != {AS_FLOAT16, AS_FLOAT32}:
        return stored
    return {name: Stored(one.shape, partial(_narrow, one)) for name, one in stored.items()}


def _narrow(stored: Stored) -> Tensor:
    tensor = stored.load()
    with np.errstate(over="ignore"):
        half = tensor.astype(np.float16)
    return half if np.array_equal(half, tensor) else tensor
