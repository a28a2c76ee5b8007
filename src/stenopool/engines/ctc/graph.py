"""wav2vec 2.0 with a CTC head as an OpenVINO graph (Baevski et al. 2020), made of its weights.

A batch holds stretches of different lengths, padded with zeros, and every one of them must come out
as if it were alone. What sees beyond a frame is therefore told what is sound and what is padding:
the convolution that tells positions, and attention; for the normalisation over time of the first
convolution see `levels`. (Transformers does so for models with `feat_extract_norm` of `layer`; for
those of `group`, its result depends on the padding.)
"""

from __future__ import annotations

import numpy as np
import openvino as ov
from openvino import opset15 as ops

from stenopool.engines.ctc.parts import (
    Node,
    Quantised,
    constant,
    index,
    indices,
    product,
    quantised,
    result,
    scalar,
)
from stenopool.models.wav2vec2 import Wav2Vec2Weights

UNHEARD = -1e9  # added to the attention that padding gets
EPSILON = 1e-5  # of the feature encoder's normalisations, whatever the configuration says


def acoustic(weights: Wav2Vec2Weights, *, int8: bool) -> ov.Model:
    """The graph of a model.

    Inputs, all float32: `samples` (stretches, samples); `heard` (stretches, frames, 1) is 1 for
    sound and 0 for padding; with `feat_extract_norm` of `group` also `scale` and `shift`
    (stretches, channels, 1), see `levels`.

    Output: `logits` (stretches, frames, symbols) float32.
    """
    return _Graph(weights, int8=int8).built()


