"""A Whisper model's tensors as NumPy arrays, whatever file they lie in.

Names and layouts are those of Transformers (`model.encoder.layers.0.self_attn.q_proj.weight`),
which most other formats can be written from. Files are mapped into memory, not read: a tensor costs
memory when it is used. No file is ever unpickled.
"""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stenopool.errors import ModelDamaged

Tensor = NDArray[Any]
Tensors = Mapping[str, Tensor]

AUDIO_POSITIONS = 1500  # of the encoder's output, for 30 s
HEAD_WIDTH = 64  # of every Whisper model

_SPEC = "WhisperSpec"
_TYPES = {0: "<f4", 1: "|i1", 2: "<i2", 3: "<i4", 4: "<f2", 5: "<u2"}  # 5: bfloat16 as raw bits
_BFLOAT16 = 5
_LONGEST_NAME, _MOST_DIMENSIONS = 200, 4


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
    """A model in memory.

    Attributes:
        tensors: by their names in Transformers; float16 or float32. The output projection is the
            token embedding (`model.decoder.embed_tokens.weight`).
    """

    shape: WhisperShape
    generation: Generation
    tensors: Tensors


def read_weights(folder: Path) -> WhisperWeights:
    """The weights in a folder with CTranslate2's `model.bin` and `config.json`.

    Raises:
        ModelDamaged: the files are not those of a Whisper model.
    """
    tensors = _in_transformers_names(dict(_ctranslate2_tensors(folder / "model.bin")))
    return WhisperWeights(_shape(tensors), _generation(folder / "config.json"), tensors)


def _ctranslate2_tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    """Name and array of each tensor in a binary model of CTranslate2, version 6."""
    try:
        with file.open("rb") as opened:
            reader = _Reader(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ), file.name)
    except (OSError, ValueError) as error:
        raise _damaged(f"`{file.name}` cannot be read: {error}") from error
    version, spec = reader.number("<I"), reader.name()
    if version < 6 or spec != _SPEC:
        raise _damaged(f"`{file.name}` is `{spec}` version {version}, not a {_SPEC} of version 6")
    reader.number("<I")  # revision
    for _ in range(reader.number("<I")):
        yield reader.name(), reader.tensor()


class _Reader:
    """Reads CTranslate2's fields one after the other, never beyond the end."""

    def __init__(self, data: mmap.mmap, name: str) -> None:
        self._data, self._name, self._at = data, name, 0

    def number(self, layout: str) -> int:
        return int(struct.unpack(layout, self._take(struct.calcsize(layout)))[0])

    def name(self) -> str:
        length = self.number("<H")
        if not 0 < length <= _LONGEST_NAME:
            raise _damaged(f"`{self._name}` holds a name of {length} bytes")
        return self._take(length)[:-1].decode("ascii", "replace")  # it ends with a zero

    def tensor(self) -> Tensor:
        dimensions = self.number("B")
        if dimensions > _MOST_DIMENSIONS:
            raise _damaged(f"`{self._name}` holds a tensor of {dimensions} dimensions")
        shape = tuple(self.number("<I") for _ in range(dimensions))
        kind, length = self.number("B"), self.number("<I")
        if kind not in _TYPES or length != np.dtype(_TYPES[kind]).itemsize * _product(shape):
            raise _damaged(f"`{self._name}` holds a tensor whose type and length do not agree")
        self._check(length)
        array: Tensor = np.frombuffer(self._data, _TYPES[kind], _product(shape), offset=self._at)
        self._at += length
        return _from_bfloat16(array.reshape(shape)) if kind == _BFLOAT16 else array.reshape(shape)

    def _take(self, count: int) -> bytes:
        self._check(count)
        self._at += count
        return self._data[self._at - count : self._at]

    def _check(self, count: int) -> None:
        if self._at + count > len(self._data):
            raise _damaged(f"`{self._name}` is cut off")


