"""Whisper's audio encoder (Radford et al. 2022, section 2.2) as an OpenVINO graph.

CPUs with AMX have a faster one, `tiled_encoder.py`.

What leaves it is not the encoder's last layer but what the decoder makes of it: the keys and values
of every cross-attention, laid out for `decoder.py`, so that they are computed once a window.
"""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset15 as ops

from stenopool.audio.features import FRAMES_PER_SECOND, WINDOW_FRAMES, Features
from stenopool.engines.openvino.cache import Compiled
from stenopool.engines.openvino.graph import Node, Parts, constant, indices, result
from stenopool.engines.openvino.inference import failures, infer
from stenopool.engines.openvino.library import Team
from stenopool.engines.openvino.processor import FLOAT32, INT8, flags, has_bfloat16, has_vnni
from stenopool.models.weights import WhisperWeights, read_weights

SHORT_FRAMES = 10 * FRAMES_PER_SECOND  # a third of a window
KEPT_SHAPES = 100  # instead of 5,000: OpenVINO keeps a megabyte for each; it is not slower


class Encoder(Protocol):
    """Runs an encoder. One thread at a time may use it."""

    def run(self, window: Features) -> list[NDArray[Any]]:
        """The outputs for one window, (mel bins, frames); they are valid until the next run."""
        ...


class Encoders(Protocol):
    """A model's encoder, for several groups of cores."""

    def one(self, team: Team) -> Encoder: ...
    def prepare(self, frames: int) -> None:
        """Let windows of so many frames be encoded. The first time it may take a second."""
        ...


