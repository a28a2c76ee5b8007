"""Reading `model.bin`: real ones, small ones that the test writes, and hostile ones."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stenopool.errors import ModelDamaged
from stenopool.models.weights import AUDIO_POSITIONS, WhisperWeights, read_weights

WIDTH, MELS, WORDS, POSITIONS = 64, 8, 20, 12
KINDS = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4, "uint16": 5}

Arrays = dict[str, NDArray[Any]]


# --- a small model ----------------------------------------------------------------------------


def layer(prefix: str, *, cross_attention: bool) -> dict[str, tuple[int, ...]]:
    linears: dict[str, tuple[int, ...]] = {"self_attention": (3, 1), "ffn": (1, 1)}
    if cross_attention:
        linears["attention"] = (1, 2, 1)
    shapes: dict[str, tuple[int, ...]] = {}
    for part, widths in linears.items():
        for number, fused in enumerate(widths):
            shapes[f"{prefix}/{part}/linear_{number}/weight"] = (fused * WIDTH, WIDTH)
            shapes[f"{prefix}/{part}/linear_{number}/bias"] = (fused * WIDTH,)
        for kind in ("gamma", "beta"):
            shapes[f"{prefix}/{part}/layer_norm/{kind}"] = (WIDTH,)
    return shapes


def small() -> Arrays:
    """Tensors of a model with one layer a side, by CTranslate2's names, float16."""
    shapes: dict[str, tuple[int, ...]] = {
        "encoder/conv1/weight": (WIDTH, MELS, 3),
        "encoder/conv1/bias": (WIDTH,),
        "encoder/conv2/weight": (WIDTH, WIDTH, 3),
        "encoder/conv2/bias": (WIDTH,),
        "encoder/position_encodings/encodings": (AUDIO_POSITIONS, WIDTH),
        "decoder/position_encodings/encodings": (POSITIONS, WIDTH),
        "decoder/embeddings/weight": (WORDS, WIDTH),
        "decoder/scale_embeddings": (),
    }
    for side in ("encoder", "decoder"):
        shapes |= layer(f"{side}/layer_0", cross_attention=side == "decoder")
        shapes |= {f"{side}/layer_norm/gamma": (WIDTH,), f"{side}/layer_norm/beta": (WIDTH,)}
    random = np.random.default_rng(0)
    return {name: random.normal(size=shape).astype(np.float16) for name, shape in shapes.items()}


def packed(
    arrays: Mapping[str, NDArray[Any]], *, version: int = 6, spec: str = "WhisperSpec"
) -> bytes:
    """The bytes of a `model.bin`."""
    parts = [struct.pack("<I", version), named(spec), struct.pack("<II", 3, len(arrays))]
    for name, array in arrays.items():
        sizes = struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        head = struct.pack("<BI", KINDS[array.dtype.name], array.nbytes)
        parts += [named(name), sizes, head, array.tobytes()]
    return b"".join(parts)


def named(name: str) -> bytes:
    return struct.pack("<H", len(name) + 1) + name.encode() + b"\0"


def read(folder: Path, data: bytes, config: str = "{}") -> WhisperWeights:
    (folder / "model.bin").write_bytes(data)
    (folder / "config.json").write_text(config, encoding="utf-8")
    return read_weights(folder)


# --- what is read -----------------------------------------------------------------------------


def test_real_model_has_the_sizes_of_its_card(models_dir: Path) -> None:
    weights = read_weights(models_dir / "tiny.en")
    shape = weights.shape
    assert (shape.mel_bins, shape.width, shape.heads) == (80, 384, 6)
    assert (shape.encoder_layers, shape.decoder_layers) == (4, 4)
    assert (shape.vocabulary, shape.text_positions) == (51864, 448)
    assert len(weights.generation.alignment_heads) == 8
    assert (1, 0) in weights.generation.alignment_heads
    assert weights.generation.suppress_first == (220, 50256)
    assert all(np.isfinite(tensor).all() for tensor in weights.tensors.values())