class _Graph:
    """Builds the graph of one model."""

    def __init__(self, weights: Wav2Vec2Weights, *, int8: bool) -> None:
        self._shape = weights.shape
        self._tensors = weights.tensors
        self._int8 = int8

    def built(self) -> ov.Model:
        shape = self._shape
        samples = ops.parameter([-1, -1], ov.Type.f32, name="samples")
        channels = shape.channels[0]
        scale, shift = (
            ops.parameter([-1, channels, 1], ov.Type.f32, name=name) for name in ("scale", "shift")
        )
        heard = ops.parameter([-1, -1, 1], ov.Type.f32, name="heard")
        x = ops.unsqueeze(samples, index(1))  # (stretches, 1, samples)
        for layer in range(len(shape.channels)):
            x = self._convolution(x, layer)
            if layer == 0 and not shape.layer_norm:
                x = ops.add(ops.multiply(x, scale), shift)
            x = _activated(x, shape.conv_activation)
        x = ops.transpose(x, indices(0, 2, 1))  # (stretches, frames, channels)
        projection = "wav2vec2.feature_projection"
        x = self._linear(self._norm(x, f"{projection}.layer_norm"), f"{projection}.projection")
        x = ops.multiply(x, heard)
        x = ops.add(x, self._positions(x))
        x = self._layers(x, ops.multiply(ops.subtract(heard, scalar(1.0)), scalar(-UNHEARD)))
        logits = self._linear(x, "lm_head")
        levels = [] if shape.layer_norm else [scale, shift]
        return ov.Model([result("logits", logits)], [samples, heard, *levels], "acoustic")

    def _convolution(self, x: Node, layer: int) -> Node:
        """(stretches, channels, frames) → (stretches, channels, fewer frames)."""
        name = f"wav2vec2.feature_extractor.conv_layers.{layer}"
        kernel = constant(self._tensors[f"{name}.conv.weight"])
        x = ops.convolution(x, kernel, [self._shape.strides[layer]], [0], [0], [1])
        if self._shape.conv_bias and (layer or self._shape.layer_norm):  # else taken away again
            x = ops.add(x, self._along_time(f"{name}.conv.bias"))
        if not self._shape.layer_norm:
            return x
        turned = ops.transpose(x, indices(0, 2, 1))
        return ops.transpose(
            self._norm(turned, f"{name}.layer_norm", epsilon=EPSILON), indices(0, 2, 1)
        )

    def _along_time(self, name: str) -> Node:
        return constant(np.asarray(self._tensors[name])[None, :, None])

    def _positions(self, x: Node) -> Node:
        """What the neighbours of each frame tell of its position."""
        name, shape = "wav2vec2.encoder.pos_conv_embed.conv", self._shape
        direction = np.asarray(self._tensors[f"{name}.weight_v"], dtype=np.float32)
        length = np.asarray(self._tensors[f"{name}.weight_g"], dtype=np.float32)
        norm = np.sqrt(np.square(direction).sum(axis=(0, 1), keepdims=True))
        kernel = direction * (length / np.maximum(norm, 1e-12))
        groups = kernel.reshape(shape.position_groups, -1, *kernel.shape[1:])
        before = shape.position_kernel // 2
        after = shape.position_kernel - 1 - before
        turned = ops.transpose(x, indices(0, 2, 1))
        found = ops.group_convolution(turned, constant(groups), [1], [before], [after], [1])
        found = ops.add(found, self._along_time(f"{name}.bias"))
        return ops.transpose(_activated(found, shape.conv_activation), indices(0, 2, 1))

    def _layers(self, x: Node, unheard: Node) -> Node:
        mask = ops.unsqueeze(ops.transpose(unheard, indices(0, 2, 1)), index(1))
        if not self._shape.stable:
            x = self._norm(x, "wav2vec2.encoder.layer_norm")
        for layer in range(self._shape.layers):
            x = self._layer(x, mask, f"wav2vec2.encoder.layers.{layer}")
        return self._norm(x, "wav2vec2.encoder.layer_norm") if self._shape.stable else x

    def _layer(self, x: Node, mask: Node, name: str) -> Node:
        """Attention and feed-forward, each normalised before (`stable`) or after it is added."""
        if self._shape.stable:
            x = ops.add(x, self._attention(self._norm(x, f"{name}.layer_norm"), mask, name))
            return ops.add(x, self._forward(self._norm(x, f"{name}.final_layer_norm"), name))
        x = self._norm(ops.add(x, self._attention(x, mask, name)), f"{name}.layer_norm")
        return self._norm(ops.add(x, self._forward(x, name)), f"{name}.final_layer_norm")

    def _attention(self, x: Node, mask: Node, name: str) -> Node:
        rows = self._rows(x)
        query, key, value = (
            self._heads(self._linear(rows, f"{name}.attention.{kind}_proj")) for kind in "qkv"
        )
        found = ops.scaled_dot_product_attention(query, key, value, mask)
        joined = ops.reshape(
            ops.transpose(found, indices(0, 2, 1, 3)), indices(0, 0, self._shape.width), True
        )
        return self._linear(self._rows(joined), f"{name}.attention.out_proj")

    def _heads(self, x: Node) -> Node:
        """(stretches, frames, width) → (stretches, heads, frames, width / heads)."""
        width = self._shape.width // self._shape.heads
        parted = ops.reshape(x, indices(0, 0, self._shape.heads, width), True)
        return ops.transpose(parted, indices(0, 2, 1, 3))

    def _forward(self, x: Node, name: str) -> Node:
        inner = self._linear(self._rows(x), f"{name}.feed_forward.intermediate_dense")
        inner = _activated(inner, self._shape.activation)
        return self._linear(self._rows(inner), f"{name}.feed_forward.output_dense")

    def _rows(self, x: Node) -> Node | Quantised:
        return quantised(x) if self._int8 else x

    def _linear(self, x: Node | Quantised, name: str) -> Node:
        found = product(x, self._tensors[f"{name}.weight"])
        return ops.add(found, constant(self._tensors[f"{name}.bias"]))

    def _norm(self, x: Node, name: str, *, epsilon: float | None = None) -> Node:
        """Layer normalisation."""
        within = self._shape.epsilon if epsilon is None else epsilon
        spread = ops.mvn(x, indices(-1), True, within, "INSIDE_SQRT")
        scaled = ops.multiply(spread, constant(self._tensors[f"{name}.weight"]))
        return ops.add(scaled, constant(self._tensors[f"{name}.bias"]))


def _activated(x: Node, kind: str) -> Node:
    return ops.relu(x) if kind == "relu" else ops.gelu(x, "ERF")
