"""Small Whisper models of random numbers, for tests of formats."""

from __future__ import annotations

import numpy as np

from stenopool.models.formats.model import Whisper
from stenopool.models.formats.tokenizer import tokenizer_of_words
from stenopool.models.weights import (
    Generation,
    LazyTensors,
    Stored,
    WhisperShape,
    WhisperWeights,
    expected,
)

ENGLISH, MULTILINGUAL = 51864, 51865
WIDTH, INNER, POSITIONS = 64, 128, 16
SHAPE = WhisperShape(
    mel_bins=80,
    width=WIDTH,
    encoder_layers=1,
    decoder_layers=2,
    vocabulary=ENGLISH,
    text_positions=POSITIONS,
)
SAID = Generation(suppress=(1, 2, 50358), suppress_first=(220, 50256), alignment_heads=((1, 0),))


def tiny(
    dtype: str = "float16", shape: WhisperShape = SHAPE, said: Generation = SAID, seed: int = 0
) -> Whisper:
    """A model with one encoder layer and two decoder layers, the same each time."""
    random = np.random.default_rng(seed)
    stored = {
        name: Stored.of((random.normal(size=size) / 8).astype(dtype))
        for name, size in expected(shape, INNER)
    }
    weights = WhisperWeights(shape, said, LazyTensors(stored))
    return Whisper(weights, tokenizer(shape.vocabulary))


def tokenizer(vocabulary: int = ENGLISH) -> bytes:
    """Of all single bytes and a few words; the other ids have no text."""
    letters = [bytes([byte]) for byte in range(256)]
    words = [b"th", b"the", b" t", b" th", b" the", b"in", b"ing"]
    return tokenizer_of_words([*letters, *words], vocabulary)


def assert_same(found: Whisper, wanted: Whisper) -> None:
    """Sizes, what is said of decoding, and every bit of every tensor."""
    assert found.weights.shape == wanted.weights.shape
    assert found.weights.generation == wanted.weights.generation
    assert found.tokenizer == wanted.tokenizer
    theirs, ours = found.weights.tensors, wanted.weights.tensors
    assert set(theirs) == set(ours)
    for name in ours:
        assert theirs[name].dtype == ours[name].dtype, name
        assert np.array_equal(theirs[name], ours[name]), name
