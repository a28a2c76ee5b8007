"""whisper.cpp's file, read back by a reader of its own."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from stenopool.audio.features import mel_filters
from stenopool.errors import OutputUnwritable
from stenopool.models.formats.ggml import Precision, write_ggml
from stenopool.models.formats.ggml_blocks import eight_bits, five_bits
from stenopool.models.formats.model import Whisper
from stenopool.models.formats.reading import read_whisper
from stenopool.models.weights import WhisperWeights


@dataclass
class Ggml:
    """What a file holds; `kinds` are the types of its tensors."""

    header: tuple[int, ...]
    filters: Any
    words: list[bytes]
    tensors: dict[str, Any]
    kinds: dict[str, int]


def parsed(data: bytes) -> Ggml:
    at = 0

    def take(count: int) -> bytes:
        nonlocal at
        assert at + count <= len(data)
        at += count
        return data[at - count : at]

    def number() -> int:
        return int(struct.unpack("<i", take(4))[0])

    header = tuple(number() for _ in range(12))
    rows, columns = number(), number()
    filters = np.frombuffer(take(rows * columns * 4), "<f4").reshape(rows, columns)
    words = [take(number()) for _ in range(number())]
    tensors, kinds = {}, {}
    while at < len(data):
        dimensions, length, kind = number(), number(), number()
        shape = [number() for _ in range(dimensions)][::-1]
        name = take(length).decode()
        tensors[name] = _tensor(take(_bytes(kind, int(np.prod(shape)))), kind, shape)
        kinds[name] = kind
    return Ggml(header, filters, words, tensors, kinds)


def _bytes(kind: int, size: int) -> int:
    return {0: 4 * size, 1: 2 * size, 8: size // 32 * 34}[kind]


def _tensor(data: bytes, kind: int, shape: list[int]) -> Any:
    if kind == 8:
        blocks = np.frombuffer(data, [("scale", "<f2"), ("whole", "i1", (32,))])
        floats = blocks["scale"].astype(np.float32)[:, None] * blocks["whole"]
        return floats.reshape(shape)
    return np.frombuffer(data, "<f4" if kind == 0 else "<f2").reshape(shape)


@pytest.fixture(scope="module")
def folder(models_dir: Path) -> Path:
    return models_dir / "tiny.en"


@pytest.fixture(scope="module")
def whisper(folder: Path) -> Whisper:
    return read_whisper(folder)


@pytest.fixture(scope="module")
def weights(whisper: Whisper) -> WhisperWeights:
    return whisper.weights


@pytest.fixture(scope="module")
def written(whisper: Whisper, tmp_path_factory: pytest.TempPathFactory) -> Ggml:
    file = tmp_path_factory.mktemp("ggml") / "model.bin"
    write_ggml(whisper, file)
    return parsed(file.read_bytes())


def test_header_has_the_sizes_of_the_paper(written: Ggml) -> None:
    # magic; words; then positions, width, heads, layers of each side; mel bins; type
    assert written.header == (
        *(0x67676D6C, 51864),
        *(1500, 384, 6, 4),
        *(448, 384, 6, 4),
        *(80, 1),
    )


def test_filters_are_those_of_the_features(written: Ggml) -> None:
    np.testing.assert_array_equal(written.filters, mel_filters(80))


def test_words_are_the_bytes_of_each_token(written: Ggml, folder: Path) -> None:
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert len(written.words) == tokenizer.token_to_id("<|endoftext|>")
    for text in ("Hello world, it's 5 o'clock.", "naïve 日本語 \n\t \x00 \x7f"):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert b"".join(written.words[number] for number in ids) == text.encode()


def test_tensors_are_those_of_the_model(written: Ggml, weights: WhisperWeights) -> None:
    for ours, theirs in {
        "model.encoder.conv1.weight": "encoder.conv1.weight",
        "model.encoder.embed_positions.weight": "encoder.positional_embedding",
        "model.encoder.layers.3.self_attn.k_proj.weight": "encoder.blocks.3.attn.key.weight",
        "model.encoder.layer_norm.bias": "encoder.ln_post.bias",
        "model.decoder.embed_tokens.weight": "decoder.token_embedding.weight",
        "model.decoder.layers.0.encoder_attn.v_proj.bias": "decoder.blocks.0.cross_attn.value.bias",
        "model.decoder.layers.2.fc2.weight": "decoder.blocks.2.mlp.2.weight",
        "model.decoder.layer_norm.weight": "decoder.ln.weight",
    }.items():
        np.testing.assert_array_equal(written.tensors[theirs], weights.tensors[ours])
    assert len(written.tensors) == len(weights.tensors)


def test_small_tensors_are_float32_and_matrices_float16(written: Ggml) -> None:
    assert written.tensors["encoder.conv1.bias"].shape == (384, 1)
    for name, tensor in written.tensors.items():
        small = tensor.ndim == 1 or name.endswith(("bias", "positional_embedding"))
        assert written.kinds[name] == (0 if small else 1), name


def test_eight_bits_are_close(whisper: Whisper, tmp_path: Path) -> None:
    file, weights = tmp_path / "model.bin", whisper.weights
    write_ggml(whisper, file, Precision.EIGHT_BITS)
    small = parsed(file.read_bytes())
    assert small.header[-1] == 2007  # quantisation version 2, type 7
    assert small.kinds["encoder.conv1.weight"] == 1  # whisper.cpp takes these in float16 only
    name = "decoder.token_embedding.weight"
    exact = weights.tensors["model.decoder.embed_tokens.weight"].astype(np.float32)
    step = np.abs(exact.reshape(-1, 32)).max(axis=1) / 127
    error = np.abs(small.tensors[name] - exact).reshape(-1, 32).max(axis=1)
    assert small.kinds[name] == 8
    assert np.all(error <= 0.58 * step + 1e-6)  # half a step, and the rounding of the scale


def test_block_of_zeros_stays_zero() -> None:
    matrix = np.zeros((2, 32), dtype=np.float32)
    matrix[1, 0] = -2.54
    blocks = np.frombuffer(eight_bits(matrix), [("scale", "<f2"), ("whole", "i1", (32,))])
    assert not blocks["whole"][0].any()
    assert blocks["whole"][1].tolist() == [-127, *[0] * 31]
    assert blocks["scale"].tolist() == [0.0, np.float16(0.02)]


def test_five_bits_are_those_of_ggml() -> None:
    """The largest becomes -16; a fifth bit of number N stands at place N of one word."""
    matrix = np.zeros((1, 32), dtype=np.float32)
    matrix[0, [0, 1, 17]] = (8.0, -7.5, 0.5)  # steps of -0.5: 0, 31 and 15
    block = np.frombuffer(five_bits(matrix), [("scale", "<f2"), ("high", "<u4"), ("low", "u1", 16)])
    assert block["scale"].tolist() == [-0.5]
    assert block["low"][0, :2].tolist() == [0x00, 0xFF]  # the later half in the upper four bits
    assert block["high"].tolist() == [0xFFFFFFFF - 1 - (1 << 17)]


def test_exact_file_has_float32_everywhere(whisper: Whisper, tmp_path: Path) -> None:
    write_ggml(whisper, tmp_path / "model.bin", Precision.FLOAT32)
    exact = parsed((tmp_path / "model.bin").read_bytes())
    assert exact.header[-1] == 0
    assert set(exact.kinds.values()) == {0}


def test_file_that_cannot_be_written_is_an_error(whisper: Whisper, tmp_path: Path) -> None:
    with pytest.raises(OutputUnwritable, match="none"):
        write_ggml(whisper, tmp_path / "none" / "model.bin")
