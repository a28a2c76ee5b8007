"""ONNX graphs of a small model, run by ONNX Runtime; and what OpenVINO makes of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from stenopool.errors import EngineMissing
from stenopool.models.formats import onnx_graph, openvino
from stenopool.models.formats.model import Whisper
from stenopool.models.formats.onnx_graph import Products
from stenopool.models.formats.transformers import write_transformers
from stenopool.models.formats.transformers_js import decoder, encoder, write_onnx
from stenopool.models.weights import AUDIO_POSITIONS
from whisper_models import ENGLISH, POSITIONS, WIDTH, tiny

onnx = pytest.importorskip("onnx", reason="onnx is not installed")

TOKENS = [50257, 50362, 7, 8, 9]


@pytest.fixture(scope="module")
def model() -> Whisper:
    return tiny()


@pytest.fixture(scope="module")
def folder(model: Whisper, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    write_onnx(model, folder)
    return folder


@pytest.fixture(scope="module")
def features() -> Any:
    return np.random.default_rng(1).normal(size=(1, 80, 3000)).astype(np.float32)


def session(file: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(file, options)


class Decoder:
    """Feeds tokens as Transformers.js does."""

    def __init__(self, file: Path, heard: Any) -> None:
        self._session, self._heard = session(file), heard
        self._outputs = [one.name for one in self._session.get_outputs()]
        batch = len(heard)
        empty = np.zeros((batch, 1, 0, 64), np.float32)
        names = [one.name for one in self._session.get_inputs()]
        self.past = {name: empty for name in names if name.startswith("past_key_values.")}
        self._cached = False

    def __call__(self, tokens: list[list[int]]) -> Any:
        feeds = {"input_ids": np.array(tokens), "encoder_hidden_states": self._heard, **self.past}
        feeds["use_cache_branch"] = np.array([self._cached])
        found = dict(zip(self._outputs, self._session.run(None, feeds), strict=True))
        for name in self.past:
            if not (self._cached and "encoder" in name):
                self.past[name] = found[name.replace("past_key_values", "present")]
        self._cached = True
        return found["logits"]


def heard(folder: Path, features: Any, suffix: str = "") -> Any:
    file = folder / "onnx" / f"encoder_model{suffix}.onnx"
    return session(file).run(None, {"input_features": features})[0]


def test_folder_has_what_transformers_js_loads(folder: Path) -> None:
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert files == {
        "config.json",
        "generation_config.json",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        *(
            f"onnx/{name}{suffix}.onnx"
            for name in ("encoder_model", "decoder_model_merged")
            for suffix in ("", "_quantized")
        ),
    }
    for file in folder.rglob("*.onnx"):
        onnx.checker.check_model(onnx.load(file), full_check=True)


def test_names_and_sizes_of_the_merged_decoder(folder: Path) -> None:
    loaded = session(folder / "onnx" / "decoder_model_merged.onnx")
    inputs = {one.name: (one.type, one.shape) for one in loaded.get_inputs()}
    assert inputs["input_ids"] == ("tensor(int64)", ["batch_size", "decoder_sequence_length"])
    assert inputs["use_cache_branch"] == ("tensor(bool)", [1])
    kinds = [f"{side}.{kind}" for side in ("decoder", "encoder") for kind in ("key", "value")]
    for name in (f"past_key_values.{layer}.{kind}" for layer in (0, 1) for kind in kinds):
        kind, (batch, heads, length, width) = inputs[name]
        # Transformers.js makes the first past of these: names that it does not know are 0.
        assert (kind, batch, heads, width) == ("tensor(float)", "batch_size", 1, 64)
        assert isinstance(length, str)
    assert {one.name for one in loaded.get_outputs()} == {
        "logits",
        *(f"present.{layer}.{kind}" for layer in (0, 1) for kind in kinds),
    }


@pytest.mark.parametrize("suffix", ["", "_quantized"])
def test_token_by_token_is_as_all_at_once(folder: Path, features: Any, suffix: str) -> None:
    file = folder / "onnx" / f"decoder_model_merged{suffix}.onnx"
    audio = heard(folder, features, suffix)
    whole = Decoder(file, audio)([TOKENS])
    stepwise = Decoder(file, audio)
    parts = [stepwise([TOKENS[:2]]), *(stepwise([[token]]) for token in TOKENS[2:])]
    # In 8 bits the last digit of a number may decide what it is rounded to.
    near = 2e-5 if not suffix else 0.01 * np.abs(whole).max()
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=near, rtol=1e-4)
    assert stepwise.past["past_key_values.0.decoder.key"].shape == (1, 1, len(TOKENS), 64)
    assert stepwise.past["past_key_values.1.encoder.value"].shape == (1, 1, AUDIO_POSITIONS, 64)


def test_later_tokens_change_nothing_before_them(folder: Path, features: Any) -> None:
    file, audio = folder / "onnx" / "decoder_model_merged.onnx", heard(folder, features)
    logits = Decoder(file, np.repeat(audio, 2, axis=0))([TOKENS, [*TOKENS[:3], 100, 200]])
    np.testing.assert_allclose(logits[0, :3], logits[1, :3], atol=1e-5)
    assert not np.allclose(logits[0, 3:], logits[1, 3:], atol=1e-2)


def test_eight_bits_are_near(folder: Path, features: Any) -> None:
    exact, near = (heard(folder, features, suffix) for suffix in ("", "_quantized"))
    assert exact.shape == (1, AUDIO_POSITIONS, WIDTH)
    assert 0 < np.abs(near - exact).mean() < 0.05 * np.abs(exact).mean()


def test_numbers_are_those_of_transformers(
    model: Whisper, folder: Path, features: Any, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    transformers = pytest.importorskip("transformers", reason="Transformers is not installed")
    write_transformers(model, tmp_path, "float32")
    theirs = transformers.WhisperForConditionalGeneration.from_pretrained(
        tmp_path, dtype=torch.float32
    ).eval()
    with torch.no_grad():
        wanted = theirs(
            input_features=torch.from_numpy(features),
            decoder_input_ids=torch.tensor([TOKENS]),
        )
    audio = heard(folder, features)
    np.testing.assert_allclose(audio, wanted.encoder_last_hidden_state.numpy(), atol=1e-4)
    logits = Decoder(folder / "onnx" / "decoder_model_merged.onnx", audio)([TOKENS])
    assert logits.shape == (1, len(TOKENS), ENGLISH)
    np.testing.assert_allclose(logits, wanted.logits.numpy(), atol=1e-4)


def test_large_models_have_their_numbers_apart(
    model: Whisper, features: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_graph, "MOST_BYTES_WITHIN", 3_000_000)
    write_onnx(model, tmp_path, "float32")
    said = json.loads((tmp_path / "config.json").read_bytes())["transformers.js_config"]
    assert said == {"use_external_data_format": {"decoder_model_merged.onnx": 1}}
    files = sorted(file.name for file in (tmp_path / "onnx").iterdir())
    assert files == [
        "decoder_model_merged.onnx",
        "decoder_model_merged.onnx_data",
        "encoder_model.onnx",
    ]
    logits = Decoder(tmp_path / "onnx" / "decoder_model_merged.onnx", heard(tmp_path, features))(
        [TOKENS]
    )
    assert np.isfinite(logits).all()


def test_missing_package_is_named(
    model: Whisper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(EngineMissing, match="onnx") as caught:
        write_onnx(model, tmp_path)
    assert "stenopool[export]" in caught.value.do


def test_openvino_keeps_the_past_itself(
    model: Whisper, folder: Path, features: Any, tmp_path: Path
) -> None:
    ov = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    shape = model.weights.shape
    openvino._saved(encoder(model.weights, Products.FLOATING), tmp_path / "e.xml", None, False)
    graph = decoder(model.weights, Products.FLOATING, merged=False)
    openvino._saved(graph, tmp_path / "d.xml", shape, False)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["d.bin", "d.xml", "e.bin", "e.xml"]
    settings = dict.fromkeys(("INFERENCE_PRECISION_HINT", "KV_CACHE_PRECISION"), "f32")
    settings["INFERENCE_NUM_THREADS"] = "1"
    first, second = (ov.Core().compile_model(tmp_path / f"{n}.xml", "CPU", settings) for n in "ed")
    audio = first(features)[0]
    np.testing.assert_allclose(audio, heard(folder, features), atol=1e-4)
    request, parts = second.create_infer_request(), []
    for tokens in (TOKENS[:2], *([token] for token in TOKENS[2:])):
        feeds = {
            "input_ids": np.array([tokens]),
            "encoder_hidden_states": audio,
            "beam_idx": np.zeros(1, np.int32),
        }
        parts.append(np.array(request.infer(feeds)["logits"]))
    wanted = Decoder(folder / "onnx" / "decoder_model_merged.onnx", audio)([TOKENS])
    np.testing.assert_allclose(np.concatenate(parts, axis=1), wanted, atol=1e-4)
    assert len(request.query_state()) == 4 * shape.decoder_layers
    assert len(TOKENS) < POSITIONS
