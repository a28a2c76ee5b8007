"""Whisper's text decoder as OpenVINO graphs: one that writes, token by token, and one that aligns.

Rows are hypotheses. Each window has as many, its *lanes*, which stand together and share its keys
and values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import openvino as ov
from openvino import opset15 as ops
from openvino.op.util import Variable, VariableInfo

from stenopool.engines.openvino.graph import Node, Parts, constant, index, indices, result, scalar
from stenopool.models.weights import HEAD_WIDTH

CANDIDATES = 16  # of the text tokens of a row
NEVER = -1e4  # added to a suppressed token's logit

Attend = Callable[[Node, Node, Node], Node]  # queries, keys, values

_TABLE = "model.decoder.embed_tokens"


def writer(parts: Parts, stored: ov.Type, end: int, suppressed: Sequence[int]) -> ov.Model:
    """The graph that writes the next token of each row.

    Its state holds the keys and values of the tokens so far, (rows, heads, tokens, 64) a layer.

    Args:
        stored: type of the window's keys and values.
        end: the end-of-text token; text tokens are those before it.
        suppressed: text tokens that are never written.

    Inputs: `tokens` and `positions` (rows, new) int32, `parents` (rows,) int32: the row of the last
    call that each row goes on from, `mask` (rows, 1, new, tokens) float32, added to the scores of
    self-attention, and each layer's `N.keys` and `N.values` as the encoder gives them.

    Outputs, for the last of the new tokens: `ids` (rows, candidates) int32 and `logits` of the most
    probable text tokens, `mass` (rows,): the logarithm of the sum of exp(logit) over all text
    tokens, and `specials` (rows, vocabulary - end): the logits from the end token on.
    """
    tokens = ops.parameter([-1, -1], ov.Type.i32, name="tokens")
    positions = ops.parameter([-1, -1], ov.Type.i32, name="positions")
    parents = ops.parameter([-1], ov.Type.i32, name="parents")
    mask = ops.parameter([-1, 1, -1, -1], ov.Type.f32, name="mask")
    layers = parts.shape.decoder_layers
    body = _Body(parts, tokens, positions, stored, layers)
    sinks: list[Node] = []
    for layer in range(layers):
        past = _Past(parts, layer, body.rows, parents)
        body.attend_to_text(layer, partial(past.attended, mask))
        sinks += past.sinks
        body.attend_to_audio(layer, _heard_by_few)
        body.feed_forward(layer)
    last = ops.slice(body.x, indices(-1), indices(2**31 - 1), indices(1), indices(1))
    outputs = _head(parts, ops.squeeze(last, indices(1)), end, suppressed)
    return ov.Model(outputs, sinks, [tokens, positions, parents, mask, *body.audio], "writer")


def aligner(parts: Parts, stored: ov.Type, heads: Sequence[tuple[int, int]]) -> ov.Model:
    """The graph that says to which positions of the audio each token of a text attends.

    Args:
        heads: (layer, head) of the cross-attentions that follow the audio.

    Inputs: `tokens` (windows, length) int32; `weights` (windows, 1, length, 1) float32: 1 for
    tokens, 0 for padding after them; `heard` (windows, 1, 1, positions) float32: 0 for positions
    with sound, a large negative number elsewhere; the keys and values of the layers up to the last
    that has such a head.

    Output: (windows, length, positions) float32, the mean of the heads' attention, each position
    normalised over the tokens.
    """
    tokens = ops.parameter([-1, -1], ov.Type.i32, name="tokens")
    weights = ops.parameter([-1, 1, -1, 1], ov.Type.f32, name="weights")
    heard = ops.parameter([-1, 1, 1, -1], ov.Type.f32, name="heard")
    length = ops.gather(ops.shape_of(tokens), index(1), index(0))
    positions = ops.range(index(0), length, index(1), ov.Type.i64)
    last = max(layer for layer, _ in heads)
    body = _Body(parts, tokens, positions, stored, last + 1)
    attentions: list[Node] = []
    for layer in range(last + 1):
        body.attend_to_text(
            layer, lambda q, k, v: ops.scaled_dot_product_attention(q, k, v, causal=True)
        )
        mine = [head for where, head in heads if where == layer]
        body.attend_to_audio(layer, partial(_noted, mine, heard, attentions))
        if layer < last:
            body.feed_forward(layer)
    stacked = ops.concat(attentions, 1)  # (windows, heads, length, positions)
    mean = ops.reduce_mean(_normalised(stacked, weights), indices(1), False)
    return ov.Model([ops.result(mean)], [tokens, weights, heard, *body.audio], "aligner")


def _heard_by_few(query: Node, keys: Node, values: Node) -> Node:
    """Attention of the few queries of each window, an `Attend`.

    Each query is a product of a matrix with one vector, for which OpenVINO reads the keys and
    values where they lie; with more columns it is twice as slow, and on the right-hand side it
    would pack them anew for each step. All but the first query of a window find what they read in
    the CPU's cache.
    """
    keys, values = (ops.unsqueeze(each, indices(2)) for each in (keys, values))
    scores = ops.matmul(keys, ops.unsqueeze(query, indices(4)), False, False)
    shares = ops.softmax(ops.squeeze(scores, indices(4)), -1)
    heard = ops.matmul(values, ops.unsqueeze(shares, indices(4)), False, False)
    return ops.squeeze(heard, indices(4))


def _noted(
    chosen: Sequence[int],
    heard: Node,
    attentions: list[Node],
    query: Node,
    keys: Node,
    values: Node,
) -> Node:
    """Attention of many tokens to their window, that of the chosen heads noted."""
    scores = ops.matmul(query, keys, False, True)  # (windows, heads, tokens, positions)
    if chosen:
        own = ops.gather(scores, indices(*chosen), index(1))
        attentions.append(ops.softmax(ops.add(own, heard), -1))
    return ops.matmul(ops.softmax(scores, -1), values, False, True)


def _normalised(attention: Node, weights: Node) -> Node:
    """Each position's attention less its mean over the tokens, in units of its deviation."""
    count = ops.reduce_sum(weights, indices(2), True)
    mean = ops.divide(ops.reduce_sum(ops.multiply(attention, weights), indices(2), True), count)
    apart = ops.subtract(attention, mean)
    squares = ops.multiply(ops.multiply(apart, apart), weights)
    variance = ops.divide(ops.reduce_sum(squares, indices(2), True), count)
    return ops.divide(apart, ops.sqrt(ops.add(variance, scalar(1e-12))))


