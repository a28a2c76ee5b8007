"""The folder that Transformers.js reads: graphs in `onnx/`, and Transformers' files.

`decoder_model_merged` serves the first call and all others: `use_cache_branch` says whether the
keys and values of the audio are there already. With an empty past the rest is the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stenopool.audio.features import WINDOW_FRAMES
from stenopool.files import make_folder, write_whole
from stenopool.models.formats.model import FLOAT32, Whisper
from stenopool.models.formats.onnx_graph import FLOAT, INT64, Graph, Products
from stenopool.models.formats.transformers import write_documents
from stenopool.models.weights import AUDIO_POSITIONS, HEAD_WIDTH, WhisperWeights

INT8, ALL = "int8", "all"
PRECISIONS = (ALL, FLOAT32, INT8)
_FILES = {FLOAT32: ("", Products.FLOATING), INT8: ("_quantized", Products.INTEGER)}
_NEVER = -1e9  # added to the score of what comes later
_SCALE = HEAD_WIDTH**-0.5  # a power of two
_TABLE = "model.decoder.embed_tokens.weight"


def write_onnx(whisper: Whisper, folder: Path, precision: str = ALL) -> None:
    """Write a folder that `@huggingface/transformers` reads.

    Args:
        folder: is there already.
        precision: of `PRECISIONS`; `int8` is what Transformers.js calls `q8`.

    Raises:
        EngineMissing: the package `onnx` is not installed.
        ModelDamaged: the tokenizer is not that of a Whisper model.
        OutputError: the folder cannot be written to.
    """
    graphs = make_folder(folder / "onnx")
    apart = {}
    for kind in _FILES if precision == ALL else (precision,):
        suffix, products = _FILES[kind]
        for name, graph in (
            ("encoder_model", encoder(whisper.weights, products)),
            ("decoder_model_merged", decoder(whisper.weights, products, merged=True)),
        ):
            file = f"{name}{suffix}.onnx"
            apart[file] = graph.save(graphs / file)
    write_documents(whisper, folder)
    if any(apart.values()):
        _say_what_is_apart(folder / "config.json", [file for file in apart if apart[file]])


def _say_what_is_apart(config: Path, files: Sequence[str]) -> None:
    said = json.loads(config.read_text(encoding="utf-8"))
    said["transformers.js_config"] = {"use_external_data_format": dict.fromkeys(files, 1)}
    write_whole(config, json.dumps(said, indent=2) + "\n")


def encoder(weights: WhisperWeights, products: Products) -> Graph:
    """`input_features` (batch, mel bins, 3000) → `last_hidden_state` (batch, 1500, width)."""
    graph, shape = Graph("encoder", weights, products), weights.shape
    x = graph.input("input_features", FLOAT, ["batch_size", shape.mel_bins, WINDOW_FRAMES])
    for name, stride in (("model.encoder.conv1", 1), ("model.encoder.conv2", 2)):
        kernel, bias = (graph.constant(graph.tensor(f"{name}.{k}")) for k in ("weight", "bias"))
        x = graph.gelu(graph.add("Conv", x, kernel, bias, pads=[1, 1], strides=[stride]))
    places = graph.constant(graph.tensor("model.encoder.embed_positions.weight"))
    x = graph.add("Add", graph.add("Transpose", x, perm=[0, 2, 1]), places)
    for layer in range(shape.encoder_layers):
        name = f"model.encoder.layers.{layer}"
        y = graph.norm(x, f"{name}.self_attn_layer_norm")
        seen = graph.attention(*_heads(graph, y, y, f"{name}.self_attn"))
        x = graph.add("Add", x, graph.linear(seen, f"{name}.self_attn.out_proj"))
        x = _feed_forward(graph, x, name)
    sizes: list[int | str] = ["batch_size", AUDIO_POSITIONS, shape.width]
    graph.output(graph.norm(x, "model.encoder.layer_norm"), "last_hidden_state", sizes)
    return graph


def decoder(weights: WhisperWeights, products: Products, *, merged: bool) -> Graph:
    """The decoder. Its past comes in (`past_key_values.N.decoder.key`) and goes out (`present.…`).

    Args:
        merged: keys and values of the audio come in too, and `use_cache_branch` says whether they
            do; otherwise they are computed each time.

    `input_ids` (batch, tokens) and `encoder_hidden_states` (batch, positions, width) →
    `logits` (batch, tokens, vocabulary).
    """
    graph, shape = Graph("decoder", weights, products), weights.shape
    tokens = graph.input("input_ids", INT64, ["batch_size", "decoder_sequence_length"])
    sizes: list[int | str] = ["batch_size", "encoder_sequence_length", shape.width]
    heard = graph.input("encoder_hidden_states", FLOAT, sizes)
    past = [_past(graph, weights, layer, "decoder") for layer in range(shape.decoder_layers)]
    audio = _audio(graph, weights, heard, merged=merged)
    places, mask = _places(graph, tokens, past[0][0])
    table = graph.constant(graph.tensor("model.decoder.embed_positions.weight"))
    x = graph.add("Add", graph.rows(_TABLE, tokens), graph.add("Gather", table, places))
    for layer, (keys, values) in enumerate(past):
        name = f"model.decoder.layers.{layer}"
        y = graph.norm(x, f"{name}.self_attn_layer_norm")
        query, key, value = _heads(graph, y, y, f"{name}.self_attn")
        key = graph.add("Concat", keys, key, axis=2)
        value = graph.add("Concat", values, value, axis=2)
        _present(graph, weights, layer, "decoder", (key, value))
        seen = graph.attention(query, key, value, mask)
        x = graph.add("Add", x, graph.linear(seen, f"{name}.self_attn.out_proj"))
        _present(graph, weights, layer, "encoder", audio[layer])
        x = graph.add("Add", x, _listened(graph, x, f"{name}.encoder_attn", audio[layer]))
        x = _feed_forward(graph, x, name)
    logits = graph.product(graph.norm(x, "model.decoder.layer_norm"), _TABLE)
    sizes = ["batch_size", "decoder_sequence_length", shape.vocabulary]
    graph.output(logits, "logits", sizes)
    return graph


def _heads(graph: Graph, x: str, heard: str, name: str) -> tuple[str, str, str]:
    """Queries of the one, and keys and values of the other."""
    query = graph.heads(graph.linear(x, f"{name}.q_proj", _SCALE))
    return (query, *_keys_and_values(graph, heard, name))


def _keys_and_values(graph: Graph, heard: str, name: str) -> tuple[str, str]:
    key, value = (graph.heads(graph.linear(heard, f"{name}.{kind}_proj")) for kind in "kv")
    return key, value


def _listened(graph: Graph, x: str, name: str, audio: tuple[str, str]) -> str:
    """Cross-attention, not yet added."""
    y = graph.norm(x, f"{name}_layer_norm")
    query = graph.heads(graph.linear(y, f"{name}.q_proj", _SCALE))
    return graph.linear(graph.attention(query, *audio), f"{name}.out_proj")


def _feed_forward(graph: Graph, x: str, name: str) -> str:
    y = graph.linear(graph.norm(x, f"{name}.final_layer_norm"), f"{name}.fc1")
    return graph.add("Add", x, graph.linear(graph.gelu(y), f"{name}.fc2"))


def _sizes(weights: WhisperWeights, length: str) -> list[int | str]:
    return ["batch_size", weights.shape.heads, length, HEAD_WIDTH]


def _past(graph: Graph, weights: WhisperWeights, layer: int, side: str) -> tuple[str, str]:
    sizes = _sizes(weights, f"past_{side}_sequence_length")
    key, value = (
        graph.input(f"past_key_values.{layer}.{side}.{kind}", FLOAT, sizes)
        for kind in ("key", "value")
    )
    return key, value


def _present(
    graph: Graph, weights: WhisperWeights, layer: int, side: str, values: tuple[str, str]
) -> None:
    for kind, value in zip(("key", "value"), values, strict=True):
        sizes = _sizes(weights, f"{side}_sequence_length_out")
        graph.output(value, f"present.{layer}.{side}.{kind}", sizes)


def _audio(
    graph: Graph, weights: WhisperWeights, heard: str, *, merged: bool
) -> list[tuple[str, str]]:
    """Keys and values of each layer's cross-attention."""
    layers = range(weights.shape.decoder_layers)

    def computed() -> list[str]:
        found: list[str] = []
        for layer in layers:
            found += _keys_and_values(graph, heard, f"model.decoder.layers.{layer}.encoder_attn")
        return found

    if merged:
        past = [value for layer in layers for value in _past(graph, weights, layer, "encoder")]
        cached = graph.input("use_cache_branch", "BOOL", [1])
        found = graph.choice(cached, lambda: past, computed)
    else:
        found = computed()
    return list(zip(found[::2], found[1::2], strict=True))


def _places(graph: Graph, tokens: str, keys: str) -> tuple[str, str]:
    """Where the tokens stand, and what hides from each of them those that come later."""
    before = graph.add("Gather", graph.add("Shape", keys), graph.number(2))
    new = graph.add("Gather", graph.add("Shape", tokens), graph.number(1))
    after = graph.add("Add", before, new)
    one = graph.number(1)
    places = graph.add("Range", before, after, one)
    every = graph.add("Range", graph.number(0), after, one)
    seen = graph.add("LessOrEqual", every, graph.add("Unsqueeze", places, graph.whole(1)))
    hidden = graph.constant(np.array(_NEVER, np.float32), "never")
    return places, graph.add("Where", seen, graph.scalar(0.0), hidden)
