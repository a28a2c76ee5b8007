"""The file that whisper.cpp reads: sizes, mel filters, words and tensors, one after the other.

All numbers are little-endian and of 32 bits; the lengths of a tensor's dimensions stand in reverse
order. Source of the layout: `whisper_model_load` in whisper.cpp.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import BinaryIO

import numpy as np

from stenopool.audio.features import mel_filters
from stenopool.files import output_error
from stenopool.models.formats.openai import dimensions, openai_tensors
from stenopool.models.formats.special import special_tokens
from stenopool.models.weights import Tensor, WhisperWeights

MAGIC = 0x67676D6C  # "ggml"
BLOCK = 32  # weights that share a scale where they are of 8 bits

_FLOAT32, _FLOAT16, _EIGHT_BITS = 0, 1, 8  # types of tensors
_QUANTISATION_VERSION = 2000  # 2, times the factor by which it stands beside the type


class Precision(Enum):
    """Of the matrices; the value is the file's type. Biases and positions are float32 always."""

    FLOAT16 = 1
    EIGHT_BITS = 7 + _QUANTISATION_VERSION


def write_ggml(
    weights: WhisperWeights, folder: Path, file: Path, precision: Precision = Precision.FLOAT16
) -> None:
    """Write a model for whisper.cpp.

    Args:
        weights: of the model.
        folder: holds its `tokenizer.json`.
        file: to write.
        precision: of the matrices.

    Raises:
        ModelDamaged: the tokenizer is not that of a Whisper model.
        OutputError: the file cannot be written.
    """
    tokens = special_tokens(folder, weights.shape.vocabulary)
    filters = mel_filters(weights.shape.mel_bins)
    try:
        with file.open("wb") as target:
            _numbers(target, [MAGIC, *_sizes(weights), precision.value, *filters.shape])
            target.write(filters.astype("<f4").tobytes())
            _numbers(target, [len(tokens.words)])
            for word in tokens.words:
                _numbers(target, [len(word)])
                target.write(word)
            for name, tensor in openai_tensors(weights):
                _write_tensor(target, name, tensor, precision)
    except OSError as error:
        raise output_error(file, error) from error


def _sizes(weights: WhisperWeights) -> list[int]:
    sizes = dimensions(weights)
    mel_bins = sizes.pop("n_mels")  # last here, first there
    audio = ("n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer")
    text = ("n_text_ctx", "n_text_state", "n_text_head", "n_text_layer")
    return [sizes["n_vocab"], *(sizes[name] for name in (*audio, *text)), mel_bins]


def _write_tensor(target: BinaryIO, name: str, tensor: Tensor, precision: Precision) -> None:
    if name in ("encoder.conv1.bias", "encoder.conv2.bias"):
        tensor = tensor[:, None]  # added to (width, frames)
    kind = _kind(name, tensor, precision)
    encoded = name.encode("ascii")
    _numbers(target, [tensor.ndim, len(encoded), kind, *reversed(tensor.shape)])
    target.write(encoded)
    if kind == _EIGHT_BITS:
        target.write(eight_bits(tensor))
    else:
        target.write(tensor.astype("<f2" if kind == _FLOAT16 else "<f4").tobytes())


def _kind(name: str, tensor: Tensor, precision: Precision) -> int:
    if tensor.ndim == 1 or name.endswith(("positional_embedding", "bias")):
        return _FLOAT32
    if precision is Precision.EIGHT_BITS and tensor.ndim == 2:
        return _EIGHT_BITS
    return _FLOAT16


def eight_bits(matrix: Tensor) -> bytes:
    """A matrix as blocks of 32 weights of a row: a float16 scale, then 32 whole numbers (`Q8_0`).

    Args:
        matrix: (rows, columns) of floating point; the columns are a multiple of 32.
    """
    blocks = matrix.astype(np.float32).reshape(-1, BLOCK)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / 127
    divisor = np.where(scale == 0, 1, scale)
    packed = np.empty(len(blocks), dtype=[("scale", "<f2"), ("weights", "i1", (BLOCK,))])
    packed["scale"] = scale[:, 0]
    packed["weights"] = np.rint(blocks / divisor)
    return packed.tobytes()


def _numbers(target: BinaryIO, numbers: Iterable[int]) -> None:
    target.write(np.fromiter(numbers, dtype="<u4").tobytes())