class _Body:
    """The decoder's layers, applied one after the other to `x`, (rows, new, width)."""

    def __init__(
        self,
        parts: Parts,
        tokens: Node,
        positions: Node,
        stored: ov.Type,
        layers: int,
    ) -> None:
        self._parts = parts
        self.audio: list[Node] = []  # inputs: keys and values of each layer
        for layer in range(layers):
            sizes = [-1, parts.shape.heads, -1, HEAD_WIDTH]
            self.audio.append(ops.parameter(sizes, stored, name=f"{layer}.keys"))
            sizes[2:] = reversed(sizes[2:])
            self.audio.append(ops.parameter(sizes, stored, name=f"{layer}.values"))
        windows = ops.gather(ops.shape_of(self.audio[0]), indices(0), index(0))
        # Sizes are worked out once, not in each layer: small nodes take time too.
        self._by_window = ops.concat([windows, indices(-1, parts.shape.heads, HEAD_WIDTH)], 0)
        self._by_row = ops.concat([ops.shape_of(tokens), indices(parts.shape.width)], 0)
        self.rows = ops.gather(ops.shape_of(tokens), indices(0), index(0))
        places = constant(parts.tensor("model.decoder.embed_positions.weight"))
        self.x = ops.add(
            ops.gather(parts.table(_TABLE), tokens, index(0)),
            ops.gather(places, positions, index(0)),
        )

    def attend_to_text(self, layer: int, attend: Attend) -> None:
        """Self-attention; `attend` gets queries, keys and values, (rows, heads, new, 64)."""
        parts, name = self._parts, f"model.decoder.layers.{layer}.self_attn"
        y = parts.norm(self.x, f"{name}_layer_norm")
        query, key, value = (
            parts.heads(parts.few_linear(y, f"{name}.{kind}_proj")) for kind in "qkv"
        )
        seen = parts.joined_heads(attend(query, key, value))
        self.x = ops.add(self.x, parts.few_linear(seen, f"{name}.out_proj"))

    def attend_to_audio(self, layer: int, attend: Attend) -> None:
        """Cross-attention; `attend` gets queries, (windows, heads, lanes * new, 64)."""
        parts, name = self._parts, f"model.decoder.layers.{layer}.encoder_attn"
        query = parts.few_linear(parts.norm(self.x, f"{name}_layer_norm"), f"{name}.q_proj")
        query = ops.multiply(query, scalar(HEAD_WIDTH**-0.5))
        query = ops.transpose(ops.reshape(query, self._by_window, False), indices(0, 2, 1, 3))
        audio = self.audio[2 * layer : 2 * layer + 2]
        heard = attend(query, *(ops.convert(each, ov.Type.f32) for each in audio))
        heard = ops.reshape(ops.transpose(heard, indices(0, 2, 1, 3)), self._by_row, False)
        self.x = ops.add(self.x, parts.few_linear(heard, f"{name}.out_proj"))

    def feed_forward(self, layer: int) -> None:
        """The two layers after both attentions."""
        parts, name = self._parts, f"model.decoder.layers.{layer}"
        y = parts.few_linear(parts.norm(self.x, f"{name}.final_layer_norm"), f"{name}.fc1")
        self.x = ops.add(self.x, parts.few_linear(ops.gelu(y, "ERF"), f"{name}.fc2"))


