"""Writes the folder that CTranslate2 reads; see `ctranslate2` for its layout."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from stenopool.files import fill_whole, write_whole
from stenopool.models.formats.ctranslate2 import (
    CONFIG,
    EMBEDDINGS,
    LINEARS,
    NORMS,
    SPEC,
    TOKENIZER,
    TYPES,
    VERSION,
    WEIGHTS,
    WHOLE,
    of_side,
)
from stenopool.models.formats.model import FLOAT16, FLOAT32, Whisper
from stenopool.models.formats.preprocessor import preprocessor
from stenopool.models.weights import Tensor, WhisperWeights

INT8 = "int8"
PRECISIONS = (FLOAT16, FLOAT32, INT8)

_REVISION = 3
_LARGEST_INT8 = 127
_NUMBER_OF_TYPE = {np.dtype(name): number for number, name in TYPES.items()}


def write_ctranslate2(whisper: Whisper, folder: Path, precision: str = FLOAT16) -> None:
    """Write a folder that `ctranslate2.models.Whisper` and faster-whisper read.

    Args:
        folder: is there already.
        precision: of `PRECISIONS`; int8 has one scale for each row of a matrix, and leaves the rest
            in float32.

    Raises:
        ModelDamaged: the tokenizer is not that of a Whisper model.
        UnsupportedOption: float16 cannot hold the model's numbers.
        OutputError: the folder cannot be written to.
    """
    tokens = whisper.tokens
    said = whisper.weights.generation
    # It has no other word for not knowing which heads follow the audio.
    heads = said.alignment_heads or whisper.weights.shape.upper_heads
    config = {
        "alignment_heads": [list(head) for head in heads],
        "lang_ids": sorted(tokens.languages.values()),
        "suppress_ids": list(said.suppress),
        "suppress_ids_begin": list(said.suppress_first),
    }
    documents = {
        CONFIG: config,
        "vocabulary.json": list(tokens.every),
        "preprocessor_config.json": preprocessor(whisper.weights.shape),
    }
    for name, document in documents.items():
        write_whole(folder / name, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    write_whole(folder / TOKENIZER, whisper.tokenizer)
    weights = whisper.in_precision(FLOAT32 if precision == INT8 else precision).weights
    fill_whole(folder / WEIGHTS, lambda file: _write(file, weights, precision))


def _write(file: IO[bytes], weights: WhisperWeights, precision: str) -> None:
    names = sorted(_names(weights, precision))
    file.write(struct.pack("<I", VERSION) + _named(SPEC))
    file.write(struct.pack("<II", _REVISION, len(names)))
    for name in names:
        tensor = _written(weights, name, precision)
        file.write(_named(name) + struct.pack(f"<B{tensor.ndim}I", tensor.ndim, *tensor.shape))
        file.write(struct.pack("<BI", _NUMBER_OF_TYPE[tensor.dtype], tensor.nbytes))
        file.write(np.ascontiguousarray(tensor).data)
    aliases = [("decoder/projection/weight", EMBEDDINGS)]
    if precision == INT8:
        aliases.append(("decoder/projection/weight_scale", f"{EMBEDDINGS}_scale"))
    file.write(struct.pack("<I", len(aliases)))
    for pair in aliases:
        file.write(b"".join(map(_named, pair)))


def _named(name: str) -> bytes:
    return struct.pack("<H", len(name) + 1) + name.encode() + b"\0"


def _names(weights: WhisperWeights, precision: str) -> Iterator[str]:
    """Of all tensors that are written."""
    yield from (*WHOLE, *_facts(weights))
    matrices = [EMBEDDINGS]
    counts = {"encoder": weights.shape.encoder_layers, "decoder": weights.shape.decoder_layers}
    for side, count in counts.items():
        for layer in (f"{side}/layer_{number}" for number in range(count)):
            for name in of_side(NORMS, side):
                yield from (f"{layer}/{name}/gamma", f"{layer}/{name}/beta")
            for name in of_side(LINEARS, side):
                yield from (f"{layer}/{name}/weight", f"{layer}/{name}/bias")
                matrices.append(f"{layer}/{name}/weight")
    if precision == INT8:
        yield from (f"{name}_scale" for name in matrices)


def _facts(weights: WhisperWeights) -> dict[str, Tensor]:
    """What the specification says beside the weights."""
    heads, yes, no = np.int16(weights.shape.heads), np.int8(1), np.int8(0)
    facts = {
        "decoder/activation": np.int8(3),  # GELU
        "decoder/alibi": no,
        "decoder/alignment_heads": np.int16(1),
        "decoder/alignment_layer": np.int16(-1),
        "decoder/num_heads": heads,
        "decoder/pre_norm": yes,
        "decoder/scale_embeddings": no,
        "decoder/start_from_zero_embedding": no,
        "encoder/num_heads": heads,
    }
    return {name: np.asarray(value) for name, value in facts.items()}


def _written(weights: WhisperWeights, name: str, precision: str) -> Tensor:
    """A tensor as the file has it, by CTranslate2's name."""
    if name in (facts := _facts(weights)):
        return facts[name]
    plain = _fused(weights, name.removesuffix("_scale"))
    quantised = plain.ndim == 2 and not name.endswith("encodings")
    if precision != INT8 or not quantised:
        return plain
    largest = np.abs(plain).max(axis=1)
    scale = (_LARGEST_INT8 / np.where(largest == 0, _LARGEST_INT8, largest)).astype(np.float32)
    return scale if name.endswith("_scale") else np.rint(plain * scale[:, None]).astype(np.int8)


def _fused(weights: WhisperWeights, name: str) -> Tensor:
    tensors = weights.tensors
    if name in WHOLE:
        return tensors[WHOLE[name]]
    side, layer, block, part, kind = name.split("/")
    within = f"model.{side}.layers.{layer.removeprefix('layer_')}"
    if f"{block}/{part}" in NORMS:
        theirs = "weight" if kind == "gamma" else "bias"
        return tensors[f"{within}.{NORMS[f'{block}/{part}']}.{theirs}"]
    projections = LINEARS[f"{block}/{part}"]
    if len(projections) == 1:
        return tensors[f"{within}.{projections[0]}.{kind}"]
    return np.concatenate(_parts(tensors, [f"{within}.{one}" for one in projections], kind))


def _parts(tensors: Mapping[str, Tensor], names: Sequence[str], kind: str) -> list[Tensor]:
    """What is fused; keys, which have no bias, get zeros."""
    like = tensors[f"{names[-1]}.{kind}"]
    return [tensors.get(f"{name}.{kind}", np.zeros_like(like)) for name in names]
