"""Transformers' folder and OpenAI's checkpoint, read back."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stenopool.errors import EngineMissing
from stenopool.models.formats.openai import dimensions, openai_tensors, write_openai
from stenopool.models.formats.transformers import write_transformers
from stenopool.models.weights import WhisperWeights, read_weights


@pytest.fixture(scope="module")
def weights(models_dir: Path) -> WhisperWeights:
    return read_weights(models_dir / "tiny.en")


def read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def test_transformers_folder_holds_the_model(
    weights: WhisperWeights, models_dir: Path, tmp_path: Path
) -> None:
    numpy_files = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    write_transformers(weights, models_dir / "tiny.en", tmp_path)
    found = numpy_files.load_file(tmp_path / "model.safetensors")
    assert found.keys() == weights.tensors.keys()
    for name, tensor in weights.tensors.items():
        np.testing.assert_array_equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype
    config, generation = read(tmp_path / "config.json"), read(tmp_path / "generation_config.json")
    assert (config["d_model"], config["encoder_layers"], config["vocab_size"]) == (384, 4, 51864)
    assert (config["encoder_ffn_dim"], config["decoder_attention_heads"]) == (1536, 6)
    assert (config["decoder_start_token_id"], config["eos_token_id"]) == (50257, 50256)
    published = read(models_dir / "tiny.en" / "config.json")
    assert generation["suppress_tokens"] == published["suppress_ids"]
    assert generation["begin_suppress_tokens"] == published["suppress_ids_begin"]
    assert generation["alignment_heads"] == published["alignment_heads"]
    assert generation["is_multilingual"] is False
    assert "lang_to_id" not in generation
    assert read(tmp_path / "preprocessor_config.json")["feature_size"] == 80
    source = (models_dir / "tiny.en" / "tokenizer.json").read_bytes()
    assert (tmp_path / "tokenizer.json").read_bytes() == source


def test_openai_names_are_those_of_its_code(weights: WhisperWeights) -> None:
    names = {name for name, _ in openai_tensors(weights)}
    layer = ["attn.query.weight", "attn.query.bias", "attn.key.weight", "attn.value.weight"]
    layer += ["attn.value.bias", "attn.out.weight", "attn.out.bias", "attn_ln.weight"]
    layer += ["attn_ln.bias", "mlp.0.weight", "mlp.0.bias", "mlp.2.weight", "mlp.2.bias"]
    layer += ["mlp_ln.weight", "mlp_ln.bias"]
    cross = [f"cross_{name}" for name in layer if name.startswith("attn")]
    wanted = {f"encoder.conv{n}.{kind}" for n in (1, 2) for kind in ("weight", "bias")}
    wanted |= {"encoder.positional_embedding", "encoder.ln_post.weight", "encoder.ln_post.bias"}
    wanted |= {"decoder.positional_embedding", "decoder.ln.weight", "decoder.ln.bias"}
    wanted |= {"decoder.token_embedding.weight"}
    wanted |= {f"encoder.blocks.{n}.{name}" for n in range(4) for name in layer}
    wanted |= {f"decoder.blocks.{n}.{name}" for n in range(4) for name in (*layer, *cross)}
    assert names == wanted


def test_openai_sizes(weights: WhisperWeights) -> None:
    assert dimensions(weights) == {
        "n_mels": 80,
        "n_audio_ctx": 1500,
        "n_audio_state": 384,
        "n_audio_head": 6,
        "n_audio_layer": 4,
        "n_vocab": 51864,
        "n_text_ctx": 448,
        "n_text_state": 384,
        "n_text_head": 6,
        "n_text_layer": 4,
    }


def test_openai_checkpoint_holds_the_model(weights: WhisperWeights, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    write_openai(weights, tmp_path / "model.pt")
    found = torch.load(tmp_path / "model.pt", weights_only=True)
    assert found["dims"] == dimensions(weights)
    for name, tensor in openai_tensors(weights):
        np.testing.assert_array_equal(found["model_state_dict"][name].numpy(), tensor)


@pytest.mark.parametrize("package", ["torch", "safetensors"])
def test_missing_package_is_named(
    package: str,
    weights: WhisperWeights,
    models_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [package, f"{package}.numpy"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(EngineMissing, match=r"PyTorch|safetensors") as caught:
        if package == "torch":
            write_openai(weights, tmp_path / "model.pt")
        else:
            write_transformers(weights, models_dir / "tiny.en", tmp_path)
    assert "stenopool[bench]" in caught.value.do
    assert list(tmp_path.iterdir()) == []