class _Past:
    """One layer's keys and values so far, in the pattern that OpenVINO turns into a cache."""

    def __init__(self, parts: Parts, layer: int, rows: Node, parents: Node) -> None:
        self._heads, self._layer, self._rows, self._parents = (
            parts.shape.heads,
            layer,
            rows,
            parents,
        )
        self.sinks: list[Node] = []

    def attended(self, mask: Node, query: Node, key: Node, value: Node) -> Node:
        keys, values = self._with("keys", key), self._with("values", value)
        return ops.scaled_dot_product_attention(query, keys, values, mask)

    def _with(self, kind: str, new: Node) -> Node:
        info = VariableInfo()
        info.data_shape = ov.PartialShape([-1, self._heads, -1, HEAD_WIDTH])
        info.data_type = ov.Type.f32
        info.variable_id = f"{self._layer}.{kind}"
        variable = Variable(info)
        empty = ops.concat([self._rows, indices(self._heads, 0, HEAD_WIDTH)], 0)
        past = ops.read_value(ops.broadcast(scalar(0.0), empty), variable)
        past = ops.gather(past, self._parents, index(0))
        now = ops.concat([past, new], 2)
        self.sinks.append(ops.assign(now, variable))
        return now


def _head(parts: Parts, x: Node, end: int, suppressed: Sequence[int]) -> list[Node]:
    """The outputs of `writer` from the last layer, (rows, width)."""
    x = parts.norm(x, "model.decoder.layer_norm")
    weight = parts.tensor(f"{_TABLE}.weight")
    bias = np.zeros(end, dtype=np.float32)
    bias[[token for token in suppressed if token < end]] = NEVER
    text = ops.add(parts.few_product(x, weight[:end]), constant(bias))
    specials = parts.few_product(x, weight[end:])
    top = ops.topk(text, index(CANDIDATES), -1, "max", "value", "i32")
    ids, rough = top.output(1), top.output(0)
    highest = ops.slice(rough, indices(0), indices(1), indices(1), indices(1))
    logits = _scored_again(parts, x, ids)
    summed, replaced, better = (_exp_sum(each, highest) for each in (text, rough, logits))
    # Else a token's better logit over the rough sum could be a probability above 1.
    rest = ops.maximum(ops.subtract(summed, replaced), scalar(0.0))
    mass = ops.add(ops.log(ops.add(rest, better)), ops.squeeze(highest, indices(1)))
    outputs = {"ids": ids, "logits": logits, "mass": mass, "specials": specials}
    return [result(name, node) for name, node in outputs.items()]


def _exp_sum(logits: Node, highest: Node) -> Node:
    """The sum of each row's exp(logit - highest), (rows,)."""
    return ops.reduce_sum(ops.exp(ops.subtract(logits, highest)), indices(1), False)


def _scored_again(parts: Parts, x: Node, ids: Node) -> Node:
    """The logits of some tokens in float32: bfloat16 has steps of 0.1 where they are largest."""
    rows = ops.gather(parts.table(_TABLE), ids, index(0))  # (rows, candidates, width)
    products = ops.multiply(rows, ops.unsqueeze(ops.convert(x, ov.Type.f32), indices(1)))
    return ops.reduce_sum(products, indices(2), False)
