"""The file that whisper.cpp reads: sizes, mel filters, words and tensors, one after the other.

All numbers are little-endian and of 32 bits; the lengths of a tensor's dimensions stand in reverse
order. Source of the layout: `whisper_model_load` in whisper.cpp.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import IO

import numpy as np

from stenopool.audio.features import mel_filters
from stenopool.files import fill_whole
from stenopool.models.formats.ggml_blocks import eight_bits, five_bits
from stenopool.models.formats.model import FLOAT16, FLOAT32, Whisper
from stenopool.models.formats.openai import dimensions, openai_name
from stenopool.models.weights import Tensor, WhisperWeights

MAGIC = 0x67676D6C  # "ggml"
AS_FLOAT32, AS_FLOAT16, AS_FIVE_BITS, AS_EIGHT_BITS = 0, 1, 6, 8  # types of tensors
QUANTISATION_VERSION = 2000  # 2, times the factor by which it stands beside the type


class Precision(Enum):
    """Of the matrices; the value is the file's type. Biases and positions are float32 always."""

    FLOAT32 = 0
    FLOAT16 = 1
    FIVE_BITS = 8 + QUANTISATION_VERSION
    EIGHT_BITS = 7 + QUANTISATION_VERSION


# Its loader takes files of float32 too, but its convolutions on CPUs end the process with them.
PRECISIONS = {
    FLOAT16: Precision.FLOAT16,
    "q8_0": Precision.EIGHT_BITS,
    "q5_0": Precision.FIVE_BITS,
}
_KINDS = {
    Precision.FLOAT32: AS_FLOAT32,
    Precision.FLOAT16: AS_FLOAT16,
    Precision.FIVE_BITS: AS_FIVE_BITS,
    Precision.EIGHT_BITS: AS_EIGHT_BITS,
}


def write_ggml(whisper: Whisper, file: Path, precision: Precision = Precision.FLOAT16) -> None:
    """Write a model for whisper.cpp.

    Args:
        file: to write.
        precision: of the matrices.

    Raises:
        ModelDamaged: the tokenizer is not that of a Whisper model.
        UnsupportedOption: float16 cannot hold the model's numbers.
        OutputError: the file cannot be written.
    """
    words = whisper.tokens.words
    fill_whole(file, lambda target: _write(target, whisper, words, precision))


def _write(
    target: IO[bytes], whisper: Whisper, words: Iterable[bytes], precision: Precision
) -> None:
    weights = whisper.weights
    filters = mel_filters(weights.shape.mel_bins)
    _numbers(target, [MAGIC, *_sizes(weights), precision.value, *filters.shape])
    target.write(filters.astype("<f4").tobytes())
    spelt = list(words)
    _numbers(target, [len(spelt)])
    for word in spelt:
        _numbers(target, [len(word)])
        target.write(word)
    exact = whisper.in_precision(FLOAT32).weights.tensors
    half = whisper.in_precision(FLOAT16).weights.tensors
    for name in weights.tensors:
        kind = _kind(openai_name(name), exact[name], precision)
        tensor = half[name] if kind == AS_FLOAT16 else exact[name]
        _write_tensor(target, openai_name(name), tensor, kind)


def _sizes(weights: WhisperWeights) -> list[int]:
    sizes = dimensions(weights)
    mel_bins = sizes.pop("n_mels")  # last here, first there
    audio = ("n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer")
    text = ("n_text_ctx", "n_text_state", "n_text_head", "n_text_layer")
    return [sizes["n_vocab"], *(sizes[name] for name in (*audio, *text)), mel_bins]


def _write_tensor(target: IO[bytes], name: str, tensor: Tensor, kind: int) -> None:
    if name in ("encoder.conv1.bias", "encoder.conv2.bias"):
        tensor = tensor[:, None]  # added to (width, frames)
    encoded = name.encode("ascii")
    _numbers(target, [tensor.ndim, len(encoded), kind, *reversed(tensor.shape)])
    target.write(encoded)
    packed = {AS_EIGHT_BITS: eight_bits, AS_FIVE_BITS: five_bits}.get(kind)
    target.write(packed(tensor) if packed else np.ascontiguousarray(tensor).tobytes())


def _kind(name: str, tensor: Tensor, precision: Precision) -> int:
    if tensor.ndim == 1 or name.endswith(("positional_embedding", "bias")):
        return AS_FLOAT32
    if tensor.ndim == 3 and precision is not Precision.FLOAT32:
        return AS_FLOAT16  # the kernels of convolutions
    return _KINDS[precision]


def _numbers(target: IO[bytes], numbers: Iterable[int]) -> None:
    target.write(np.fromiter(numbers, dtype="<u4").tobytes())
