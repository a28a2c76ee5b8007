"""The encoder's kernels beside the same in NumPy, float64. Variants without AMX do it without."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from stenopool.engines.openvino.library import Team
from stenopool.engines.openvino.tiled_encoder import TiledEncoders
from stenopool.errors import ModelDamaged
from stenopool.models.weights import WhisperShape, WhisperWeights
from whisper_in_numpy import (
    VARIANTS,
    Layers,
    Numbers,
    heads,
    kernels,
    numbers,
    random_weights,
)

SHAPE = WhisperShape(
    mel_bins=37, width=128, encoder_layers=2, decoder_layers=2, vocabulary=173, text_positions=64
)
INNER = 320
POSITIONS = (37, 70, 64, 1500)  # a tile has 32


@pytest.fixture(scope="module")
def weights() -> WhisperWeights:
    return random_weights(SHAPE, INNER)


@pytest.fixture(params=VARIANTS)
def encoders(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, weights: WhisperWeights
) -> TiledEncoders:
    kernels(request.param, monkeypatch)
    return TiledEncoders(weights, Team(2))


def features(positions: int) -> NDArray[np.float32]:
    random = np.random.default_rng(positions)
    return random.normal(0.0, 1.0, (SHAPE.mel_bins, 2 * positions)).astype(np.float32)


def reference(weights: WhisperWeights, window: NDArray[np.float32]) -> list[Numbers]:
    """Each of the decoder's layers' keys and values."""
    layers = Layers(weights)
    x = layers.convolution(window.astype(np.float64), "model.encoder.conv1", 1)
    x = layers.convolution(x, "model.encoder.conv2", 2).T
    x = x + layers.weights["model.encoder.embed_positions.weight"][: len(x)]
    for layer in range(SHAPE.encoder_layers):
        name = f"model.encoder.layers.{layer}"
        x = x + layers.self_attention(x, name, causal=False)
        x = x + layers.feed_forward(x, name)
    x = layers.norm(x, "model.encoder.layer_norm")
    found = []
    for layer in range(SHAPE.decoder_layers):
        name = f"model.decoder.layers.{layer}.encoder_attn"
        found.append(heads(layers.linear(x, f"{name}.k_proj")))
        found.append(heads(layers.linear(x, f"{name}.v_proj")).transpose(0, 2, 1))
    return found


def test_keys_and_values_are_those_of_the_paper(
    encoders: TiledEncoders, weights: WhisperWeights
) -> None:
    """One encoder for windows of any length, one after the other."""
    encoder = encoders.one(Team(2))
    for positions in POSITIONS:
        window = features(positions)
        ours = [numbers(one) for one in encoder.run(window)]
        for found, expected in zip(ours, reference(weights, window), strict=True):
            assert found.shape == expected.shape
            apart = np.linalg.norm(found - expected) / np.linalg.norm(expected)
            assert apart < 0.01  # bfloat16 has 8 bits


def test_numbers_do_not_depend_on_threads_or_windows_before(encoders: TiledEncoders) -> None:
    window, other = features(70), 100 * features(1500)
    lone = [one.copy() for one in encoders.one(Team(1)).run(window)]
    encoder = encoders.one(Team(5))
    encoder.run(other)
    for one, expected in zip(encoder.run(window), lone, strict=True):
        np.testing.assert_array_equal(one, expected)


def test_large_numbers_stay_finite(encoders: TiledEncoders) -> None:
    for one in encoders.one(Team(2)).run(1e6 * features(37)):
        assert np.isfinite(numbers(one)).all()


def test_layers_of_an_odd_size_are_a_damaged_model() -> None:
    with pytest.raises(ModelDamaged, match="sizes"):
        TiledEncoders(random_weights(SHAPE, 300), Team(1))
