"""The names that OpenAI's code gives to a model's tensors, and its checkpoint.

Source of names and fields: `whisper/model.py` of openai/whisper.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stenopool.errors import EngineMissing
from stenopool.models.weights import AUDIO_POSITIONS, Tensor, WhisperWeights

_OUTER = {
    "encoder.embed_positions.weight": "encoder.positional_embedding",
    "encoder.layer_norm": "encoder.ln_post",
    "decoder.embed_positions.weight": "decoder.positional_embedding",
    "decoder.embed_tokens": "decoder.token_embedding",
    "decoder.layer_norm": "decoder.ln",
}
_INNER = {
    "self_attn.q_proj": "attn.query",
    "self_attn.k_proj": "attn.key",
    "self_attn.v_proj": "attn.value",
    "self_attn.out_proj": "attn.out",
    "self_attn_layer_norm": "attn_ln",
    "encoder_attn.q_proj": "cross_attn.query",
    "encoder_attn.k_proj": "cross_attn.key",
    "encoder_attn.v_proj": "cross_attn.value",
    "encoder_attn.out_proj": "cross_attn.out",
    "encoder_attn_layer_norm": "cross_attn_ln",
    "fc1": "mlp.0",
    "fc2": "mlp.2",
    "final_layer_norm": "mlp_ln",
}


def openai_tensors(weights: WhisperWeights) -> Iterator[tuple[str, Tensor]]:
    """Each tensor with its name in OpenAI's code; the arrays are the same."""
    for name, tensor in weights.tensors.items():
        yield _renamed(name.removeprefix("model.")), tensor


def _renamed(name: str) -> str:
    side, part, rest = name.split(".", 2)
    if part == "layers":
        layer, inner = rest.split(".", 1)
        module, _, kind = inner.rpartition(".")
        return f"{side}.blocks.{layer}.{_INNER[module]}.{kind}"
    for theirs, openai in _OUTER.items():
        if name == theirs or name.startswith(f"{theirs}."):
            return openai + name.removeprefix(theirs)
    return name


def dimensions(weights: WhisperWeights) -> dict[str, int]:
    """The sizes as OpenAI's `ModelDimensions` names them."""
    shape = weights.shape
    return {
        "n_mels": shape.mel_bins,
        "n_audio_ctx": AUDIO_POSITIONS,
        "n_audio_state": shape.width,
        "n_audio_head": shape.heads,
        "n_audio_layer": shape.encoder_layers,
        "n_vocab": shape.vocabulary,
        "n_text_ctx": shape.text_positions,
        "n_text_state": shape.width,
        "n_text_head": shape.heads,
        "n_text_layer": shape.decoder_layers,
    }


def write_openai(weights: WhisperWeights, file: Path) -> None:
    """Write the checkpoint that `whisper.load_model` reads, with the weights as they are.

    Raises:
        EngineMissing: PyTorch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise EngineMissing(
            "writing OpenAI's format needs PyTorch", do="Run `pip install 'stenopool[bench]'`"
        ) from error
    tensors = {name: torch.tensor(tensor) for name, tensor in openai_tensors(weights)}
    torch.save({"dims": dimensions(weights), "model_state_dict": tensors}, file)
