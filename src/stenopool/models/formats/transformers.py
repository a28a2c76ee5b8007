"""The folder that Transformers reads: `model.safetensors`, its configuration and its tokens.

Source of the fields: `WhisperConfig`, `WhisperFeatureExtractor` and the published models.
"""

from __future__ import annotations

import json
from pathlib import Path

from stenopool.files import fill_whole, write_whole
from stenopool.models.formats.model import FLOAT16, FLOAT32, Whisper
from stenopool.models.formats.preprocessor import preprocessor
from stenopool.models.formats.safetensors import write_safetensors
from stenopool.models.formats.special import TOKENIZER, SpecialTokens
from stenopool.models.weights import AUDIO_POSITIONS, inner_width

WEIGHTS, GENERATION = "model.safetensors", "generation_config.json"
PRECISIONS = (FLOAT16, FLOAT32)

_LATEST_FIRST_TIMESTAMP = 50  # of 0.02 s: a window's text begins in its first second


def write_transformers(whisper: Whisper, folder: Path, precision: str | None = None) -> None:
    """Write a model that `WhisperForConditionalGeneration.from_pretrained` reads, and Candle.

    Args:
        folder: is there already.
        precision: `float16` or `float32`; `None` leaves each tensor as it is.

    Raises:
        ModelDamaged: the tokenizer is not that of a Whisper model.
        UnsupportedOption: float16 cannot hold the model's numbers.
        OutputError: the folder cannot be written to.
    """
    if precision:
        whisper = whisper.in_precision(precision)
    write_documents(whisper, folder)
    tensors = whisper.weights.tensors
    fill_whole(folder / WEIGHTS, lambda file: write_safetensors(file, tensors))


def write_documents(whisper: Whisper, folder: Path) -> None:
    """Write all but the weights.

    Raises:
        ModelDamaged: the tokenizer is not that of a Whisper model.
        OutputError: the folder cannot be written to.
    """
    documents = {
        "config.json": _model(whisper),
        GENERATION: generation(whisper),
        "preprocessor_config.json": preprocessor(whisper.weights.shape),
        "tokenizer_config.json": _tokenizer(),
    }
    for name, document in documents.items():
        write_whole(folder / name, json.dumps(document, indent=2) + "\n")
    write_whole(folder / TOKENIZER, whisper.tokenizer)


def _model(whisper: Whisper) -> dict[str, object]:
    weights, tokens = whisper.weights, whisper.tokens
    shape, inner = weights.shape, inner_width(weights)
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
        "torch_dtype": whisper.precision,
        # Candle looks for these here.
        "suppress_tokens": list(weights.generation.suppress),
        "begin_suppress_tokens": list(weights.generation.suppress_first),
        **_borders(tokens),
    }


def _borders(tokens: SpecialTokens) -> dict[str, object]:
    return {
        "bos_token_id": tokens.end,
        "eos_token_id": tokens.end,
        "pad_token_id": tokens.end,
        "decoder_start_token_id": tokens.start,
    }


def generation(whisper: Whisper) -> dict[str, object]:
    """The content of `generation_config.json`."""
    weights, tokens = whisper.weights, whisper.tokens
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


def _tokenizer() -> dict[str, object]:
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
