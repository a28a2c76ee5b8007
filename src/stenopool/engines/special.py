"""The tokens that are commands to Whisper, from a model's `tokenizer.json`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stenopool.errors import ModelDamaged
from stenopool.models.weights import Generation

_LANGUAGE = re.compile(r"<\|([a-z]{2,3})\|>")


@dataclass(frozen=True, slots=True)
class Special:
    """Token ids that decoding needs to know; those of text are all below `end`."""

    start: int
    end: int
    no_speech: int
    no_timestamps: int
    languages: dict[str, int]
    suppressed: tuple[int, ...]
    suppressed_first: tuple[int, ...]

    @property
    def first_timestamp(self) -> int:
        return self.no_timestamps + 1


def special_tokens(folder: Path, generation: Generation) -> Special:
    """The special tokens of a model.

    Raises:
        ModelDamaged: the tokenizer is not Whisper's.
    """
    with _reading(folder) as tokenizer:
        ids = _added(tokenizer)
        languages = {match[1]: ids[name] for name in ids if (match := _LANGUAGE.fullmatch(name))}
        multilingual = "<|en|>" in ids and ids["<|endoftext|>"] != 50256
        return Special(
            start=ids["<|startoftranscript|>"],
            end=ids["<|endoftext|>"],
            no_speech=ids["<|nospeech|>" if "<|nospeech|>" in ids else "<|nocaptions|>"],
            no_timestamps=ids["<|notimestamps|>"],
            languages=languages if multilingual else {},
            suppressed=generation.suppress,
            suppressed_first=generation.suppress_first,
        )


def token_ids(folder: Path) -> dict[str, int]:
    """All tokens of a model, with the spellings of its tokenizer.

    Raises:
        ModelDamaged: the tokenizer is not Whisper's.
    """
    with _reading(folder) as tokenizer:
        return {**tokenizer["model"]["vocab"], **_added(tokenizer)}


def _added(tokenizer: dict[str, Any]) -> dict[str, int]:
    return {str(token["content"]): int(token["id"]) for token in tokenizer["added_tokens"]}


@contextmanager
def _reading(folder: Path) -> Iterator[dict[str, Any]]:
    """A model's tokenizer; what is not found in it is an error of the model."""
    try:
        yield json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ModelDamaged(
            f"`tokenizer.json` is not Whisper's: {error!r}",
            do="Pull the model again with `steno models pull NAME --force`",
        ) from error
