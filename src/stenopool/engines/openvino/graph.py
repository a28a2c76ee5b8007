"""The parts that Whisper's graphs are made of, in OpenVINO's opset.

A linear layer in int8 quantises each row of its input by the largest value in it, as CTranslate2
does, so that no calibration data is needed. The graph divides by that value before a quantisation
with fixed limits, which OpenVINO turns into an int8 product (VNNI).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset15 as ops

from stenopool.models.weights import HEAD_WIDTH, Tensor, WhisperWeights

Node = Any  # openvino.Node: its Python package has no usable types

_EPSILON = 1e-5
_LARGEST = 127


@dataclass(frozen=True, slots=True)
class Quantised:
    """Rows divided by their largest value, and that value."""

    rows: Node
    scale: Node


class Parts:
    """Builds the parts of a graph from a model's weights.

    Args:
        int8: multiply in int8 where that pays; else all products are of floating point.
    """

    def __init__(self, weights: WhisperWeights, *, int8: bool) -> None:
        self.shape = weights.shape
        self._tensors = weights.tensors
        self.int8 = int8

    def tensor(self, name: str) -> NDArray[np.float32]:
        """Weights by their name in Transformers."""
        return np.asarray(self._tensors[name], dtype=np.float32)

    def linear(self, x: Node | Quantised, name: str) -> Node:
        """A linear layer; many rows at a time."""
        bias = self._tensors.get(f"{name}.bias")
        found = product(x, self._tensors[f"{name}.weight"])
        return found if bias is None else ops.add(found, constant(bias))

    def quantised(self, x: Node) -> Node | Quantised:
        """What several linear layers take, prepared once."""
        return quantised(x) if self.int8 else x

    def norm(self, x: Node, name: str) -> Node:
        """Layer normalisation."""
        spread = ops.mvn(x, indices(-1), True, _EPSILON, "INSIDE_SQRT")
        scaled = ops.multiply(spread, constant(self._tensors[f"{name}.weight"]))
        return ops.add(scaled, constant(self._tensors[f"{name}.bias"]))

    def heads(self, x: Node) -> Node:
        """(rows, positions, width) → (rows, heads, positions, 64)."""
        return ops.transpose(self._parted(x), indices(0, 2, 1, 3))

    def turned_heads(self, x: Node) -> Node:
        """(rows, positions, width) → (rows, heads, 64, positions)."""
        return ops.transpose(self._parted(x), indices(0, 2, 3, 1))

    def _parted(self, x: Node) -> Node:
        return ops.reshape(x, indices(0, 0, self.shape.heads, HEAD_WIDTH), True)

    def joined_heads(self, x: Node) -> Node:
        """(rows, heads, positions, 64) → (rows, positions, width)."""
        return ops.reshape(
            ops.transpose(x, indices(0, 2, 1, 3)), indices(0, 0, self.shape.width), True
        )


def quantised(x: Node) -> Quantised:
    """Each row in int8, by its own largest value."""
    largest = ops.reduce_max(ops.absolute(x), indices(-1), True)
    scale = ops.maximum(largest, scalar(1e-6))
    low, high = constant(np.array([-1.0])), constant(np.array([1.0]))
    rows = ops.fake_quantize(ops.divide(x, scale), low, high, low, high, 2 * _LARGEST + 1)
    return Quantised(rows, scale)


def product(x: Node | Quantised, weight: Tensor) -> Node:
    """The product of many rows with weights, (out, in)."""
    if isinstance(x, Quantised):
        return ops.multiply(ops.matmul(x.rows, compressed(weight), False, True), x.scale)
    return ops.matmul(x, constant(weight), False, True)


def compressed(weight: Tensor) -> Node:
    """int8 weights with one scale for each row, (out, in)."""
    values = np.asarray(weight, dtype=np.float32)
    scale = np.maximum(np.abs(values).max(axis=1, keepdims=True), 1e-8) / _LARGEST
    rounded = np.rint(values / scale).astype(np.int8)
    return ops.multiply(ops.convert(ops.constant(rounded), ov.Type.f32), constant(scale))


def constant(values: Tensor) -> Node:
    """float32 constant."""
    return ops.constant(np.ascontiguousarray(values, dtype=np.float32))


def result(name: str, node: Node) -> Node:
    """An output of a graph."""
    found = ops.result(node)
    found.output(0).set_names({name})
    return found


def scalar(value: float) -> Node:
    """float32 constant without dimensions."""
    return ops.constant(np.float32(value))


def index(value: int) -> Node:
    """An axis or a number, without dimensions."""
    return ops.constant(np.int64(value))


def indices(*values: int) -> Node:
    """Axes, sizes or an order of axes."""
    return ops.constant(np.array(values, dtype=np.int64))
