"""Whisper's layers in NumPy, float64, written down as the papers say it, to hold the kernels to."""

from __future__ import annotations

import ctypes
from importlib.util import find_spec
from math import erf
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stenopool.engines.openvino import library
from stenopool.engines.openvino.processor import flags
from stenopool.models.weights import Generation, WhisperShape, WhisperWeights, expected

Numbers = NDArray[np.float64]

VARIANTS = [name for name, needed in library.VARIANTS.items() if needed <= flags()]


def kernels(variant: str, monkeypatch: pytest.MonkeyPatch) -> ctypes.CDLL:
    """Let the package use this variant."""
    found = find_spec(f"stenopool.engines.openvino.{variant}")
    assert found
    assert found.origin
    opened = library.opened(found.origin)
    assert opened.kernels_begin()
    for module in ("library", "decoder", "encoder"):
        monkeypatch.setattr(f"stenopool.engines.openvino.{module}.library", lambda: opened)
    return opened


def random_weights(shape: WhisperShape, inner: int) -> WhisperWeights:
    """float16, of a size that leaves no layer without effect."""
    random = np.random.default_rng(1)
    tensors = {}
    for name, size in expected(shape, inner):
        spread = 1.0 if "embed" in name else 1.5 * np.prod(size[1:] or size) ** -0.5
        tensors[name] = random.normal(1.0 if "norm.weight" in name else 0.0, spread, size)
    halves = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
    return WhisperWeights(shape, Generation((), (), ()), halves)


class Layers:
    """The layers of a model, by their names in Transformers."""

    def __init__(self, weights: WhisperWeights) -> None:
        self.shape = weights.shape
        self.weights = {name: one.astype(np.float64) for name, one in weights.tensors.items()}

    def linear(self, x: Numbers, name: str) -> Numbers:
        product = x @ self.weights[f"{name}.weight"].T
        return np.asarray(product + self.weights.get(f"{name}.bias", 0.0))

    def norm(self, x: Numbers, name: str) -> Numbers:
        apart = x - x.mean(axis=-1, keepdims=True)
        found = apart / np.sqrt((apart**2).mean(axis=-1, keepdims=True) + 1e-5)
        return np.asarray(found * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"])

    def convolution(self, x: Numbers, name: str, stride: int) -> Numbers:
        """(channels, frames) → (width, frames / stride), with GELU."""
        weight = self.weights[f"{name}.weight"]
        padded = np.pad(x, ((0, 0), (1, 1)))
        taps = [padded[:, tap : tap + x.shape[1] : stride] for tap in range(3)]
        summed = sum(weight[:, :, tap] @ taps[tap] for tap in range(3))
        return gelu(np.asarray(summed + self.weights[f"{name}.bias"][:, None]))

    def self_attention(self, x: Numbers, name: str, *, causal: bool) -> Numbers:
        """Normalised first; what is added to x."""
        y = self.norm(x, f"{name}.self_attn_layer_norm")
        query, key, value = (
            heads(self.linear(y, f"{name}.self_attn.{kind}_proj")) for kind in "qkv"
        )
        later = np.triu(np.full((len(x), len(x)), -np.inf if causal else 0.0), 1)
        heard = softmax(query @ key.transpose(0, 2, 1) / 8 + later) @ value
        return self.linear(joined(heard), f"{name}.self_attn.out_proj")

    def feed_forward(self, x: Numbers, name: str) -> Numbers:
        """Normalised first; what is added to x."""
        y = self.linear(self.norm(x, f"{name}.final_layer_norm"), f"{name}.fc1")
        return self.linear(gelu(y), f"{name}.fc2")


def gelu(x: Numbers) -> Numbers:
    return np.asarray(x * (1 + np.vectorize(erf)(x / np.sqrt(2))) / 2)


def softmax(x: Numbers) -> Numbers:
    shares = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=-1, keepdims=True))


def heads(x: Numbers) -> Numbers:
    """(rows, width) → (heads, rows, 64)."""
    return x.reshape(len(x), -1, 64).transpose(1, 0, 2)


def joined(x: Numbers) -> Numbers:
    """(heads, rows, 64) → (rows, width)."""
    return x.transpose(1, 0, 2).reshape(x.shape[1], -1)


def numbers(bits: NDArray[Any]) -> NDArray[np.float32]:
    """Of float32, or of bfloat16's bits."""
    if bits.dtype == np.float32:
        return bits
    return (bits.astype(np.uint32) << 16).view(np.float32)
