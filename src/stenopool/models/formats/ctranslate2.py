"""The folder that CTranslate2 reads: `model.bin` (a `WhisperSpec`), its configuration, its words.

`model.bin` is a flat list of named tensors: queries, keys and values of self-attention are fused in
one, keys and values of cross-attention in another. All numbers are little-endian. Source of the
layout: `specs/model_spec.py` and `specs/whisper_spec.py` of CTranslate2.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path

import numpy as np

from stenopool.errors import ModelDamaged
from stenopool.models.formats.fields import Fields
from stenopool.models.weights import (
    Generation,
    Stored,
    Tensor,
    WhisperWeights,
    assembled,
    from_bfloat16,
    refuse_overflow,
)

WEIGHTS, CONFIG, TOKENIZER = "model.bin", "config.json", "tokenizer.json"
SPEC, VERSION = "WhisperSpec", 6
TYPES = {0: "<f4", 1: "|i1", 2: "<i2", 3: "<i4", 4: "<f2", 5: "<u2"}  # 5: bfloat16 as raw bits
_BFLOAT16 = 5
_LONGEST_NAME, _MOST_DIMENSIONS, _MOST_TENSORS = 200, 4, 20_000

# CTranslate2's names of the parts of a layer, and which projections each fuses.
LINEARS = {
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention/linear_1": ("self_attn.out_proj",),
    "attention/linear_0": ("encoder_attn.q_proj",),
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "attention/linear_2": ("encoder_attn.out_proj",),
    "ffn/linear_0": ("fc1",),
    "ffn/linear_1": ("fc2",),
}
NORMS = {
    "self_attention/layer_norm": "self_attn_layer_norm",
    "attention/layer_norm": "encoder_attn_layer_norm",
    "ffn/layer_norm": "final_layer_norm",
}
EMBEDDINGS = "decoder/embeddings/weight"
WHOLE = {
    "encoder/conv1/weight": "model.encoder.conv1.weight",
    "encoder/conv1/bias": "model.encoder.conv1.bias",
    "encoder/conv2/weight": "model.encoder.conv2.weight",
    "encoder/conv2/bias": "model.encoder.conv2.bias",
    "encoder/position_encodings/encodings": "model.encoder.embed_positions.weight",
    "encoder/layer_norm/gamma": "model.encoder.layer_norm.weight",
    "encoder/layer_norm/beta": "model.encoder.layer_norm.bias",
    EMBEDDINGS: "model.decoder.embed_tokens.weight",
    "decoder/position_encodings/encodings": "model.decoder.embed_positions.weight",
    "decoder/layer_norm/gamma": "model.decoder.layer_norm.weight",
    "decoder/layer_norm/beta": "model.decoder.layer_norm.bias",
}
_DO = "Pull the model again with `steno models pull NAME --force`"


def read_ctranslate2(folder: Path) -> WhisperWeights:
    """The weights in a folder.

    Raises:
        ModelDamaged: the files are not those of a Whisper model.
    """
    stored = _in_transformers_names(dict(_tensors(folder / WEIGHTS)))
    return assembled(stored, _generation(folder / CONFIG), _DO)


def refuse_damaged_numbers(folder: Path) -> None:
    """Look at every number in a folder, of any model that CTranslate2 knows.

    Raises:
        ModelDamaged: some are none.
    """
    for name, tensor in _tensors(folder / WEIGHTS):
        floating = tensor.dtype == np.uint16
        refuse_overflow(name, from_bfloat16(tensor) if floating else tensor)
        if name.endswith("_scale") and not tensor.all():  # what int8 weights are divided by
            raise _damaged(f"`{name}` has zeros")


def is_ctranslate2(file: Path) -> bool:
    """Whether a file begins as such a model does; it may be damaged all the same."""
    head = struct.pack("<H", len(SPEC) + 1) + SPEC.encode()
    try:
        with file.open("rb") as opened:
            return opened.read(4 + len(head))[4:] == head
    except OSError:
        return False


def _tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    """Name and array of each tensor in a binary model, bfloat16 as its raw bits."""
    reader = _Reader(file, _DO)
    version, spec = reader.number(), reader.text()
    if version < VERSION or spec != SPEC:
        raise reader.damaged(f"is `{spec}` version {version}, not a {SPEC} of version 6")
    reader.number()  # revision
    for place in range(reader.number()):
        if place > _MOST_TENSORS:
            raise reader.damaged("holds more tensors than a model has")
        yield reader.text(), reader.tensor()


class _Reader(Fields):
    """Reads the parts of such a file."""

    def text(self) -> str:
        length = self.size(_LONGEST_NAME, "a name", "<H")
        if not length:
            raise self.damaged("holds a name of 0 bytes")
        return self.take(length)[:-1].decode("ascii", "replace")  # it ends with a zero

    def tensor(self) -> Tensor:
        dimensions = self.size(_MOST_DIMENSIONS, "a tensor", "B")
        shape = tuple(self.number() for _ in range(dimensions))
        kind, length = self.number("B"), self.number()
        if kind not in TYPES or length != np.dtype(TYPES[kind]).itemsize * prod(shape):
            raise self.damaged("holds a tensor whose type and length do not agree")
        return self.array(np.dtype(TYPES[kind]), prod(shape)).reshape(shape)


def _in_transformers_names(found: Mapping[str, Tensor]) -> dict[str, Stored]:
    try:
        stored = {theirs: _floats(found, ours) for ours, theirs in WHOLE.items()}
        for side in ("encoder", "decoder"):
            for layer in range(_layers(found, side)):
                before, after = f"{side}/layer_{layer}", f"model.{side}.layers.{layer}"
                stored |= dict(_layer(found, before, after, side))
    except KeyError as error:
        raise _damaged(f"the model lacks the tensor {error}") from error
    return stored


def _layers(found: Mapping[str, Tensor], side: str) -> int:
    return len(
        {name.split("/")[1] for name in found if name.startswith(f"{side}/layer_")} - {"layer_norm"}
    )


def of_side(names: Mapping[str, object], side: str) -> list[str]:
    """Names of the parts that a layer has: encoders have no cross-attention."""
    return [name for name in names if side == "decoder" or not name.startswith("attention/")]


def _layer(
    found: Mapping[str, Tensor], before: str, after: str, side: str
) -> Iterator[tuple[str, Stored]]:
    for ours in of_side(NORMS, side):
        yield f"{after}.{NORMS[ours]}.weight", _floats(found, f"{before}/{ours}/gamma")
        yield f"{after}.{NORMS[ours]}.bias", _floats(found, f"{before}/{ours}/beta")
    for ours in of_side(LINEARS, side):
        projections = LINEARS[ours]
        for kind in ("weight", "bias"):
            fused = _floats(found, f"{before}/{ours}/{kind}")
            if not fused.shape or fused.shape[0] % len(projections):
                raise _damaged(f"`{before}/{ours}` cannot be parted in {len(projections)}")
            for place, name in enumerate(projections):
                if not (kind == "bias" and name.endswith("k_proj")):  # Whisper's keys have none
                    yield f"{after}.{name}.{kind}", _part(fused, place, len(projections))


def _part(fused: Stored, place: int, parts: int) -> Stored:
    rows = fused.shape[0] // parts
    shape = (rows, *fused.shape[1:])
    return Stored(shape, lambda: fused.load()[place * rows : (place + 1) * rows])


def _floats(found: Mapping[str, Tensor], name: str) -> Stored:
    """A tensor as floating point; int8 weights are divided by the scale of their row."""
    tensor = found[name]
    if tensor.dtype == np.uint16:
        return Stored(tensor.shape, lambda: from_bfloat16(tensor))
    if tensor.dtype == np.int8:
        scale = found[f"{name}_scale"]
        if scale.shape != tensor.shape[:1] or scale.dtype.kind != "f":
            raise _damaged(f"`{name}` has no scale for each of its rows")
        rows = scale.reshape(-1, *[1] * (tensor.ndim - 1))
        return Stored(tensor.shape, lambda: tensor.astype(np.float32) / rows)
    if tensor.dtype.kind != "f":
        raise _damaged(f"`{name}` is of whole numbers without a scale")
    return Stored.of(tensor)


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
    return ModelDamaged(what, do=_DO)
