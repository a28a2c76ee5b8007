"""Model files from strangers: refused by name, with nothing run and little memory taken."""

from __future__ import annotations

import io
import json
import pickle
import struct
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stenopool.errors import ModelDamaged
from stenopool.models.formats.ctranslate2_writer import write_ctranslate2
from stenopool.models.formats.ggml import write_ggml
from stenopool.models.formats.ggml_reader import read_ggml
from stenopool.models.formats.model import Whisper
from stenopool.models.formats.openai import read_openai, write_openai
from stenopool.models.formats.pickles import described
from stenopool.models.formats.reading import read_whisper, source_files
from stenopool.models.formats.records import stored_records
from stenopool.models.formats.transformers import write_transformers
from stenopool.models.local import user_model
from stenopool.models.safetensors import read_safetensors
from stenopool.models.weights import LazyTensors, Stored
from whisper_models import tiny

FUZZED = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def model() -> Whisper:
    return tiny()


@pytest.fixture(scope="module")
def files(model: Whisper, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("sound")
    write_transformers(model, folder)
    write_openai(model, folder / "model.pt")
    write_ggml(model, folder / "model.ggml")
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def damaged(data: bytes, read: Callable[[Path], object], folder: Path) -> str:
    """What is said of a damaged file; reading it takes little memory."""
    file = folder / "hostile.file"
    file.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(ModelDamaged) as caught:
            read(file)
        assert tracemalloc.get_traced_memory()[1] < 32 * MEGABYTE
    finally:
        tracemalloc.stop()
    assert caught.value.do
    return caught.value.what


def harmless(data: bytes, read: Callable[[Path], object], folder: Path) -> None:
    """Damaged or not, nothing but our error comes of it."""
    file = folder / "hostile.file"
    file.write_bytes(data)
    try:
        read(file)
    except ModelDamaged as error:
        assert error.do


# --- checkpoints of PyTorch -------------------------------------------------------------------


def checkpoint(content: bytes, **more: bytes) -> bytes:
    """An archive whose list of tensors is this pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in {"data.pkl": content, **more}.items():
            archive.writestr(f"x/{name.replace('_', '/')}", data)
    return file.getvalue()


class Runs:
    """Whose pickle would write a file."""

    def __init__(self, function: object, *arguments: object) -> None:
        self._reduced = function, arguments

    def __reduce__(self) -> Any:
        return self._reduced


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("place", ["alone", "state", "dims", "tensor"])
def test_pickle_with_code_is_refused_by_name_and_not_run(
    protocol: int, place: str, tmp_path: Path
) -> None:
    proof = tmp_path / "it ran"
    code = Runs(exec, f"open({str(proof)!r}, 'w')")
    whole = {
        "alone": code,
        "state": {"dims": {}, "model_state_dict": code},
        "dims": {"dims": code, "model_state_dict": {}},
        "tensor": {"dims": {}, "model_state_dict": {"encoder.conv1.weight": code}},
    }[place]
    told = damaged(checkpoint(pickle.dumps(whole, protocol)), read_openai, tmp_path)
    assert "exec" in told or protocol == 0  # that one is written in other instructions
    assert not proof.exists()


@pytest.mark.parametrize(
    "name",
    [
        "os system",
        "builtins eval",
        "builtins getattr",
        "torch.serialization load",
        "torch._utils _rebuild_device_tensor_from_numpy",
        "torch load",
        "collections OrderedDict.__init__",
        "numpy.core.multiarray _reconstruct",
        "torch jit.load",
    ],
)
def test_every_name_that_no_tensor_needs_is_refused(name: str) -> None:
    code = b"c" + name.replace(" ", "\n").encode() + b"\n."
    with pytest.raises(ModelDamaged, match="never run"):
        described(code, "x.pt")


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02i" + b"os\nsystem\n.",  # INST
        b"\x80\x02(cos\nsystem\no.",  # OBJ
        b"\x80\x02ccollections\nOrderedDict\n)\x81.",  # NEWOBJ
        b"\x80\x02\x82\x01.",  # an extension's code
        b"\x80\x02ccollections\nOrderedDict\n}b.",  # attributes of a class
        b"\x80\x02]Q.",  # numbers of no kind
        b"\x80\x02)R.",  # a call of nothing
        b"\x80\x02}(]K\x01u.",  # a key that is no text
        b"\x80\x02(.",
        b"\x80\x02h\x07.",  # memory of nothing
        b"\x80\x02}",
        b"",
        b"garbage",
        b"I" + b"9" * 100_000 + b"\n.",
    ],
)
def test_other_instructions_are_refused(content: bytes) -> None:
    with pytest.raises(ModelDamaged):
        described(content, "x.pt")


def test_tuples_of_tuples_cost_nothing() -> None:
    doubling = b"\x80\x02)" + b"2\x86" * 60  # DUP, TUPLE2: 2 to the power of 60 in all
    with pytest.raises(ModelDamaged):
        described(doubling + b"0.", "x.pt")
    shared = b"\x80\x02)" + b"".join(
        b"q" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(60)
    )
    assert described(shared + b".", "x.pt")  # never walked through
    with pytest.raises(ModelDamaged):
        described(b"\x80\x02}" + shared[2:] + b"Ns.", "x.pt")  # nor hashed


@FUZZED
@given(st.binary(max_size=200))
@example(b"\x80\x02}(X\x01\x00\x00\x00aN")
def test_noise_for_a_pickle_is_refused_or_plain(noise: bytes) -> None:
    try:
        found = described(b"\x80\x02" + noise, "x.pt")
    except ModelDamaged:
        return
    assert not callable(found)


@FUZZED
@given(st.data())
def test_changed_checkpoint_is_harmless(
    files: dict[str, bytes], tmp_path: Path, data: st.DataObject
) -> None:
    whole = bytearray(files["model.pt"])
    ends = st.one_of(st.integers(0, 20_000), st.integers(len(whole) - 20_000, len(whole) - 1))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(ends)] = data.draw(st.integers(0, 255))
    harmless(bytes(whole), read_openai, tmp_path)


def test_every_cut_of_a_checkpoint_is_noticed(files: dict[str, bytes], tmp_path: Path) -> None:
    whole = files["model.pt"]
    for size in [0, 1, 4, 100, len(whole) // 2, len(whole) - 30, len(whole) - 1]:
        damaged(whole[:size], read_openai, tmp_path)


def test_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("x/data.pkl", bytes(200 * MEGABYTE))
    assert len(file.getvalue()) < MEGABYTE
    assert "compressed" in damaged(file.getvalue(), read_openai, tmp_path)


def test_members_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    data = bytearray(checkpoint(b".", a=bytes(100), b=bytes(100)))
    entries = [at for at in range(len(data)) if data[at : at + 4] == b"PK\x01\x02"]
    data[entries[2] + 42 : entries[2] + 46] = data[entries[1] + 42 : entries[1] + 46]
    (tmp_path / "x.pt").write_bytes(bytes(data))
    with pytest.raises(ModelDamaged, match="overlap"):
        stored_records(tmp_path / "x.pt")


def test_directory_of_a_million_members_is_refused(tmp_path: Path) -> None:
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 65_000, 65_000, 46 * 65_000, 0, 0)
    assert "more files" in damaged(bytes(46 * 65_000) + end, stored_records, tmp_path)


def test_name_twice_is_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("x/data.pkl", b"a")
        archive.writestr("x/data.pkl", b"b")
    assert "twice" in damaged(file.getvalue(), read_openai, tmp_path)


def described_tensor(
    count: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> bytes:
    """A checkpoint with one tensor of 100 numbers, of which the pickle says this."""
    from stenopool.models.formats import checkpoint as written

    def number(value: int) -> bytes:
        return b"\x8a\x08" + struct.pack("<q", value)

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    text = written._text
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
    storage += number(count) + b"tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset) + numbers(size)
    tensor += numbers(stride) + b"\x89" + written._ORDERED + b"tR"
    pairs = (
        text("dims") + b"}" + text("model_state_dict") + b"}" + text("encoder.a") + tensor + b"s"
    )
    return checkpoint(b"\x80\x02}(" + pairs + b"u.", data_0=bytes(400))


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (101,), (1,)),
        (1, (100,), (1,)),
        (2**61, (1,), (1,)),
        (0, (2, 100), (1, 1)),
        (0, (2**40, 2**40), (0, 0)),
        (0, (2**61,), (2**61,)),
        (0, (10,), (-1,)),
        (-1, (1,), (1,)),
        (0, (10,), (1, 1)),
    ],
)
def test_tensor_outside_its_numbers_is_refused(
    offset: int, size: tuple[int, ...], stride: tuple[int, ...], tmp_path: Path
) -> None:
    data = described_tensor(100, offset, size, stride)
    told = damaged(data, read_openai, tmp_path)
    assert "within its numbers" in told or "is damaged" in told


def test_sizes_that_the_tensors_do_not_have_are_refused(
    model: Whisper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stenopool.models.formats import openai

    said = openai.dimensions(model.weights) | {"n_text_layer": 10**9}
    with monkeypatch.context() as patched:
        patched.setattr(openai, "dimensions", lambda weights: said)
        write_openai(model, tmp_path / "model.pt")
    with pytest.raises(ModelDamaged, match="n_text_layer"):
        read_openai(tmp_path / "model.pt")


# --- safetensors ------------------------------------------------------------------------------


def packed(header: object, numbers: bytes = bytes(64)) -> bytes:
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    return struct.pack("<Q", len(text)) + text + numbers


def one(dtype: str = "F32", shape: object = (4,), offsets: object = (0, 16)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "cannot be read"),
        (b"\x01", "cut off"),
        (struct.pack("<Q", 2**63) + b"{}", "cut off"),
        (struct.pack("<Q", 2**40), "cut off"),
        (packed(b"[" * 100_000), "not JSON"),
        (packed(b"[]"), "no object"),
        (packed({"a": one(), "b": one()}), "overlap"),
        (packed({"a": one(), "b": one(offsets=(12, 28))}), "overlap"),
        (packed({"a": one(offsets=(56, 72))}), "cut off"),
        (packed({"a": one(offsets=(16, 0))}), "do not agree"),
        (packed({"a": one(shape=(2**40, 2**40))}), "do not agree"),
        (packed({"a": one(shape=(-4,))}), "sizes that are none"),
        (packed({"a": one(shape=(True, 4))}), "sizes that are none"),
        (packed({"a": one(offsets=(-16, 0))}), "sizes that are none"),
        (packed({"a": 3}), "not described"),
    ],
)
def test_safetensors_that_lie_are_refused(data: bytes, why: str, tmp_path: Path) -> None:
    assert why in damaged(data, read_safetensors, tmp_path)


def test_huge_header_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "huge.safetensors"
    with file.open("wb") as opened:
        opened.write(struct.pack("<Q", 90_000_000))
        opened.truncate(200_000_000)  # no bytes on disk
    tracemalloc.start()
    with pytest.raises(ModelDamaged):
        read_safetensors(file)
    assert tracemalloc.get_traced_memory()[1] < 32 * MEGABYTE
    tracemalloc.stop()


@FUZZED
@given(st.data())
def test_changed_header_is_harmless(
    files: dict[str, bytes], tmp_path: Path, data: st.DataObject
) -> None:
    whole = bytearray(files["model.safetensors"][:12_000])
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    harmless(bytes(whole), read_safetensors, tmp_path)


# --- Transformers' folder ---------------------------------------------------------------------


@pytest.fixture
def folder(files: dict[str, bytes], tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name, content in files.items():
        if not name.startswith("model.") or name == "model.safetensors":
            (folder / name).write_bytes(content)
    return folder


def test_sound_folder_is_read(folder: Path, model: Whisper) -> None:
    assert read_whisper(folder).weights.shape == model.weights.shape


@pytest.mark.parametrize(
    "name", ["model.safetensors", "tokenizer.json", "config.json", "generation_config.json"]
)
def test_link_out_of_the_folder_is_refused(name: str, folder: Path, tmp_path: Path) -> None:
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    for read in (read_whisper, source_files):
        with pytest.raises(ModelDamaged):
            read(folder)


@pytest.mark.parametrize(
    "name", ["../elsewhere.safetensors", "/etc/passwd", "a/b.safetensors", "x.pt", ""]
)
def test_index_names_files_of_the_folder_only(name: str, folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    index = {"weight_map": {"model.encoder.conv1.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(ModelDamaged, match="does not name files of the folder"):
        read_whisper(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("d_model", 10**12),
        ("encoder_layers", -1),
        ("decoder_layers", 3),
        ("vocab_size", "many"),
        ("decoder_attention_heads", 64),
        ("activation_function", "relu"),
        ("tie_word_embeddings", False),
        ("max_source_positions", 3000),
        ("scale_embedding", True),
    ],
)
def test_configuration_of_another_model_is_refused(key: str, value: object, folder: Path) -> None:
    said = json.loads((folder / "config.json").read_bytes()) | {key: value}
    (folder / "config.json").write_text(json.dumps(said), encoding="utf-8")
    with pytest.raises(ModelDamaged, match=f"`{key}`"):
        read_whisper(folder)


@pytest.mark.parametrize(
    "said",
    [
        {"suppress_tokens": [51864]},
        {"suppress_tokens": [-1]},
        {"begin_suppress_tokens": ["a"]},
        {"alignment_heads": [[2, 0]]},
        {"alignment_heads": [[0, 10**30]]},
        {"alignment_heads": [3]},
        {"alignment_heads": 3},
    ],
)
def test_generation_that_cannot_be_is_refused(said: object, folder: Path) -> None:
    (folder / "generation_config.json").write_text(json.dumps(said), encoding="utf-8")
    with pytest.raises(ModelDamaged, match=r"generation_config\.json"):
        read_whisper(folder)


def test_pickled_weights_are_not_read(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelDamaged, match="could run any code"):
        read_whisper(folder)


# --- whisper.cpp's file -----------------------------------------------------------------------


def test_every_cut_of_a_ggml_file_is_noticed(files: dict[str, bytes], tmp_path: Path) -> None:
    whole = files["model.ggml"]
    for size in [0, 3, 4, 40, 60, 20_000, 600_000, len(whole) // 2, len(whole) - 1]:
        damaged(whole[:size], read_ggml, tmp_path)


@pytest.mark.parametrize("place", range(1, 14))
@pytest.mark.parametrize("value", [0, 2**31, 2**32 - 1])
def test_absurd_sizes_of_a_ggml_file_cost_nothing(
    place: int, value: int, files: dict[str, bytes], tmp_path: Path
) -> None:
    if place == 11:  # the type of the file, which nothing depends on
        return
    whole = bytearray(files["model.ggml"])
    whole[4 * place : 4 * place + 4] = struct.pack("<I", value)
    damaged(bytes(whole), read_ggml, tmp_path)


@FUZZED
@given(st.data())
def test_changed_ggml_file_is_harmless(
    files: dict[str, bytes], tmp_path: Path, data: st.DataObject
) -> None:
    whole = files["model.ggml"]
    first = whole.index(b"encoder.conv1.weight") - 30  # where the tensors begin
    changed = bytearray(whole[: first + 100_000])
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.one_of(st.integers(0, 56), st.integers(first, first + 80)))
        changed[at] = data.draw(st.integers(0, 255))
    harmless(bytes(changed), read_ggml, tmp_path)


def test_nothing_here_needs_pytorch() -> None:
    """The readers import no library that unpickles."""
    code = (
        "import sys; from stenopool.models.formats import reading, ctranslate2_writer; "
        "print([name for name in ('torch', 'safetensors', 'transformers') if name in sys.modules])"
    )
    import subprocess

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "[]"


# --- numbers that are none --------------------------------------------------------------------

Write = Callable[[Whisper, Path], object]
WRITERS: dict[str, Write] = {
    "transformers": write_transformers,
    "openai": lambda model, folder: write_openai(model, folder / "model.pt"),
    "ggml": lambda model, folder: write_ggml(model, folder / "ggml-model.bin"),
    "ctranslate2": lambda model, folder: write_ctranslate2(model, folder, "float32"),
}


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("form", WRITERS)
def test_weights_that_are_no_numbers_are_refused(
    model: Whisper,
    form: str,
    number: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They would say anything, or nothing, without an error."""
    name = "model.decoder.layers.1.fc1.weight"
    stored = dict(model.weights.stored())
    spoiled = stored[name].load().copy()
    spoiled[3, 5] = number
    stored[name] = Stored.of(spoiled)
    weights = replace(model.weights, tensors=LazyTensors(stored))
    folder, cache = tmp_path / "model", tmp_path / "cache"
    folder.mkdir()
    WRITERS[form](replace(model, weights=weights), folder)
    (folder / "tokenizer.json").write_bytes(model.tokenizer)  # OpenAI's checkpoints have none
    monkeypatch.setenv("STENO_COMPILED_DIR", str(cache))
    monkeypatch.setenv("STENO_MODELS_DIR", str(tmp_path / "models"))
    with pytest.raises(ModelDamaged, match="infinite or none"):
        user_model(folder)
    assert not list(cache.rglob("*.bin"))


def test_scale_of_zero_is_refused(model: Whisper, tmp_path: Path) -> None:
    """int8 weights are divided by it."""
    write_ctranslate2(model, tmp_path, "int8")
    user_model(tmp_path)
    data = bytearray((tmp_path / "model.bin").read_bytes())
    name = b"decoder/layer_0/ffn/linear_0/weight_scale\0"
    at = data.index(name) + len(name) + struct.calcsize("<BIBI")  # one dimension
    data[at : at + 4] = bytes(4)
    (tmp_path / "model.bin").write_bytes(data)
    with pytest.raises(ModelDamaged, match="weight_scale"):
        user_model(tmp_path)
