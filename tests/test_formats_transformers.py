"""Transformers' folder and OpenAI's checkpoint, read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from stenopool.models.formats.model import Whisper
from stenopool.models.formats.openai import dimensions, openai_tensors, write_openai
from stenopool.models.formats.reading import read_whisper
from stenopool.models.formats.transformers import write_transformers
from stenopool.models.safetensors import read_safetensors
from stenopool.models.weights import WhisperWeights


@pytest.fixture(scope="module")
def whisper(models_dir: Path) -> Whisper:
    return read_whisper(models_dir / "tiny.en")


@pytest.fixture(scope="module")
def weights(whisper: Whisper) -> WhisperWeights:
    return whisper.weights


def read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def test_transformers_folder_holds_the_model(
    whisper: Whisper, models_dir: Path, tmp_path: Path
) -> None:
    weights = whisper.weights
    numpy_files = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    write_transformers(whisper, tmp_path)
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


def test_openai_checkpoint_holds_the_model(whisper: Whisper, tmp_path: Path) -> None:
    weights = whisper.weights
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    write_openai(whisper, tmp_path / "model.pt")
    found = torch.load(tmp_path / "model.pt", weights_only=True)
    assert found["dims"] == dimensions(weights)
    for name, tensor in openai_tensors(weights):
        np.testing.assert_array_equal(found["model_state_dict"][name].numpy(), tensor)


def test_candle_finds_what_its_loader_asks_for(whisper: Whisper, tmp_path: Path) -> None:
    """Source: `models/whisper/model.rs` and `mod.rs` of candle-transformers."""
    write_transformers(whisper, tmp_path)
    config = read(tmp_path / "config.json")
    fields = ["num_mel_bins", "max_source_positions", "d_model", "vocab_size"]
    fields += ["encoder_attention_heads", "encoder_layers", "max_target_positions"]
    fields += ["decoder_attention_heads", "decoder_layers"]
    assert all(isinstance(config[name], int) and config[name] > 0 for name in fields)
    assert all(isinstance(token, int) and token >= 0 for token in config["suppress_tokens"])
    width, layers = config["d_model"], {"encoder": 4, "decoder": 4}
    wanted: dict[str, tuple[int, ...]] = {
        "model.encoder.conv1.weight": (width, config["num_mel_bins"], 3),
        "model.encoder.conv2.weight": (width, width, 3),
        "model.decoder.embed_tokens.weight": (config["vocab_size"], width),
        "model.decoder.embed_positions.weight": (config["max_target_positions"], width),
    }
    for side, count in layers.items():
        for number in range(count):
            name = f"model.{side}.layers.{number}"
            wanted[f"{name}.fc1.weight"] = (4 * width, width)  # it takes four times the width
            wanted[f"{name}.fc2.weight"] = (width, 4 * width)
            for attention in ("self_attn", "encoder_attn")[: 1 + (side == "decoder")]:
                for kind in "qkv":
                    wanted[f"{name}.{attention}.{kind}_proj.weight"] = (width, width)
                wanted[f"{name}.{attention}.out_proj.bias"] = (width,)
                wanted[f"{name}.{attention}_layer_norm.weight"] = (width,)
            wanted[f"{name}.final_layer_norm.bias"] = (width,)
        wanted[f"model.{side}.layer_norm.weight"] = (width,)
    found = read_safetensors(tmp_path / "model.safetensors")
    assert {name: found[name].shape for name in wanted} == wanted
    tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    commands = ["startoftranscript", "transcribe", "translate", "notimestamps", "endoftext"]
    assert None not in [tokenizer.token_to_id(f"<|{name}|>") for name in commands]
    silences = [tokenizer.token_to_id(f"<|{name}|>") for name in ("nocaptions", "nospeech")]
    assert silences != [None, None]
