"""Special tokens, as other projects' formats name them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stenopool.errors import ModelDamaged
from stenopool.models.formats.special import special_tokens

ENGLISH, MULTILINGUAL = 51864, 51865


def test_tokens_of_an_english_model(models_dir: Path) -> None:
    tokens = special_tokens((models_dir / "tiny.en" / "tokenizer.json").read_bytes(), ENGLISH)
    assert (tokens.end, tokens.start, tokens.no_timestamps) == (50256, 50257, 50362)
    assert (tokens.translate, tokens.transcribe) == (50357, 50358)
    assert (tokens.start_of_model, tokens.previous, tokens.no_speech) == (50359, 50360, 50361)
    assert tokens.languages == {}
    assert len(tokens.words) == 50256
    assert tokens.every[50363:50365] == ("<|0.00|>", "<|0.02|>")
    assert tokens.every[-1] == "<|30.00|>"


def test_languages_are_of_multilingual_models(models_dir: Path) -> None:
    tokenizer = json.loads((models_dir / "tiny.en" / "tokenizer.json").read_text())
    for token in tokenizer["added_tokens"]:
        token["id"] += 1  # as in multilingual models
        token["content"] = token["content"].replace("nocaptions", "nospeech")
    tokenizer["model"]["vocab"]["<|endoftext|>"] = 50257  # and nothing is 50256
    tokens = special_tokens(json.dumps(tokenizer).encode(), MULTILINGUAL)
    assert len(tokens.languages) == 99
    assert (tokens.languages["en"], tokens.languages["su"]) == (50259, 50357)
    assert (tokens.no_speech, tokens.words[50256]) == (50362, b"")


def token(content: str, number: int) -> dict[str, Any]:
    return {"content": content, "id": number}


@pytest.mark.parametrize(
    "tokenizer",
    [
        [],
        {},
        {"added_tokens": [], "model": {"vocab": {}}},
        {"added_tokens": [{"content": "<|endoftext|>"}], "model": {"vocab": {}}},
        {
            "added_tokens": [
                token("<|endoftext|>", 10**12),
                token("<|startoftranscript|>", 10**12 + 1),
                token("<|translate|>", 10**12 + 2),
            ],
            "model": {"vocab": {}},
        },
    ],
)
def test_other_files_are_refused(tokenizer: object) -> None:
    with pytest.raises(ModelDamaged, match="tokenizer"):
        special_tokens(json.dumps(tokenizer).encode(), ENGLISH)


def test_word_with_letters_that_stand_for_no_byte_is_refused(models_dir: Path) -> None:
    tokenizer = json.loads((models_dir / "tiny.en" / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["日"] = 7
    with pytest.raises(ModelDamaged):
        special_tokens(json.dumps(tokenizer).encode(), ENGLISH)


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"\xff"])
def test_what_is_not_json_is_refused(content: bytes) -> None:
    with pytest.raises(ModelDamaged, match=r"tokenizer\.json"):
        special_tokens(content, ENGLISH)
