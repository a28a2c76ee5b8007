"""Whisper models for training: a teacher from its weights, a student from the teacher."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from stenopool.decoding.tokens import Vocabulary
from stenopool.errors import ModelDamaged, UsageError
from stenopool.models.formats.model import Whisper
from stenopool.models.formats.special import TOKENIZER, SpecialTokens
from stenopool.models.weights import (
    AUDIO_POSITIONS,
    Generation,
    Tensor,
    WhisperShape,
    WhisperWeights,
    inner_width,
)
from stenopool.training.labels import TOKENIZER_DIGITS

if TYPE_CHECKING:
    import torch

OUTPUT = "proj_out.weight"  # the same as the embedding
EMBEDDING = "model.decoder.embed_tokens.weight"
_DECODER = "model.decoder.layers."


@dataclass(frozen=True, slots=True)
class Teacher:
    """A model that is learned from.

    Attributes:
        sha256: of its weights.
        tokenizer: first digits of the SHA-256 of its `tokenizer.json`.
    """

    name: str
    sha256: str
    whisper: Whisper
    vocabulary: Vocabulary
    tokenizer: str

    @classmethod
    def of(cls, name: str, sha256: str, whisper: Whisper) -> Teacher:
        """A teacher, of whatever format.

        Raises:
            ModelDamaged: its tokenizer is none of Whisper's.
        """
        digest = hashlib.sha256(whisper.tokenizer).hexdigest()
        with TemporaryDirectory(prefix="stenopool-") as folder:
            file = Path(folder) / TOKENIZER
            file.write_bytes(whisper.tokenizer)
            return cls(name, sha256, whisper, Vocabulary(file), digest[:TOKENIZER_DIGITS])

    @property
    def weights(self) -> WhisperWeights:
        return self.whisper.weights

    @property
    def tokens(self) -> SpecialTokens:
        return self.whisper.tokens


def spaced(teacher: int, student: int) -> tuple[int, ...]:
    """Which of a teacher's layers a student takes: the first, the last, and evenly between.

    Raises:
        UsageError: the teacher does not have so many.
    """
    if not 1 <= student <= teacher:
        raise UsageError(
            f"the teacher has {teacher} decoder layers, so the student cannot have {student}",
            do=f"Give `--decoder-layers` from 1 to {teacher}",
        )
    if student == 1:
        return (0,)
    return tuple(round(at * (teacher - 1) / (student - 1)) for at in range(student))


def shortened(weights: WhisperWeights, layers: Sequence[int]) -> WhisperWeights:
    """The weights with these layers of the decoder only."""
    places = {layer: place for place, layer in enumerate(layers)}
    tensors: dict[str, Tensor] = {}
    for name, tensor in weights.tensors.items():
        if not name.startswith(_DECODER):
            tensors[name] = tensor
            continue
        number, _, rest = name.removeprefix(_DECODER).partition(".")
        if int(number) in places:
            tensors[f"{_DECODER}{places[int(number)]}.{rest}"] = tensor
    heads = weights.generation.alignment_heads
    kept = tuple((places[layer], head) for layer, head in heads if layer in places)
    return WhisperWeights(
        replace(weights.shape, decoder_layers=len(layers)),
        replace(weights.generation, alignment_heads=kept),
        tensors,
    )


def torch_model(weights: WhisperWeights, tokens: SpecialTokens) -> Any:  # noqa: ANN401
    """A `WhisperForConditionalGeneration` with these weights in float32; it does not learn yet.

    Raises:
        ModelDamaged: the tensors are not those of such a model.
    """
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    with torch.device("meta"):  # no memory and no random numbers for what is replaced
        model: Any = WhisperForConditionalGeneration(WhisperConfig(**_config(weights, tokens)))
    tensors = {
        name: torch.from_numpy(np.array(tensor, dtype=np.float32))
        for name, tensor in weights.tensors.items()
    }
    tensors[OUTPUT] = tensors[EMBEDDING]
    try:
        model.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as error:
        raise ModelDamaged(
            f"the tensors are not those of a Whisper model: {error!s:.300}",
            do="Pull the model again with `steno models pull NAME --force`",
        ) from error
    model.tie_weights()
    model.requires_grad_(False)
    return model.eval()


def numpy_weights(
    tensors: Mapping[str, torch.Tensor], shape: WhisperShape, generation: Generation
) -> WhisperWeights:
    """What was trained, for those who write formats; float32."""
    found = {
        name: tensor.detach().float().cpu().numpy()
        for name, tensor in tensors.items()
        if name != OUTPUT
    }
    return WhisperWeights(shape, generation, found)


def _config(weights: WhisperWeights, tokens: SpecialTokens) -> dict[str, Any]:
    shape = weights.shape
    inner = inner_width(weights)
    return {
        "vocab_size": shape.vocabulary,
        "num_mel_bins": shape.mel_bins,
        "d_model": shape.width,
        "encoder_layers": shape.encoder_layers,
        "decoder_layers": shape.decoder_layers,
        "encoder_attention_heads": shape.heads,
        "decoder_attention_heads": shape.heads,
        "encoder_ffn_dim": inner,
        "decoder_ffn_dim": inner,
        "max_source_positions": AUDIO_POSITIONS,
        "max_target_positions": shape.text_positions,
        "dropout": 0.0,
        "tie_word_embeddings": True,
        "use_cache": False,
        "pad_token_id": tokens.end,
        "bos_token_id": tokens.end,
        "eos_token_id": tokens.end,
        "decoder_start_token_id": tokens.start,
        "suppress_tokens": None,
        "begin_suppress_tokens": None,
    }
