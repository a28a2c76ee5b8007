"""Whisper's audio encoder as an OpenVINO graph (Radford et al. 2022, section 2.2).

What leaves it is not the encoder's last layer but what the decoder makes of it: the keys and values
of every cross-attention, laid out for `decoder.py`, so that they are computed once a window.
"""

from __future__ import annotations

import openvino as ov
from openvino import opset15 as ops

from stenopool.audio.features import WINDOW_FRAMES
from stenopool.engines.openvino.graph import Node, Parts, constant, indices, result


def encoder(parts: Parts, frames: int = WINDOW_FRAMES) -> ov.Model:
    """The graph of a model's encoder.

    Args:
        frames: of a window, two for each position that leaves it.

    Input: `features` (windows, mel bins, frames) float32. One window at a time is as fast as
    several; but were their number fixed, OpenVINO would fuse other parts and be slower by a fifth.

    Outputs: for each decoder layer `N.keys` (windows, heads, positions, 64) and `N.values`
    (windows, heads, 64, positions) float32.
    """
    sizes = [-1, parts.shape.mel_bins, frames]
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
        results += [result(f"{layer}.keys", keys), result(f"{layer}.values", values)]
    return ov.Model(results, [features], "encoder")


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
