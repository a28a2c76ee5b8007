"""The folder that OpenVINO GenAI's `WhisperPipeline` and `optimum-intel` read.

The graphs are those that `transformers_js` writes, read back by OpenVINO; what ONNX passes in and
out becomes the state of the decoder: the past of the text, which `beam_idx` reorders, and the keys
and values of the audio, which are computed at the first call after a reset.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from stenopool.errors import EngineMissing
from stenopool.files import output_error
from stenopool.models.formats.model import FLOAT16, FLOAT32, Whisper
from stenopool.models.formats.onnx_graph import Graph, Products
from stenopool.models.formats.transformers import write_documents
from stenopool.models.formats.transformers_js import decoder, encoder
from stenopool.models.weights import HEAD_WIDTH, WhisperShape

INT8 = "int8"
PRECISIONS = (FLOAT16, FLOAT32, INT8)


def write_openvino(whisper: Whisper, folder: Path, precision: str = FLOAT16) -> None:
    """Write a folder for OpenVINO.

    Args:
        folder: is there already.
        precision: of `PRECISIONS`; in int8 the weights are of 8 bits.

    Raises:
        EngineMissing: `onnx`, `openvino`, `openvino-tokenizers` or `transformers` is not installed.
        ModelDamaged: the tokenizer is not that of a Whisper model.
        OutputError: the folder cannot be written to.
    """
    write_documents(whisper, folder)
    products = Products.UNPACKED if precision == INT8 else Products.FLOATING
    half = precision != FLOAT32
    _saved(encoder(whisper.weights, products), folder / "openvino_encoder_model.xml", None, half)
    graph = decoder(whisper.weights, products, merged=False)
    _saved(graph, folder / "openvino_decoder_model.xml", whisper.weights.shape, half)
    _write_tokenizer(folder)


def _saved(graph: Graph, file: Path, stateful: WhisperShape | None, half: bool) -> None:
    try:
        import openvino as ov
    except ImportError as error:
        raise EngineMissing(
            "writing OpenVINO's format needs OpenVINO", do="Run `pip install openvino`"
        ) from error
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".partial-") as between:
        graph.save(Path(between) / "model.onnx")
        model = ov.Core().read_model(Path(between) / "model.onnx")
        _fuse_attention(model)
        if stateful:
            sinks = [*_keep_past(model, stateful), *_keep_audio(model, stateful)]
            model = ov.Model(model.get_results(), sinks, model.get_parameters(), "decoder")
        try:
            ov.save_model(model, file, compress_to_fp16=half)
        except RuntimeError as error:
            raise output_error(file, OSError(str(error))) from error
        del model  # before the file that it is mapped from goes


def _fuse_attention(model: Any) -> None:  # noqa: ANN401
    """Each product, softmax and product becomes one operation, which OpenVINO has fast code for."""
    from openvino import opset13 as ops

    one = ops.constant(np.float32(1))  # queries are scaled already
    for softmax in [op for op in model.get_ordered_ops() if op.get_type_name() == "Softmax"]:
        scores = softmax.input_value(0).get_node()
        mask = None
        if scores.get_type_name() == "Add":
            mask = scores.input_value(1)
            scores = scores.input_value(0).get_node()
        query, turned = scores.input_value(0), scores.input_value(1).get_node()
        (consumer,) = softmax.output(0).get_target_inputs()
        product = consumer.get_node()
        values = (query, turned.input_value(0), product.input_value(1))
        if mask is None:
            mask = ops.constant(np.zeros((1, 1), np.float32)).output(0)
        fused = ops.scaled_dot_product_attention(*values, mask, one, causal=False)
        for place in product.output(0).get_target_inputs():
            place.replace_source_output(fused.output(0))


def _keep_past(model: Any, shape: WhisperShape) -> list[Any]:  # noqa: ANN401  of `ov.Model`
    """Past and present of the text become state; gives what writes it."""
    import openvino as ov
    from openvino import opset13 as ops

    chosen = ops.parameter([-1], ov.Type.i32, name="beam_idx")
    chosen.output(0).set_names({"beam_idx"})
    model.add_parameters([chosen])
    tokens = model.input("input_ids").get_node()
    zero = ops.constant(np.int64(0))
    batch = ops.gather(ops.shape_of(tokens), ops.constant(np.array([0], np.int64)), zero)
    sizes = ops.constant(np.array([shape.heads, 0, HEAD_WIDTH], np.int64))
    empty = ops.broadcast(ops.constant(np.float32(0)), ops.concat([batch, sizes], 0))
    sinks = []
    for layer in range(shape.decoder_layers):
        for kind in ("key", "value"):
            name = f"{layer}.decoder.{kind}"
            before = model.input(f"past_key_values.{name}")
            state = _state(ops.read_value, empty, name, before)
            ordered = ops.gather(state, chosen, zero)
            for consumer in before.get_target_inputs():
                consumer.replace_source_output(ordered.output(0))
            after = model.output(f"present.{name}")
            sinks.append(ops.assign(_given(after).get_node(), name))
            model.remove_result(after.get_node())
            model.remove_parameter(before.get_node())
    return sinks


def _keep_audio(model: Any, shape: WhisperShape) -> list[Any]:  # noqa: ANN401
    """Keys and values of the audio become state, which is filled by computing them."""
    from openvino import opset13 as ops

    sinks = []
    for layer in range(shape.decoder_layers):
        for kind in ("key", "value"):
            name = f"{layer}.encoder.{kind}"
            after = model.output(f"present.{name}")
            computed = _given(after)
            consumers = computed.get_target_inputs()
            model.remove_result(after.get_node())
            state = _state(ops.read_value, computed, name, computed)
            for consumer in consumers:
                consumer.replace_source_output(state.output(0))
            sinks.append(ops.assign(state, name))
    return sinks


def _given(output: Any) -> Any:  # noqa: ANN401
    """The value that an output gives, before the node that names it."""
    value = output.get_node().input_value(0)
    node = value.get_node()
    return node.input_value(0) if node.get_type_name() == "Identity" else value


def _state(read_value: Any, initial: Any, name: str, like: Any) -> Any:  # noqa: ANN401
    return read_value(initial, name, like.get_element_type(), like.get_partial_shape())


def _write_tokenizer(folder: Path) -> None:
    """As models of OpenVINO, which its own package makes of the tokenizer's files."""
    try:
        import openvino as ov
        from openvino_tokenizers import convert_tokenizer
        from transformers import AutoTokenizer
    except ImportError as error:
        raise EngineMissing(
            f"writing OpenVINO's format needs its tokenizers: {error}",
            do="Run `pip install 'stenopool[export]'`",
        ) from error
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    models = convert_tokenizer(tokenizer, with_detokenizer=True, skip_special_tokens=True)
    for name, model in zip(("tokenizer", "detokenizer"), models, strict=True):
        ov.save_model(model, folder / f"openvino_{name}.xml")