def test_tensors_have_their_names_and_shapes_in_transformers(models_dir: Path) -> None:
    tensors = read_weights(models_dir / "tiny.en").tensors
    decoder = "model.decoder.layers.3"
    shapes = {
        "model.encoder.conv1.weight": (384, 80, 3),
        "model.encoder.embed_positions.weight": (1500, 384),
        "model.encoder.layers.0.self_attn.q_proj.weight": (384, 384),
        "model.encoder.layers.3.fc1.weight": (1536, 384),
        f"{decoder}.encoder_attn.v_proj.bias": (384,),
        f"{decoder}.encoder_attn_layer_norm.weight": (384,),
        f"{decoder}.final_layer_norm.bias": (384,),
    }
    assert {name: tensors[name].shape for name in shapes} == shapes
    assert not any(name.endswith("k_proj.bias") for name in tensors)
    assert "model.encoder.layers.0.encoder_attn.q_proj.weight" not in tensors


def test_fused_projections_are_parted_in_their_order(tmp_path: Path) -> None:
    arrays = small()
    tensors = read(tmp_path, packed(arrays)).tensors
    fused = arrays["decoder/layer_0/self_attention/linear_0/weight"]
    for number, kind in enumerate("qkv"):
        part = tensors[f"model.decoder.layers.0.self_attn.{kind}_proj.weight"]
        assert np.array_equal(part, fused[number * WIDTH : (number + 1) * WIDTH])
    bias = arrays["decoder/layer_0/attention/linear_1/bias"]
    assert np.array_equal(tensors["model.decoder.layers.0.encoder_attn.v_proj.bias"], bias[WIDTH:])


def test_model_in_int8_is_multiplied_by_its_scales(tmp_path: Path) -> None:
    arrays = small()
    quantised: Arrays = {}
    for name, array in arrays.items():
        quantised[name] = array.astype(np.float32)
        if name.endswith("weight") and array.ndim == 2:
            scale = (127 / np.abs(array).max(axis=1)).astype(np.float32)
            quantised[name] = np.rint(array * scale[:, None]).astype(np.int8)
            quantised[f"{name}_scale"] = scale
    (tmp_path / "exact").mkdir()  # files are mapped, not read: each keeps its own
    exact = read(tmp_path / "exact", packed(arrays)).tensors
    found = read(tmp_path, packed(quantised)).tensors
    assert found.keys() == exact.keys()
    for name, tensor in found.items():
        assert tensor.dtype == np.float32
        # Half a step of a row whose largest value is at most 4.5.
        assert np.abs(tensor - exact[name]).max() <= 4.5 / 127 / 2 + 1e-3, name
    assert not np.array_equal(found["model.decoder.layers.0.fc1.weight"],
                              exact["model.decoder.layers.0.fc1.weight"])  # fmt: skip


def test_model_in_bfloat16_keeps_its_values(tmp_path: Path) -> None:
    plain = {name: array.astype(np.float32) for name, array in small().items()}
    bits = {name: (array.view(np.uint32) >> 16).astype(np.uint16) for name, array in plain.items()}
    found = read(tmp_path, packed(bits)).tensors["model.encoder.layers.0.fc1.weight"]
    expected = plain["encoder/layer_0/ffn/linear_0/weight"]
    assert found.dtype == np.float32
    assert np.allclose(found, expected, rtol=2**-7, atol=0)
    assert not np.array_equal(found, expected)


def test_configuration_says_what_is_suppressed(tmp_path: Path) -> None:
    config = {"suppress_ids": [1, 2], "suppress_ids_begin": [3], "alignment_heads": [[0, 0]]}
    generation = read(tmp_path, packed(small()), json.dumps(config)).generation
    assert generation.suppress == (1, 2)
    assert generation.suppress_first == (3,)
    assert generation.alignment_heads == ((0, 0),)


def test_configuration_may_say_nothing(tmp_path: Path) -> None:
    generation = read(tmp_path, packed(small())).generation
    found = (generation.suppress, generation.suppress_first, generation.alignment_heads)
    assert found == ((), (), ())


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        "",
        "[]",
        "null",
        '{"suppress_ids": 3}',
        '{"suppress_ids": ["a"]}',
        '{"suppress_ids": [Infinity]}',
        '{"suppress_ids_begin": [null]}',
        '{"alignment_heads": [1]}',
        '{"alignment_heads": [[1, 2, 3]]}',
        "[" * 100_000,
    ],
)
def test_configuration_of_something_else_is_refused(tmp_path: Path, config: str) -> None:
    with pytest.raises(ModelDamaged, match=r"`config\.json`") as error:
        read(tmp_path, packed(small()), config)
    assert "--force" in error.value.do


