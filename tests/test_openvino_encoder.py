"""The encoder's kernels beside the same in NumPy, float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stenopool.engines.openvino.encoder import FLOATS, INT8, TILES, Encoder, PackedEncoder
from stenopool.engines.openvino.library import Team
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
INNER = 2112  # the weights of a layer are more than what is multiplied in one go
POSITIONS = (37, 70, 64, 1500)  # a tile has 32


@pytest.fixture(scope="module")
def weights() -> WhisperWeights:
    return random_weights(SHAPE, INNER)


@pytest.fixture(params=[(variant, exact) for variant in VARIANTS for exact in (False, True)])
def exact(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether to multiply in float32, by each variant."""
    variant, exact = request.param
    kernels(variant, monkeypatch)
    return bool(exact)


@pytest.fixture
def packed(exact: bool, weights: WhisperWeights) -> PackedEncoder:
    return PackedEncoder(weights, exact=exact, team=Team(2))


def bound(packed: PackedEncoder) -> float:
    """How far keys and values may be from the paper's: as bfloat16 and int8 leave them."""
    if packed.structure.exact:
        return 1e-5
    return {FLOATS: 1e-4, INT8: 0.04, TILES: 0.01}[packed.kind]


def features(positions: int) -> NDArray[np.float32]:
    random = np.random.default_rng(positions)
    return random.normal(0.0, 1.0, (SHAPE.mel_bins, 2 * positions)).astype(np.float32)


def reference(weights: WhisperWeights, window: NDArray[np.float32]) -> list[Numbers]:
    """Each of the decoder's layers' keys and values."""
    layers = Layers(weights)
    x = layers.convolution(window.astype(np.float64), "model.encoder.conv1", 1)
    x = layers.convolution(x, "model.encoder.conv2", 2).T
    x = x + layers.weights["model.encoder.embed_positions.weight"][: len(x)]
    for layer in range(weights.shape.encoder_layers):
        name = f"model.encoder.layers.{layer}"
        x = x + layers.self_attention(x, name, causal=False)
        x = x + layers.feed_forward(x, name)
    x = layers.norm(x, "model.encoder.layer_norm")
    found = []
    for layer in range(weights.shape.decoder_layers):
        name = f"model.decoder.layers.{layer}.encoder_attn"
        found.append(heads(layers.linear(x, f"{name}.k_proj")))
        found.append(heads(layers.linear(x, f"{name}.v_proj")).transpose(0, 2, 1))
    return found


@pytest.fixture(scope="module")
def references(weights: WhisperWeights) -> dict[int, list[Numbers]]:
    return {positions: reference(weights, features(positions)) for positions in POSITIONS}


def apart(found: NDArray[Any], expected: Numbers) -> float:
    """How far numbers that should be the same are, relative to their size."""
    assert found.shape == expected.shape
    return float(np.linalg.norm(numbers(found) - expected) / np.linalg.norm(expected))


def test_keys_and_values_are_those_of_the_paper(
    packed: PackedEncoder, references: dict[int, list[Numbers]]
) -> None:
    """One encoder for windows of any length, one after the other."""
    encoder = Encoder(packed, Team(2))
    for positions, expected in references.items():
        for found, one in zip(encoder.run(features(positions)), expected, strict=True):
            assert apart(found, one) < bound(packed)


def test_numbers_do_not_depend_on_threads_or_windows_before(packed: PackedEncoder) -> None:
    window, other = features(70), 100 * features(1500)
    lone = [one.copy() for one in Encoder(packed, Team(1)).run(window)]
    encoder = Encoder(packed, Team(5))
    encoder.run(other)
    for one, expected in zip(encoder.run(window), lone, strict=True):
        np.testing.assert_array_equal(one, expected)


def test_large_numbers_stay_finite(packed: PackedEncoder) -> None:
    for one in Encoder(packed, Team(2)).run(1e6 * features(37)):
        assert np.isfinite(numbers(one)).all()


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_sound_that_is_no_number_is_none_after_every_layer(
    packed: PackedEncoder, number: float
) -> None:
    """No rounding and no bound may make a number of it: what overflows must be seen."""
    window = features(70)
    window[5, 61] = number
    for one in Encoder(packed, Team(2)).run(window):
        none = ~np.isfinite(numbers(one))
        assert none.any()
        assert (none.all(axis=1) | ~none.any(axis=1)).all()  # all numbers of a position


def test_positions_that_fill_a_tile_are_not_heard(exact: bool, weights: WhisperWeights) -> None:
    """However large their scores are: without a place they are as 100 e-fold to the others'."""
    tensors = {name: tensor.copy() for name, tensor in weights.tensors.items()}
    tensors["model.encoder.embed_positions.weight"][:, 0] = 100
    name = "model.encoder.layers.0.self_attn"
    for first in (0, 64):  # of a head
        for kind in "kq":
            tensors[f"{name}.{kind}_proj.weight"][first] = 0
        tensors[f"{name}.k_proj.weight"][first, 0] = -16
        tensors[f"{name}.q_proj.bias"][first] = 8
    given = WhisperWeights(weights.shape, weights.generation, tensors)
    window = features(70)
    packed = PackedEncoder(given, exact=exact, team=Team(2))
    ours = Encoder(packed, Team(2)).run(window)
    for found, expected in zip(ours, reference(given, window), strict=True):
        assert apart(found, expected) < 2 * bound(packed)


@pytest.mark.parametrize("size", [(36, 140), (37, 141), (37, 3002)])
def test_windows_of_another_shape_are_refused(packed: PackedEncoder, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="window"):
        Encoder(packed, Team(1)).run(np.zeros(size, np.float32))


@pytest.mark.parametrize(("bins", "inner"), [(80, 8256), (2731, 64)])
def test_layers_larger_than_any_model_has(bins: int, inner: int, exact: bool) -> None:
    """What a hostile file may say; their weights alone are more than a core's share of a cache."""
    shape = WhisperShape(bins, 64, 1, 1, 173, 64)
    weights = random_weights(shape, inner)
    window = np.random.default_rng(3).normal(0.0, 1.0, (bins, 20)).astype(np.float32)
    packed = PackedEncoder(weights, exact=exact, team=Team(2))
    ours = Encoder(packed, Team(2)).run(window)
    for found, expected in zip(ours, reference(weights, window), strict=True):
        assert apart(found, expected) < 2 * bound(packed)


def test_layers_of_an_odd_size_are_a_damaged_model() -> None:
    with pytest.raises(ModelDamaged, match="sizes"):
        PackedEncoder(random_weights(SHAPE, 300), exact=True, team=Team(1))
