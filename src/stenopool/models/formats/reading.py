"""Which format a folder or file is in, and the model in it."""

from __future__ import annotations

from pathlib import Path

from stenopool.errors import ModelDamaged
from stenopool.models.catalogue import CATALOGUE
from stenopool.models.files import WHISPER, is_folder, model_type, read_json, regular
from stenopool.models.formats.ctranslate2 import TOKENIZER, read_ctranslate2
from stenopool.models.formats.ggml import MAGIC
from stenopool.models.formats.ggml_reader import is_ggml_quantised, read_ggml
from stenopool.models.formats.model import Whisper
from stenopool.models.formats.non_speech import suppressed
from stenopool.models.formats.openai import read_openai
from stenopool.models.formats.special import TIMESTAMPS, special_tokens
from stenopool.models.formats.tokenizer import tokenizer_of_words
from stenopool.models.formats.transformers import GENERATION
from stenopool.models.formats.transformers import WEIGHTS as SAFETENSORS
from stenopool.models.formats.transformers_reader import (
    INDEX,
    generation_of,
    read_tokenizer,
    read_transformers,
)
from stenopool.models.weights import Generation, WhisperWeights
from stenopool.settings import settings

OPENAI_FILE, GGML_FILE = "model.pt", "ggml-model.bin"
_ZIP = b"PK\x03\x04"
_GGML = MAGIC.to_bytes(4, "little")


def read_whisper_weights(path: Path) -> WhisperWeights:
    """The weights of a model; see `read_whisper`."""
    if is_folder(path) and foreign(path) is None:
        return read_ctranslate2(path)
    return read_whisper(path).weights


def read_whisper(path: Path) -> Whisper:
    """The model in a folder of CTranslate2 or Transformers, or in a checkpoint or file.

    Raises:
        ModelDamaged: the files are not those of a Whisper model.
    """
    found = foreign(path)
    if found is None:
        tokenizer = read_tokenizer(path / TOKENIZER)
        return Whisper(read_ctranslate2(path), tokenizer)
    if is_folder(found):
        return Whisper(*read_transformers(found))
    if _begins(found, _ZIP):
        weights = read_openai(found)
        tokenizer = _tokenizer_for(weights, found)
    else:
        weights, words = read_ggml(found)
        tokenizer = _tokenizer_like(weights, words, found)
    said = _generation(weights, tokenizer, found)
    whole = Whisper(WhisperWeights(weights.shape, said, weights.tensors), tokenizer)
    special_tokens(whole.tokenizer, weights.shape.vocabulary)
    return whole


def foreign(path: Path) -> Path | None:
    """The folder or file of a model that is not CTranslate2's; `None` if it is, or none is known.

    A folder that `steno models export` wrote stands for the file in it.
    """
    if is_folder(path):
        whole = any((path / name).exists() for name in (SAFETENSORS, INDEX))
        for name in () if whole else (OPENAI_FILE, GGML_FILE):
            if foreign(path / name):
                return regular(path / name)
        return path if model_type(path) == WHISPER else None
    return path if _begins(path, _ZIP) or _begins(path, _GGML) else None


def is_quantised(path: Path) -> bool:
    """Whether a foreign model has weights of fewer bits than numbers of floating point."""
    return _begins(path, _GGML) and is_ggml_quantised(path)


def source_files(path: Path) -> list[Path]:
    """All files that a foreign model is made of, those that may be missing left out.

    Raises:
        ModelDamaged: one of them is a link that leads out of the folder.
    """
    if is_folder(path):
        index = read_json(path / INDEX) if (path / INDEX).exists() else {}
        shards = index.get("weight_map")
        names = (
            {Path(str(name)).name for name in shards.values()} if isinstance(shards, dict) else ()
        )
        wanted = ["config.json", GENERATION, TOKENIZER, SAFETENSORS, INDEX, *sorted(names)]
        wanted += ["vocab.json", "merges.txt", "added_tokens.json"]
        return [regular(path / name) for name in wanted if (path / name).exists()]
    beside = [path.with_name(TOKENIZER), path.with_name(GENERATION)]
    return [path, *(regular(file) for file in beside if file.exists())]


def _begins(file: Path, magic: bytes) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(len(magic)) == magic
    except (OSError, ValueError):
        return False


def _tokenizer_for(weights: WhisperWeights, file: Path) -> bytes:
    """What stands beside a checkpoint, or that of a pulled model with the same tokens.

    Raises:
        ModelDamaged: there is neither.
    """
    if file.with_name(TOKENIZER).exists():
        return read_tokenizer(file.with_name(TOKENIZER))
    for name in CATALOGUE:
        beside = settings().models_dir / name / TOKENIZER
        if beside.exists() and _fits(read_tokenizer(beside), weights.shape.vocabulary):
            return read_tokenizer(beside)
    raise ModelDamaged(
        f"`{file.name}` does not say what its {weights.shape.vocabulary} tokens are",
        do=f"Put the model's `{TOKENIZER}` beside it, or pull `tiny.en` (English) or `base`",
    )


def _fits(tokenizer: bytes, vocabulary: int) -> bool:
    """Whether its timestamps end where the vocabulary does."""
    try:
        return special_tokens(tokenizer, vocabulary).no_timestamps + TIMESTAMPS + 1 == vocabulary
    except ModelDamaged:
        return False


def _tokenizer_like(weights: WhisperWeights, words: list[bytes], file: Path) -> bytes:
    """What stands beside a file if it has the same words; else it is made of them."""
    vocabulary = weights.shape.vocabulary
    if file.with_name(TOKENIZER).exists():
        beside = read_tokenizer(file.with_name(TOKENIZER))
        ours = special_tokens(beside, vocabulary).words
        if list(ours) == words[: len(ours)]:
            return beside
    return tokenizer_of_words(words, vocabulary)


def _generation(weights: WhisperWeights, tokenizer: bytes, file: Path) -> Generation:
    beside = file.with_name(GENERATION)
    if beside.exists():
        return generation_of(beside, weights.shape, tokenizer)
    return suppressed(tokenizer, weights.shape.vocabulary)
