"""What other projects' formats say of a Whisper model's tokens, read from its `tokenizer.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from stenopool.errors import ModelDamaged

TOKENIZER = "tokenizer.json"
SECONDS_PER_TIMESTAMP = 0.02
TIMESTAMPS = 1501  # from 0.00 to 30.00 s

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
        every: how the vocabulary writes each id, the timestamps included.
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
    every: tuple[str, ...]


def special_tokens(tokenizer: bytes, vocabulary: int) -> SpecialTokens:
    """The tokens of a model.

    Args:
        tokenizer: content of its `tokenizer.json`.
        vocabulary: rows of the token embedding.

    Raises:
        ModelDamaged: it is not the tokenizer of a Whisper model.
    """
    try:
        return _read(json.loads(tokenizer), vocabulary)
    except (
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise ModelDamaged(
            f"`{TOKENIZER}` is not the tokenizer of a Whisper model: {error}",
            do="Copy it again from where the model is from",
        ) from error


def _read(tokenizer: dict[str, Any], vocabulary: int) -> SpecialTokens:
    added = {token["content"]: int(token["id"]) for token in tokenizer["added_tokens"]}
    start, translate, end = (
        added[name] for name in ("<|startoftranscript|>", "<|translate|>", "<|endoftext|>")
    )
    if not 0 < end < start < translate < vocabulary:
        raise ValueError("its special tokens are not where a model of this size has them")
    if not translate < added["<|notimestamps|>"] < vocabulary:
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
        every=_every(tokenizer["model"]["vocab"], added, vocabulary),
    )


def _every(words: dict[str, int], added: dict[str, int], vocabulary: int) -> tuple[str, ...]:
    every = [""] * vocabulary
    first = added["<|notimestamps|>"] + 1
    for step, number in enumerate(range(first, min(first + TIMESTAMPS, vocabulary))):
        every[number] = f"<|{step * SECONDS_PER_TIMESTAMP:.2f}|>"
    for text, number in (*words.items(), *added.items()):
        if 0 <= number < vocabulary:
            every[number] = text
    return tuple(every)


def _words(vocabulary: dict[str, int], end: int) -> tuple[bytes, ...]:
    byte_of = byte_of_character()
    words = [b""] * end
    for text, number in vocabulary.items():
        if 0 <= number < end:
            words[number] = bytes(byte_of[character] for character in text)
    return tuple(words)


def byte_of_character() -> dict[str, int]:
    """Byte-level BPE writes each byte as one printable character (Radford et al. 2019): the
    printable ones of Latin-1 as themselves, the others in order from U+0100.
    """
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = (byte for byte in range(0x100) if byte not in shown)
    moved = {chr(0x100 + place): byte for place, byte in enumerate(hidden)}
    return {chr(byte): byte for byte in shown} | moved
