"""What other projects' formats say of a Whisper model's tokens, read from its `tokenizer.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stenopool.errors import ModelDamaged

_FIRST_MULTILINGUAL = 51865  # tokens; English-only models have one less
_NO_SPEECH = ("<|nospeech|>", "<|nocaptions|>")  # two names of one token


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Token ids of one model.

    Attributes:
        end: end of text; all ids below are text.
        start: start of transcript; then come the languages.
        languages: id of each language code; empty for English-only models.
        words: the bytes of each id below `end`; empty where the vocabulary has none.
    """

    end: int
    start: int
    translate: int
    transcribe: int
    start_of_model: int
    previous: int
    no_speech: int
    no_timestamps: int
    languages: dict[str, int]
    words: tuple[bytes, ...]


def special_tokens(folder: Path, vocabulary: int) -> SpecialTokens:
    """The tokens of the model in a folder.

    Args:
        folder: holds `tokenizer.json`.
        vocabulary: rows of the token embedding.

    Raises:
        ModelDamaged: it is not the tokenizer of a Whisper model.
    """
    file = folder / "tokenizer.json"
    try:
        return _read(json.loads(file.read_text(encoding="utf-8")), vocabulary)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ModelDamaged(
            f"`{file.name}` is not the tokenizer of a Whisper model: {error}",
            do="Pull the model again with `steno models pull NAME --force`",
        ) from error


def _read(tokenizer: dict[str, Any], vocabulary: int) -> SpecialTokens:
    added = {token["content"]: int(token["id"]) for token in tokenizer["added_tokens"]}
    start, translate, end = (
        added[name] for name in ("<|startoftranscript|>", "<|translate|>", "<|endoftext|>")
    )
    if not 0 < end < start < translate < vocabulary:
        raise ValueError("its special tokens are not where a model of this size has them")
    spoken = {text[2:-2]: number for text, number in added.items() if start < number < translate}
    return SpecialTokens(
        end=end,
        start=start,
        translate=translate,
        transcribe=added["<|transcribe|>"],
        start_of_model=added["<|startoflm|>"],
        previous=added["<|startofprev|>"],
        no_speech=added[_NO_SPEECH[0] if _NO_SPEECH[0] in added else _NO_SPEECH[1]],
        no_timestamps=added["<|notimestamps|>"],
        languages=spoken if vocabulary >= _FIRST_MULTILINGUAL else {},
        words=_words(tokenizer["model"]["vocab"], end),
    )


def _words(vocabulary: dict[str, int], end: int) -> tuple[bytes, ...]:
    byte_of = _byte_of_character()
    words = [b""] * end
    for text, number in vocabulary.items():
        if 0 <= number < end:
            words[number] = bytes(byte_of[character] for character in text)
    return tuple(words)


def _byte_of_character() -> dict[str, int]:
    """Byte-level BPE writes each byte as one printable character (Radford et al. 2019): the
    printable ones of Latin-1 as themselves, the others in order from U+0100.
    """
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = (byte for byte in range(0x100) if byte not in shown)
    moved = {chr(0x100 + place): byte for place, byte in enumerate(hidden)}
    return {chr(byte): byte for byte in shown} | moved
