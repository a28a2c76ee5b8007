"""Puts an ONNX graph together node by node, with the parts that Whisper's graphs are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from stenopool.errors import EngineMissing
from stenopool.files import fill_whole, write_whole
from stenopool.models.weights import HEAD_WIDTH, Tensor, WhisperWeights

OPSET = 17  # the first with LayerNormalization
INT64, FLOAT = "INT64", "FLOAT"
MOST_BYTES_WITHIN = 1_800_000_000  # protobuf's limit is 2 GiB; larger models have a second file

_IR = 8
_EPSILON = 1e-5
_ZERO = 128  # of weights in 8 bits, which have no sign: these are exact on every processor
_LARGEST = 127
_LARGE_BYTES = 4096
_NORM = ("weight", "bias")

Branch = Callable[[], Sequence[str]]


class Products(Enum):
    """How rows are multiplied with weights."""

    FLOATING = "all is float32"
    INTEGER = "weights of 8 bits, and rows are quantised when they come, each by its own scale"
    UNPACKED = "weights of 8 bits, which the runtime multiplies as it likes"


class Graph:
    """A graph that grows. Values are known by their names."""

    def __init__(self, name: str, weights: WhisperWeights, products: Products) -> None:
        self._onnx = onnx_package()
        self._name, self._weights, self._products = name, weights, products
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._nodes: list[Any] = []
        self._constants: dict[str, Tensor] = {}
        self._count = 0

    def input(self, name: str, kind: str, sizes: Sequence[int | str]) -> str:
        """An input of the graph."""
        self._inputs.append(self._value(name, kind, sizes))
        return name

    def output(self, value: str, name: str, sizes: Sequence[int | str]) -> None:
        """Give a value out, in float32."""
        self._nodes.append(self._onnx.helper.make_node("Identity", [value], [name]))
        self._outputs.append(self._value(name, FLOAT, sizes))

    def _value(self, name: str, kind: str, sizes: Sequence[int | str] | None) -> Any:  # noqa: ANN401
        number = getattr(self._onnx.TensorProto, kind)
        return self._onnx.helper.make_tensor_value_info(name, number, sizes)

    def add(self, operation: str, *values: str, outputs: int = 1, **attributes: object) -> str:
        """A node, and the name of what it gives; of several, with `:0`, `:1`, … after it."""
        self._count += 1
        name = f"{operation}_{self._count}"
        names = [name] if outputs == 1 else [f"{name}:{place}" for place in range(outputs)]
        node = self._onnx.helper.make_node(operation, list(values), names, name, **attributes)
        self._nodes.append(node)
        return name

    def choice(self, condition: str, yes: Branch, no: Branch) -> list[str]:
        """The values of one of two branches, float32."""
        made = []
        for side, values in (("yes", yes), ("no", no)):
            with self._aside() as nodes:
                outs = [self._value(self.add("Identity", value), FLOAT, None) for value in values()]
            made.append(self._onnx.helper.make_graph(nodes, f"{self._name}_{side}", [], outs))
        count = len(made[0].output)
        name = self.add("If", condition, outputs=count, then_branch=made[0], else_branch=made[1])
        return [f"{name}:{place}" for place in range(count)]

    @contextmanager
    def _aside(self) -> Iterator[list[Any]]:
        """Nodes of a branch; constants belong to the whole graph."""
        before, self._nodes = self._nodes, []
        try:
            yield self._nodes
        finally:
            self._nodes = before

    def constant(self, values: object, name: str = "") -> str:
        """Numbers that the graph holds."""
        self._count += not name
        name = name or f"constant_{self._count}"
        self._constants.setdefault(name, np.ascontiguousarray(values))
        return name

    def whole(self, *numbers: int) -> str:
        """Sizes, axes or an order of axes."""
        return self.constant(np.array(numbers, np.int64), "axes_" + "_".join(map(str, numbers)))

    def number(self, value: int) -> str:
        """A whole number without dimensions."""
        return self.constant(np.array(value, np.int64), f"number_{value}")

    def scalar(self, value: float) -> str:
        """float32 without dimensions."""
        return self.constant(np.array(value, np.float32), f"scalar_{value}")

    def tensor(self, name: str) -> Tensor:
        """Weights by their name in Transformers, float32."""
        return np.asarray(self._weights.tensors[name], np.float32)

    def linear(self, x: str, name: str, factor: float = 1.0) -> str:
        """A linear layer; of all that it gives, a multiple by a power of two."""
        product = self.product(x, f"{name}.weight", factor)
        if f"{name}.bias" not in self._weights.tensors:
            return product
        bias = self.constant(self.tensor(f"{name}.bias") * np.float32(factor), f"{name}.bias")
        return self.add("Add", product, bias)

    def product(self, x: str, name: str, factor: float = 1.0) -> str:
        """The product of rows with weights, (out, in), and a power of two."""
        matrix = self.tensor(name).T
        if self._products is Products.FLOATING:
            return self.add("MatMul", x, self.constant(matrix * np.float32(factor), name))
        packed, scale = self._packed(matrix, name, factor)
        zero = self.constant(np.array(_ZERO, np.uint8), "zero")
        if self._products is Products.UNPACKED:
            zeros = self.constant(np.full(matrix.shape[1], _ZERO, np.uint8))
            weight = self.add("DequantizeLinear", packed, scale, zeros, axis=1)
            return self.add("MatMul", x, weight)
        # ONNX's own operation has one scale for all rows, by the loudest of a window.
        kinds = self._onnx.TensorProto
        most = self.add("ReduceMax", self.add("Abs", x), axes=[-1], keepdims=1)
        step = self.add("Div", self.add("Max", most, self.scalar(1e-12)), self.scalar(_LARGEST))
        near = self.add("Round", self.add("Div", x, step))
        rows = self.add("Cast", self.add("Add", near, self.scalar(_ZERO)), to=kinds.UINT8)
        whole = self.add("MatMulInteger", rows, packed, zero, zero)
        # Not times the product of both scales: ONNX Runtime would take that for one of all rows.
        product = self.add("Mul", self.add("Cast", whole, to=kinds.FLOAT), scale)
        return self.add("Mul", product, step)

    def _packed(self, matrix: Tensor, name: str, factor: float = 1.0) -> tuple[str, str]:
        """(in, out) in 8 bits with a scale for each column."""
        largest = np.maximum(np.abs(matrix).max(axis=0), 1e-12)
        whole = np.rint(matrix / largest * _LARGEST) + _ZERO
        scale = (largest * (factor / _LARGEST)).astype(np.float32)
        return self.constant(whole.astype(np.uint8), name), self.constant(scale, f"{name}_scale")

    def rows(self, name: str, numbers: str) -> str:
        """Rows of a table by their numbers, (batch, sequence) → (batch, sequence, width)."""
        table = self.tensor(name)
        if self._products is Products.FLOATING:
            # The product takes the same table on its side, so that it is there but once.
            chosen = self.add("Gather", self.constant(table.T, name), numbers, axis=1)
            return self.add("Transpose", chosen, perm=[1, 2, 0])
        packed, scale = self._packed(table.T, name)
        chosen = self.add("Gather", packed, numbers, axis=1)
        zero = self.constant(np.array(_ZERO, np.float32), "floating_zero")
        whole = self.add("Cast", chosen, to=self._onnx.TensorProto.FLOAT)
        turned = self.add("Transpose", self.add("Sub", whole, zero), perm=[1, 2, 0])
        scales = self.add("Unsqueeze", self.add("Gather", scale, numbers), self.whole(-1))
        return self.add("Mul", turned, scales)

    def norm(self, x: str, name: str) -> str:
        """Layer normalisation."""
        parts = (self.constant(self.tensor(f"{name}.{kind}"), f"{name}.{kind}") for kind in _NORM)
        return self.add("LayerNormalization", x, *parts, axis=-1, epsilon=_EPSILON)

    def gelu(self, x: str) -> str:
        """The activation, in the pattern that ONNX Runtime knows as one operation."""
        bent = self.add("Erf", self.add("Div", x, self.scalar(2.0**0.5)))
        doubled = self.add("Mul", x, self.add("Add", bent, self.scalar(1.0)))
        return self.add("Mul", doubled, self.scalar(0.5))

    def heads(self, x: str) -> str:
        """(batch, sequence, width) → (batch, heads, sequence, 64)."""
        parted = self.add("Reshape", x, self.whole(0, 0, self._weights.shape.heads, HEAD_WIDTH))
        return self.add("Transpose", parted, perm=[0, 2, 1, 3])

    def attention(self, query: str, key: str, value: str, mask: str | None = None) -> str:
        """Of queries that are scaled already; (batch, sequence, width)."""
        scores = self.add("MatMul", query, self.add("Transpose", key, perm=[0, 1, 3, 2]))
        if mask:
            scores = self.add("Add", scores, mask)
        found = self.add("MatMul", self.add("Softmax", scores, axis=-1), value)
        turned = self.add("Transpose", found, perm=[0, 2, 1, 3])
        return self.add("Reshape", turned, self.whole(0, 0, self._weights.shape.width))

    def save(self, file: Path) -> bool:
        """Write the graph; True where the numbers are in a second file, `<name>_data`.

        Raises:
            OutputError: it cannot be written.
        """
        apart = sum(one.nbytes for one in self._constants.values()) > MOST_BYTES_WITHIN
        model = self._model(f"{file.name}_data" if apart else None)
        if apart:
            fill_whole(
                file.with_name(f"{file.name}_data"),
                lambda target: [target.write(one.data) for one in self._large()],
            )
        write_whole(file, model.SerializeToString(deterministic=True))
        return apart

    def _large(self) -> list[Tensor]:
        """What may lie in a second file: small numbers tell the runtime sizes, so it wants them."""
        return [one for one in self._constants.values() if one.nbytes >= _LARGE_BYTES]

    def _model(self, data: str | None) -> Any:  # noqa: ANN401
        helper, made, at = self._onnx.helper, [], 0
        for name, values in self._constants.items():
            tensor = self._onnx.TensorProto(name=name, dims=values.shape)
            tensor.data_type = helper.np_dtype_to_tensor_dtype(values.dtype)
            if data is None or values.nbytes < _LARGE_BYTES:
                tensor.raw_data = values.tobytes()
            else:
                tensor.data_location = self._onnx.TensorProto.EXTERNAL
                said = {"location": data, "offset": str(at), "length": str(values.nbytes)}
                for key, value in said.items():
                    tensor.external_data.add(key=key, value=value)
                at += values.nbytes
            made.append(tensor)
        graph = helper.make_graph(self._nodes, self._name, self._inputs, self._outputs, made)
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR)
        model.producer_name = "stenopool"
        return model


def onnx_package() -> Any:  # noqa: ANN401  a module
    """The package `onnx`.

    Raises:
        EngineMissing: it is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise EngineMissing(
            "writing ONNX needs the package `onnx`", do="Run `pip install 'stenopool[export]'`"
        ) from error
    return onnx