def encoder(parts: Parts, stored: ov.Type, frames: int = WINDOW_FRAMES) -> ov.Model:
    """The graph of a model's encoder.

    Args:
        stored: type of what leaves it, float32 or bfloat16.
        frames: of a window, two for each position that leaves it.

    Input: `features` (1, mel bins, frames) float32; several windows at a time are not faster. In
    int8 their number is left open: else OpenVINO fuses other parts, and it is slower by a fifth. In
    bfloat16 it is faster by an eighth when it knows the number.

    Outputs: for each decoder layer `N.keys` (windows, heads, positions, 64) and `N.values`
    (windows, heads, 64, positions).
    """
    sizes = [-1 if parts.int8 else 1, parts.shape.mel_bins, frames]
    features = ops.parameter(sizes, ov.Type.f32, name="features")
    x = _convolution(parts, features, "model.encoder.conv1", stride=1)
    x = _convolution(parts, x, "model.encoder.conv2", stride=2)
    places = constant(parts.tensor("model.encoder.embed_positions.weight")[: frames // 2])
    x = ops.add(ops.transpose(x, indices(0, 2, 1)), places)
    for layer in range(parts.shape.encoder_layers):
        x = _layer(parts, x, f"model.encoder.layers.{layer}")
    heard = parts.quantised(parts.norm(x, "model.encoder.layer_norm"))
    results = []
    for layer in range(parts.shape.decoder_layers):
        name = f"model.decoder.layers.{layer}.encoder_attn"
        keys = parts.heads(parts.linear(heard, f"{name}.k_proj"))
        values = parts.turned_heads(parts.linear(heard, f"{name}.v_proj"))
        results += [
            result(f"{layer}.keys", ops.convert(keys, stored)),
            result(f"{layer}.values", ops.convert(values, stored)),
        ]
    return ov.Model(results, [features], "encoder")


class GraphEncoders:
    """The compiled graphs: of whole windows, and of short ones when they are needed.

    Args:
        folder: of the model.
        precision: see `processor.precision`.
        threads: cores to use, in so many groups.

    Raises:
        EngineFailed: OpenVINO cannot build the graph.
    """

    def __init__(
        self, folder: Path, weights: WhisperWeights, precision: str, threads: int, groups: int
    ) -> None:
        bfloat16 = precision != FLOAT32 and has_bfloat16()
        self._stored = ov.Type.bf16 if bfloat16 else ov.Type.f32
        # Where there is AMX, bfloat16 is as fast, and closer.
        self._int8 = precision == INT8 and has_vnni() and "amx_bf16" not in flags()
        options: dict[str, str | int] = {
            "NUM_STREAMS": groups,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
            "CPU_RUNTIME_CACHE_CAPACITY": KEPT_SHAPES,
        }
        self._folder, self._lock = folder, Lock()
        self._short: ov.CompiledModel | None = None
        with failures():
            self._compiled = Compiled(folder / "model.bin", options, precision)
            self.whole = self._compiled.graph(
                "encoder", lambda: encoder(Parts(weights, int8=self._int8), self._stored)
            )

    def one(self, team: Team) -> GraphEncoder:
        """OpenVINO has threads of its own."""
        return GraphEncoder(self)

    def prepare(self, frames: int) -> None:
        if frames < WINDOW_FRAMES:
            self.short()

    def short(self) -> ov.CompiledModel:
        """The graph of short windows. Most processes never need it."""

        def build() -> ov.Model:
            parts = Parts(read_weights(self._folder), int8=self._int8)
            return encoder(parts, self._stored, SHORT_FRAMES)

        with self._lock, failures():
            if self._short is None:
                self._short = self._compiled.graph("short", build)
            return self._short


class GraphEncoder:
    """Runs the graphs. One thread at a time may use it."""

    def __init__(self, graphs: GraphEncoders) -> None:
        self._graphs = graphs
        self._whole = _Request(graphs.whole, WINDOW_FRAMES)
        self._short: _Request | None = None

    def run(self, window: Features) -> list[NDArray[Any]]:
        if window.shape[1] == WINDOW_FRAMES:
            return self._whole.run(window)
        self._short = self._short or _Request(self._graphs.short(), SHORT_FRAMES)
        return self._short.run(window)


class _Request:
    """Runs one graph."""

    def __init__(self, model: ov.CompiledModel, frames: int) -> None:
        self._request = model.create_infer_request()
        # Kept: fresh memory for each window takes a tenth of the time.
        self._audio: list[NDArray[Any]] = []
        for output in model.outputs:
            heads, rows, columns = (
                frames // 2 if size.is_dynamic else size.get_length()
                for size in list(output.partial_shape)[1:]
            )
            # NumPy has no bfloat16: its bits as numbers.
            kind = np.float32 if output.element_type == ov.Type.f32 else np.uint16
            audio = np.empty((1, heads, rows, columns), kind)
            tensor = ov.Tensor(audio, ov.Shape(audio.shape), output.element_type)
            self._request.set_tensor(output, tensor)
            self._audio.append(audio)

    def run(self, window: Features) -> list[NDArray[Any]]:
        infer(self._request, {"features": window[None]})
        return [one[0] for one in self._audio]


def _convolution(parts: Parts, x: Node, name: str, *, stride: int) -> Node:
    """(windows, channels, frames) → (windows, width, frames / stride)."""
    kernel, bias = constant(parts.tensor(f"{name}.weight")), parts.tensor(f"{name}.bias")
    summed = ops.convolution(x, kernel, [stride], [1], [1], [1])
    return ops.gelu(ops.add(summed, constant(bias[None, :, None])), "ERF")


def _layer(parts: Parts, x: Node, name: str) -> Node:
    """Self-attention and feed-forward, each on the normalised input and added to it."""
    y = parts.quantised(parts.norm(x, f"{name}.self_attn_layer_norm"))
    query, key, value = (
        parts.heads(parts.linear(y, f"{name}.self_attn.{kind}_proj")) for kind in "qkv"
    )
    heard = parts.joined_heads(ops.scaled_dot_product_attention(query, key, value))
    x = ops.add(x, parts.linear(parts.quantised(heard), f"{name}.self_attn.out_proj"))
    y = parts.quantised(parts.norm(x, f"{name}.final_layer_norm"))
    y = parts.quantised(ops.gelu(parts.linear(y, f"{name}.fc1"), "ERF"))
    return ops.add(x, parts.linear(y, f"{name}.fc2"))
