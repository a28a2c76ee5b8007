"""Whisper's audio encoder as an OpenVINO graph (Radford et al. 2022, section 2.2).

What leaves it is not the encoder's last layer but what the decoder makes of it: the keys and values
of every cross-attention, laid out for `decoder.py`, so that they are computed once a window.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset15 as ops

from stenopool.audio.features import WINDOW_FRAMES, Features
from stenopool.engines.openvino.graph import Node, Parts, constant, indices, result
from stenopool.engines.openvino.inference import infer


def encoder(parts: Parts, stored: ov.Type, frames: int = WINDOW_FRAMES) -> ov.Model:
    """The graph of a model's encoder.

    Args:
        stored: type of what leaves it, float32 or bfloat16.
        frames: of a window, two for each position that leaves it.

    Input: `features` (1, mel bins, frames) float32; several windows at a time are not faster. In
    int8 their number is left open: else OpenVINO fuses other parts, and on CPUs without AMX it is
    slower by a fifth. In bfloat16 it is faster by an eighth when it knows the number.

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


class Encoder:
    """Runs the graph. One thread at a time may use it."""

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
        """The outputs for one window, (mel bins, frames); they are valid until the next run."""
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