def _product(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _from_bfloat16(bits: Tensor) -> Tensor:
    return (bits.astype(np.uint32) << 16).view(np.float32)


# CTranslate2's names of the parts of a layer, and how many projections each fuses.
_LINEARS = {
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention/linear_1": ("self_attn.out_proj",),
    "attention/linear_0": ("encoder_attn.q_proj",),
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "attention/linear_2": ("encoder_attn.out_proj",),
    "ffn/linear_0": ("fc1",),
    "ffn/linear_1": ("fc2",),
}
_NORMS = {
    "self_attention/layer_norm": "self_attn_layer_norm",
    "attention/layer_norm": "encoder_attn_layer_norm",
    "ffn/layer_norm": "final_layer_norm",
}
_WHOLE = {
    "encoder/conv1/weight": "model.encoder.conv1.weight",
    "encoder/conv1/bias": "model.encoder.conv1.bias",
    "encoder/conv2/weight": "model.encoder.conv2.weight",
    "encoder/conv2/bias": "model.encoder.conv2.bias",
    "encoder/position_encodings/encodings": "model.encoder.embed_positions.weight",
    "encoder/layer_norm/gamma": "model.encoder.layer_norm.weight",
    "encoder/layer_norm/beta": "model.encoder.layer_norm.bias",
    "decoder/embeddings/weight": "model.decoder.embed_tokens.weight",
    "decoder/position_encodings/encodings": "model.decoder.embed_positions.weight",
    "decoder/layer_norm/gamma": "model.decoder.layer_norm.weight",
    "decoder/layer_norm/beta": "model.decoder.layer_norm.bias",
}


def _in_transformers_names(found: dict[str, Tensor]) -> dict[str, Tensor]:
    try:
        tensors = {theirs: _floats(found, ours) for ours, theirs in _WHOLE.items()}
        for side, parts in (("encoder", 2), ("decoder", 3)):
            for layer in range(_layers(found, side)):
                before, after = f"{side}/layer_{layer}", f"model.{side}.layers.{layer}"
                tensors |= dict(_layer(found, before, after, cross_attention=parts == 3))
    except KeyError as error:
        raise _damaged(f"the model lacks the tensor {error}") from error
    except (IndexError, TypeError, ValueError) as error:
        raise _damaged(f"the shapes of its tensors are not those of Whisper's: {error}") from error
    return tensors


def _layers(found: Mapping[str, Tensor], side: str) -> int:
    return len(
        {name.split("/")[1] for name in found if name.startswith(f"{side}/layer_")} - {"layer_norm"}
    )


def _layer(
    found: Mapping[str, Tensor], before: str, after: str, *, cross_attention: bool
) -> Iterator[tuple[str, Tensor]]:
    for ours, theirs in _NORMS.items():
        if cross_attention or not ours.startswith("attention/"):
            yield f"{after}.{theirs}.weight", _floats(found, f"{before}/{ours}/gamma")
            yield f"{after}.{theirs}.bias", _floats(found, f"{before}/{ours}/beta")
    for ours, projections in _LINEARS.items():
        if not cross_attention and ours.startswith("attention/"):
            continue
        for kind in ("weight", "bias"):
            fused = _floats(found, f"{before}/{ours}/{kind}")
            if len(fused) % len(projections):
                raise _damaged(f"`{before}/{ours}` cannot be parted in {len(projections)}")
            parted = np.split(fused, len(projections))
            for name, part in zip(projections, parted, strict=True):
                if not (kind == "bias" and name.endswith("k_proj")):  # Whisper's keys have none
                    yield f"{after}.{name}.{kind}", part


def _floats(found: Mapping[str, Tensor], name: str) -> Tensor:
    """A tensor as floating point; int8 weights are multiplied by the scale of their row."""
    tensor = found[name]
    if tensor.dtype == np.int8:
        return tensor.astype(np.float32) / found[f"{name}_scale"][:, None]
    return tensor


def _shape(tensors: Tensors) -> WhisperShape:
    try:
        width, mel_bins, _ = tensors["model.encoder.conv1.weight"].shape
        vocabulary, columns = tensors["model.decoder.embed_tokens.weight"].shape
        positions, _ = tensors["model.decoder.embed_positions.weight"].shape
        heard, _ = tensors["model.encoder.embed_positions.weight"].shape
    except ValueError as error:
        raise _damaged("its first tensors do not have the shapes of Whisper's") from error
    shape = WhisperShape(
        mel_bins=mel_bins,
        width=width,
        encoder_layers=_counted(tensors, "encoder"),
        decoder_layers=_counted(tensors, "decoder"),
        vocabulary=vocabulary,
        text_positions=positions,
    )
    if columns != width or width % HEAD_WIDTH or heard != AUDIO_POSITIONS:
        raise _damaged("its sizes are not those of a Whisper model")
    return shape


def _counted(tensors: Tensors, side: str) -> int:
    return sum(
        1
        for name in tensors
        if name.startswith(f"model.{side}.layers.") and name.endswith(".fc1.bias")
    )


def _generation(file: Path) -> Generation:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        return Generation(
            suppress=tuple(int(token) for token in config.get("suppress_ids", ())),
            suppress_first=tuple(int(token) for token in config.get("suppress_ids_begin", ())),
            alignment_heads=tuple(
                (int(layer), int(head)) for layer, head in config.get("alignment_heads", ())
            ),
        )
    except (
        OSError,
        ValueError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise _damaged(f"`{file.name}` is not a model's configuration: {error}") from error


def _damaged(what: str) -> ModelDamaged:
    return ModelDamaged(what, do="Pull the model again with `steno models pull NAME --force`")
