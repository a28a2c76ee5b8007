"""The tokens that are commands to Whisper, from a model's `tokenizer.json`."""

from __future__ import annotations

import json
import re
from pathlib import Path

from stenopool.engines.openvino.search import Special
from stenopool.errors import ModelDamaged
from stenopool.models.weights import Generation

_LANGUAGE = re.compile(r"<\|([a-z]{2,3})\|>")


def special_tokens(folder: Path, generation: Generation) -> Special:
    """The special tokens of a model.

    Raises:
        ModelDamaged: the tokenizer is not Whisper's.
    """
    try:
        tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        ids = {str(token["content"]): int(token["id"]) for token in tokenizer["added_tokens"]}
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
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ModelDamaged(
            f"`tokenizer.json` is not Whisper's: {error!r}",
            do="Pull the model again with `steno models pull NAME --force`",
        ) from error
