"""Reads the folder that Transformers writes for a Whisper model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from stenopool.errors import ModelDamaged
from stenopool.models.files import CONFIG, WHISPER, read_json, regular
from stenopool.models.formats.non_speech import suppressed
from stenopool.models.formats.special import TOKENIZER
from stenopool.models.formats.tokenizer import special_ids, tokenizer_json
from stenopool.models.formats.transformers import GENERATION, WEIGHTS
from stenopool.models.safetensors import read_safetensors
from stenopool.models.weights import (
    AUDIO_POSITIONS,
    HEAD_WIDTH,
    Generation,
    Stored,
    Tensor,
    WhisperShape,
    WhisperWeights,
    assembled,
)

INDEX = "model.safetensors.index.json"
_MOST_SHARDS = 1000
_MOST_TOKENIZER_BYTES = 50_000_000
_DO = "Save it with `model.save_pretrained(folder, safe_serialization=True)`, or copy it again"


def read_transformers(folder: Path) -> tuple[WhisperWeights, bytes]:
    """The weights in a folder, and the content of its `tokenizer.json`.

    Raises:
        ModelDamaged: a file is missing, damaged, leads out of the folder, or says what cannot be.
    """
    config = read_json(folder / CONFIG)
    tensors = _tensors(folder)
    stored = {name: Stored.of(one) for name, one in tensors.items() if one.dtype.kind == "f"}
    weights = assembled(stored, Generation((), (), ()), _DO)
    _check(config, weights.shape)
    tokenizer = _tokenizer(folder, weights.shape.vocabulary)
    said = generation_of(folder / GENERATION, weights.shape, tokenizer)
    return WhisperWeights(weights.shape, said, weights.tensors), tokenizer


def _tensors(folder: Path) -> dict[str, Tensor]:
    """Of one file, or of the several that an index names."""
    if (folder / WEIGHTS).exists() or (folder / WEIGHTS).is_symlink():
        return read_safetensors(regular(folder / WEIGHTS))
    if (folder / INDEX).exists():
        found: dict[str, Tensor] = {}
        for name in _shards(read_json(folder / INDEX)):
            found |= read_safetensors(regular(folder / name))
        return found
    what = f"`{folder.name}` has no `{WEIGHTS}`"
    if (folder / "pytorch_model.bin").exists():
        what += ", and `pytorch_model.bin` could run any code"
    raise ModelDamaged(what, do=_DO)


def _shards(index: Mapping[str, Any]) -> list[str]:
    places = index.get("weight_map")
    names = sorted(set(map(str, places.values()))) if isinstance(places, dict) else []
    plain = all(Path(name).name == name and name.endswith(".safetensors") for name in names)
    if not 0 < len(names) <= _MOST_SHARDS or not plain:
        raise ModelDamaged(f"`{INDEX}` does not name files of the folder", do=_DO)
    return names


def _check(config: Mapping[str, Any], shape: WhisperShape) -> None:
    """What the configuration says is what the tensors are."""
    wanted = {
        "model_type": WHISPER,
        "d_model": shape.width,
        "num_mel_bins": shape.mel_bins,
        "vocab_size": shape.vocabulary,
        "encoder_layers": shape.encoder_layers,
        "decoder_layers": shape.decoder_layers,
        "encoder_attention_heads": shape.width // HEAD_WIDTH,
        "decoder_attention_heads": shape.width // HEAD_WIDTH,
        "max_source_positions": AUDIO_POSITIONS,
        "max_target_positions": shape.text_positions,
        "activation_function": "gelu",
        "scale_embedding": False,
        "tie_word_embeddings": True,
    }
    for name, value in wanted.items():
        if config.get(name, value) != value:
            raise ModelDamaged(
                f"`{name}` of `{CONFIG}` is `{str(config[name])[:40]}`, and the model's is "
                f"`{value}`",
                do=_DO,
            )


def generation_of(file: Path, shape: WhisperShape, tokenizer: bytes) -> Generation:
    """What a `generation_config.json` says, or what the paper's code does where there is none.

    Raises:
        ModelDamaged: it is no such file.
    """
    if not (file.exists() or file.is_symlink()):
        return suppressed(tokenizer, shape.vocabulary)
    config = read_json(file)
    try:
        return Generation(
            suppress=_ids(config.get("suppress_tokens"), shape.vocabulary),
            suppress_first=_ids(config.get("begin_suppress_tokens"), shape.vocabulary),
            alignment_heads=_heads(config.get("alignment_heads"), shape),
        )
    except (ValueError, TypeError) as error:
        raise ModelDamaged(f"`{file.name}` says what cannot be: {error}", do=_DO) from error


def _ids(said: Iterable[object] | None, vocabulary: int) -> tuple[int, ...]:
    return tuple(_number(one, vocabulary) for one in said or ())


def _heads(said: Iterable[Any] | None, shape: WhisperShape) -> tuple[tuple[int, int], ...]:
    return tuple(
        (_number(layer, shape.decoder_layers), _number(head, shape.heads))
        for layer, head in said or ()
    )


def _number(value: object, below: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < below:
        raise ValueError(f"{str(value)[:20]} is not below {below}")
    return value


def _tokenizer(folder: Path, vocabulary: int) -> bytes:
    if (folder / TOKENIZER).exists() or (folder / TOKENIZER).is_symlink():
        return read_tokenizer(folder / TOKENIZER)
    if (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
        return _put_together(folder, vocabulary)
    raise ModelDamaged(f"`{folder.name}` has no `{TOKENIZER}`", do=f"Copy `{TOKENIZER}` into it")


def read_tokenizer(file: Path) -> bytes:
    """The content of a `tokenizer.json`.

    Raises:
        ModelDamaged: it is missing, too long, or a link that leads out of its folder.
    """
    try:
        if regular(file).stat().st_size > _MOST_TOKENIZER_BYTES:
            raise ModelDamaged(f"`{file.name}` is too long to be a model's", do=_DO)
        return file.read_bytes()
    except OSError as error:
        raise ModelDamaged(f"`{file.name}` cannot be read: {error.strerror}", do=_DO) from error


def _put_together(folder: Path, vocabulary: int) -> bytes:
    """Of the files of the slow tokenizer."""
    words = read_json(folder / "vocab.json")
    added = special_ids(vocabulary)
    if (folder / "added_tokens.json").exists():
        added = read_json(folder / "added_tokens.json")
    try:
        lines = read_tokenizer(folder / "merges.txt").decode().split("\n")
        pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
        merges = [(first, second) for first, second in pairs]
        numbers = [{str(text): int(one) for text, one in ids.items()} for ids in (words, added)]
        return tokenizer_json(numbers[0], merges, numbers[1])
    except (ValueError, TypeError, OverflowError, json.JSONDecodeError) as error:
        raise ModelDamaged("`vocab.json` or `merges.txt` is damaged", do=_DO) from error
