"""The parts that a graph is made of, in OpenVINO's opset.

A linear layer in int8 quantises each row of its input by the largest value in it, as CTranslate2
does, so that no calibration data is needed. The graph divides by that value before a quantisation
with fixed limits, which OpenVINO turns into an int8 product (VNNI).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset15 as ops

from stenopool.models.weights import Tensor

Node = Any  # openvino.Node: its Python package has no usable types

_LARGEST = 127


@dataclass(frozen=True, slots=True)
class Quantised:
    """Rows divided by their largest value, and that value."""

    rows: Node
    scale: Node


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
