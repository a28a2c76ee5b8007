"""The names that OpenAI's code gives to a model's tensors, and the checkpoint that it reads.

Source of names and fields: `whisper/model.py` of openai/whisper.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stenopool.errors import ModelDamaged
from stenopool.files import fill_whole
from stenopool.models.formats.checkpoint import write_checkpoint
from stenopool.models.formats.model import FLOAT16, FLOAT32, Whisper
from stenopool.models.formats.pickles import Described, described
from stenopool.models.formats.records import refused, stored_records
from stenopool.models.weights import (
    AUDIO_POSITIONS,
    Generation,
    Stored,
    Tensor,
    WhisperWeights,
    assembled,
    from_bfloat16,
)

PRECISIONS = (FLOAT16, FLOAT32)
_TYPES = {"float16": "<f2", "float32": "<f4", "bfloat16": "<u2"}
_DO = "Download the checkpoint again, or export it again"

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
_INNER_BACK = {openai: theirs for theirs, openai in _INNER.items()}


def openai_tensors(weights: WhisperWeights) -> Iterator[tuple[str, Tensor]]:
    """Each tensor with its name in OpenAI's code; the arrays are the same."""
    for name, tensor in weights.tensors.items():
        yield openai_name(name), tensor


def openai_name(name: str) -> str:
    """The name in OpenAI's code of a tensor of Transformers."""
    name = name.removeprefix("model.")
    side, part, rest = name.split(".", 2)
    if part == "layers":
        layer, inner = rest.split(".", 1)
        module, _, kind = inner.rpartition(".")
        return f"{side}.blocks.{layer}.{_INNER[module]}.{kind}"
    for theirs, openai in _OUTER.items():
        if name == theirs or name.startswith(f"{theirs}."):
            return openai + name.removeprefix(theirs)
    return name


def transformers_name(name: str) -> str:
    """The name in Transformers of a tensor of OpenAI's code; of others, some name."""
    side, _, rest = name.partition(".")
    part, _, within = rest.partition(".")
    if part == "blocks":
        layer, _, inner = within.partition(".")
        module, _, kind = inner.rpartition(".")
        return f"model.{side}.layers.{layer}.{_INNER_BACK.get(module, module)}.{kind}"
    for theirs, openai in _OUTER.items():
        if name == openai or name.startswith(f"{openai}."):
            return f"model.{theirs}{name.removeprefix(openai)}"
    return f"model.{name}"


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


def write_openai(whisper: Whisper, file: Path, precision: str | None = None) -> None:
    """Write the checkpoint that `whisper.load_model` reads; PyTorch is not needed for it.

    Args:
        precision: `float16` or `float32`; `None` leaves each tensor as it is.

    Raises:
        UnsupportedOption: float16 cannot hold the model's numbers.
        OutputError: the file cannot be written.
    """
    if precision:
        whisper = whisper.in_precision(precision)
    weights = whisper.weights
    named = {openai_name(name): stored for name, stored in weights.stored().items()}
    sizes = dimensions(weights)
    fill_whole(file, lambda target: write_checkpoint(target, sizes, named))


def read_openai(file: Path) -> WhisperWeights:
    """The weights in such a checkpoint, of which nothing is run; it says nothing of decoding.

    Raises:
        ModelDamaged: it is no such checkpoint, or holds more than tensors.
    """
    records = stored_records(file)
    lists = [name for name in records if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(lists) != 1:
        raise refused(file.name, "it has no list of tensors")
    root = lists[0].removesuffix("data.pkl")
    if bytes(records.get(f"{root}byteorder", b"little")[:10]) != b"little":
        raise refused(file.name, "its numbers are big-endian")
    said = described(bytes(records[lists[0]][: 1 << 25]), file.name)
    state = said.get("model_state_dict") if isinstance(said, dict) else None
    if not isinstance(state, dict):
        raise refused(file.name, "it has no `model_state_dict`, as OpenAI's checkpoints have")
    stored = {
        transformers_name(name): _stored(one, records, root, file.name)
        for name, one in state.items()
        if isinstance(one, Described)
    }
    weights = assembled(stored, Generation((), (), ()), _DO)
    _check(said.get("dims"), weights)
    return weights


def _stored(said: Described, records: Mapping[str, memoryview], root: str, name: str) -> Stored:
    """A tensor that a pickle describes, if the archive has its numbers."""
    data = records.get(f"{root}data/{said.storage.key}")
    if said.storage.kind not in _TYPES or data is None:
        raise refused(name, "a tensor's numbers are missing, or of a type that no model has")
    kind = np.dtype(_TYPES[said.storage.kind])
    reach = sum((size - 1) * step for size, step in zip(said.size, said.stride, strict=True))
    overlapping = any(
        step == 0 for size, step in zip(said.size, said.stride, strict=True) if size > 1
    )
    if 0 in said.size or overlapping or (said.offset + reach + 1) * kind.itemsize > len(data):
        raise refused(name, "a tensor does not lie within its numbers")

    def load() -> Tensor:
        flat: Tensor = np.frombuffer(data, kind, reach + 1, said.offset * kind.itemsize)
        steps = [step * kind.itemsize for step in said.stride]
        view = np.lib.stride_tricks.as_strided(flat, said.size, steps, writeable=False)
        return from_bfloat16(view) if said.storage.kind == "bfloat16" else view

    return Stored(said.size, load)


def _check(dims: Any, weights: WhisperWeights) -> None:  # noqa: ANN401  as the file has it
    """The sizes that the checkpoint names are those of its tensors."""
    for name, size in dimensions(weights).items():
        if not isinstance(dims, dict) or dims.get(name) != size:
            raise ModelDamaged(f"its tensors do not have the sizes that `{name}` says", do=_DO)
