"""The folder that Transformers reads: `model.safetensors`, its configuration and its tokens.

Source of the fields: `WhisperConfig`, `WhisperFeatureExtractor` and the published models.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from stenopool.audio import SAMPLE_RATE
from stenopool.audio.features import FFT_SAMPLES, HOP_SAMPLES, WINDOW_FRAMES, WINDOW_SAMPLES
from stenopool.errors import EngineMissing
from stenopool.files import output_error, write_whole
from stenopool.models.formats.special import SpecialTokens, special_tokens
from stenopool.models.weights import AUDIO_POSITIONS, WhisperWeights

_LATEST_FIRST_TIMESTAMP = 50  # of 0.02 s: a window's text begins in its first second


def write_transformers(weights: WhisperWeights, source: Path, target: Path) -> None:
    """Write a model that `WhisperForConditionalGeneration.from_pretrained` reads.

    Args:
        weights: of the model.
        source: folder with its `tokenizer.json`.
        target: an existing folder.

    Raises:
        EngineMissing: the package `safetensors` is not installed.
        ModelDamaged: the tokenizer is not that of a Whisper model.
        OutputError: the folder cannot be written to.
    """
    try:
        from safetensors.numpy import save_file
    except ImportError as error:
        raise EngineMissing(
            "writing Transformers' format needs the package `safetensors`",
            do="Run `pip install 'stenopool[bench]'`",
        ) from error
    tokens = special_tokens(source, weights.shape.vocabulary)
    documents = {
        "config.json": _model(weights, tokens),
        "generation_config.json": _generation(weights, tokens),
        "preprocessor_config.json": _preprocessor(weights),
        "tokenizer_config.json": _tokenizer(tokens),
    }
    for name, document in documents.items():
        write_whole(target / name, json.dumps(document, indent=2) + "\n")
    # A file of memory-mapped tensors cannot be written without a copy of those that are not whole.
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in weights.tensors.items()}
    try:
        shutil.copyfile(source / "tokenizer.json", target / "tokenizer.json")
        save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    except OSError as error:
        raise output_error(target, error) from error


def _model(weights: WhisperWeights, tokens: SpecialTokens) -> dict[str, object]:
    shape = weights.shape
    inner = len(weights.tensors["model.encoder.layers.0.fc1.bias"])
    sides: dict[str, object] = {}
    for side, layers in (("encoder", shape.encoder_layers), ("decoder", shape.decoder_layers)):
        sides |= {
            f"{side}_layers": layers,
            f"{side}_attention_heads": shape.heads,
            f"{side}_ffn_dim": inner,
        }
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "is_encoder_decoder": True,
        "activation_function": "gelu",
        "vocab_size": shape.vocabulary,
        "num_mel_bins": shape.mel_bins,
        "d_model": shape.width,
        "num_hidden_layers": shape.encoder_layers,
        **sides,
        "max_source_positions": AUDIO_POSITIONS,
        "max_target_positions": shape.text_positions,
        "scale_embedding": False,
        "tie_word_embeddings": True,
        "use_cache": True,
        "torch_dtype": str(weights.tensors["model.decoder.embed_tokens.weight"].dtype),
        **_borders(tokens),
    }


def _borders(tokens: SpecialTokens) -> dict[str, object]:
    return {
        "bos_token_id": tokens.end,
        "eos_token_id": tokens.end,
        "pad_token_id": tokens.end,
        "decoder_start_token_id": tokens.start,
    }


def _generation(weights: WhisperWeights, tokens: SpecialTokens) -> dict[str, object]:
    said = weights.generation
    config: dict[str, object] = {
        **_borders(tokens),
        "alignment_heads": [list(head) for head in said.alignment_heads],
        "begin_suppress_tokens": list(said.suppress_first),
        "suppress_tokens": list(said.suppress),
        "is_multilingual": bool(tokens.languages),
        "max_initial_timestamp_index": _LATEST_FIRST_TIMESTAMP,
        "max_length": weights.shape.text_positions,
        "no_timestamps_token_id": tokens.no_timestamps,
        "prev_sot_token_id": tokens.previous,
        "return_timestamps": False,
    }
    if not config["alignment_heads"]:
        del config["alignment_heads"]  # Transformers takes an empty list for heads
    if tokens.languages:
        config["lang_to_id"] = {f"<|{code}|>": number for code, number in tokens.languages.items()}
        config["task_to_id"] = {"transcribe": tokens.transcribe, "translate": tokens.translate}
    return config


def _preprocessor(weights: WhisperWeights) -> dict[str, object]:
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "processor_class": "WhisperProcessor",
        "feature_size": weights.shape.mel_bins,
        "sampling_rate": SAMPLE_RATE,
        "n_fft": FFT_SAMPLES,
        "hop_length": HOP_SAMPLES,
        "chunk_length": WINDOW_SAMPLES // SAMPLE_RATE,
        "n_samples": WINDOW_SAMPLES,
        "nb_max_frames": WINDOW_FRAMES,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
    }


def _tokenizer(tokens: SpecialTokens) -> dict[str, object]:
    end = "<|endoftext|>"
    return {
        "tokenizer_class": "WhisperTokenizer",
        "processor_class": "WhisperProcessor",
        "bos_token": end,
        "eos_token": end,
        "pad_token": end,
        "unk_token": end,
        "add_prefix_space": False,
        "errors": "replace",
        "return_attention_mask": False,
        "model_max_length": 1024,
    }