def test_missing_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelDamaged, match=r"`model\.bin`"):
        read_weights(tmp_path)
    (tmp_path / "model.bin").write_bytes(packed(small()))
    with pytest.raises(ModelDamaged, match=r"`config\.json`"):
        read_weights(tmp_path)


def test_other_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelDamaged, match="`TransformerSpec` version 6"):
        read(tmp_path, packed(small(), spec="TransformerSpec"))
    with pytest.raises(ModelDamaged, match="version 5"):
        read(tmp_path, packed(small(), version=5))


@pytest.mark.parametrize("name", sorted(small().keys() - {"decoder/scale_embeddings"}))
def test_missing_tensor_is_refused_by_name(tmp_path: Path, name: str) -> None:
    arrays = small()
    del arrays[name]
    with pytest.raises(ModelDamaged, match=name):
        read(tmp_path, packed(arrays))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("encoder/conv1/weight", (WIDTH, MELS)),
        ("encoder/position_encodings/encodings", (AUDIO_POSITIONS - 1, WIDTH)),
        ("decoder/embeddings/weight", (WORDS, WIDTH + 1)),
        ("decoder/position_encodings/encodings", ()),
        ("encoder/layer_0/self_attention/linear_0/weight", (3 * WIDTH + 1, WIDTH)),
        ("encoder/layer_0/self_attention/linear_0/weight", ()),
    ],
)
def test_tensor_of_another_shape_is_refused(
    tmp_path: Path, name: str, shape: tuple[int, ...]
) -> None:
    arrays = small() | {name: np.zeros(shape, dtype=np.float16)}
    with pytest.raises(ModelDamaged):
        read(tmp_path, packed(arrays))


@pytest.mark.parametrize("scale", [None, (), (3,), (3 * WIDTH, 2, 2)])
def test_int8_without_its_scales_is_refused(tmp_path: Path, scale: tuple[int, ...] | None) -> None:
    name = "encoder/layer_0/self_attention/linear_0/weight"
    arrays = small() | {name: np.ones((3 * WIDTH, WIDTH), dtype=np.int8)}
    if scale is not None:
        arrays[f"{name}_scale"] = np.ones(scale, dtype=np.float32)
    with pytest.raises(ModelDamaged):
        read(tmp_path, packed(arrays))


def test_every_cut_in_the_header_is_noticed(tmp_path: Path) -> None:
    data = packed(small())
    for size in [*range(120), len(data) // 2, len(data) - 1]:
        with pytest.raises(ModelDamaged):
            read(tmp_path, data[:size])


@pytest.mark.parametrize("size", [2**31, 2**32 - 1])
def test_claim_of_gigabytes_costs_nothing(tmp_path: Path, size: int) -> None:
    head = struct.pack("<I", 6) + named("WhisperSpec") + struct.pack("<II", 3, 2**32 - 1)
    huge = head + named("a") + struct.pack("<BI", 1, size) + struct.pack("<BI", 1, size)
    with pytest.raises(ModelDamaged, match="cut off"):
        read(tmp_path, huge)


FUZZED = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
LITTLE = packed({name: array for name, array in small().items() if array.size < 2 * WIDTH})


@FUZZED
@given(st.binary(max_size=300), st.booleans())
def test_noise_is_refused(tmp_path: Path, noise: bytes, begins_well: bool) -> None:
    with pytest.raises(ModelDamaged):
        read(tmp_path, (LITTLE[:25] if begins_well else b"") + noise)


@FUZZED
@given(st.data())
def test_changed_sizes_and_types_never_crash(tmp_path: Path, data: st.DataObject) -> None:
    arrays = small()
    name = data.draw(st.sampled_from(sorted(arrays)))
    shape = tuple(data.draw(st.lists(st.integers(0, 5), max_size=4)))
    kind = data.draw(st.sampled_from(sorted(KINDS)))
    arrays[name] = np.ones(shape, dtype=kind)
    try:
        assert read(tmp_path, packed(arrays)).shape.width == WIDTH
    except ModelDamaged as error:
        assert error.do


@FUZZED
@given(st.data())
def test_changed_bytes_never_crash(tmp_path: Path, data: st.DataObject) -> None:
    damaged = bytearray(packed(small()))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, 200))] = data.draw(st.integers(0, 255))
    try:
        read(tmp_path, bytes(damaged))
    except ModelDamaged as error:
        assert error.do
