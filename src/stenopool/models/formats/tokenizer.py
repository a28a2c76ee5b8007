"""A `tokenizer.json` for models that come with less: words alone, or `vocab.json` and merges.

Whisper's tokens are those of GPT-2 (English) or a vocabulary made in the same way, followed by
commands, languages and timestamps (Radford et al. 2022, section 2.3).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise

from stenopool.errors import ModelDamaged
from stenopool.models.formats.special import TIMESTAMPS, TOKENIZER, byte_of_character

# In the order of their ids.
_CODES = (
    "en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no th "
    "ur hr bg lt la mi ml cy sk te fa lv bn sr az sl kn et mk br eu is hy ne mn bs kk sq sw gl mr "
    "pa si km sn yo so af oc ka be tg sd gu am yi lo uz fo ht ps tk nn mt sa lb my bo tl mg as tt "
    "haw ln ha ba jw su yue"
)
LANGUAGES = _CODES.split()
_AFTER_LANGUAGES = (
    "<|translate|>",
    "<|transcribe|>",
    "<|startoflm|>",
    "<|startofprev|>",
    "<|nospeech|>",
    "<|notimestamps|>",
)
_LANGUAGES_OF = {51864: 99, 51865: 99, 51866: 100}  # by the size of the vocabulary
_LONGEST_WORD = 256  # bytes; the longest in GPT-2 has 128


def special_ids(vocabulary: int) -> dict[str, int]:
    """The tokens that are no words, but for the timestamps, by the size of a vocabulary.

    Raises:
        ModelDamaged: no published model has this size.
    """
    if vocabulary not in _LANGUAGES_OF:
        raise ModelDamaged(
            f"nothing says what the {vocabulary} tokens of this model are",
            do=f"Put the model's `{TOKENIZER}` beside it",
        )
    languages = [f"<|{code}|>" for code in LANGUAGES[: _LANGUAGES_OF[vocabulary]]]
    names = ["<|endoftext|>", "<|startoftranscript|>", *languages, *_AFTER_LANGUAGES]
    first = vocabulary - TIMESTAMPS - len(names)
    return {name: first + place for place, name in enumerate(names)}


def tokenizer_of_words(words: Sequence[bytes], vocabulary: int) -> bytes:
    """The content of a `tokenizer.json`.

    Args:
        words: the bytes of each token that is text, in the order in which they were learnt.
        vocabulary: rows of the token embedding.

    Raises:
        ModelDamaged: no published model has this size, or these are no such words.
    """
    special = special_ids(vocabulary)
    known = words[: special["<|endoftext|>"]]
    if max(map(len, known), default=0) > _LONGEST_WORD:
        raise ModelDamaged("a word of the model is too long to be one", do="Download it again")
    shown = {byte: character for character, byte in byte_of_character().items()}
    spelt = ["".join(shown[byte] for byte in word) for word in known]
    ids = {text: number for number, text in enumerate(spelt) if text}
    return tokenizer_json(ids, merges_of(spelt), special)


def merges_of(words: Sequence[str]) -> list[tuple[str, str]]:
    """Which two words each longer word was made of, in their order.

    A word was learnt from the two parts that the words before it leave of its characters.
    """
    rank = {word: place for place, word in enumerate(words) if word}
    merges = []
    for place, word in enumerate(words):
        if len(word) > 1:
            parts = _parted(word, rank, place)
            if len(parts) == 2:
                merges.append((parts[0], parts[1]))
    return merges


def _parted(word: str, rank: Mapping[str, int], below: int) -> list[str]:
    """Byte-pair encoding of a word with the words before it."""
    parts = list(word)
    while len(parts) > 2:
        pairs = [rank.get(a + b, below) for a, b in pairwise(parts)]
        lowest = min(pairs)
        if lowest >= below:
            break
        at = pairs.index(lowest)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def tokenizer_json(
    words: Mapping[str, int], merges: Sequence[tuple[str, str]], special: Mapping[str, int]
) -> bytes:
    """The content of a `tokenizer.json` as the package `tokenizers` reads it."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    byte_level = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": text, **flags, "special": True}
            for text, number in sorted(special.items(), key=lambda item: item[1])
        ],
        "normalizer": None,
        "pre_tokenizer": {**byte_level, "add_prefix_space": False},
        "post_processor": None,
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "vocab": dict(words),
            "merges": [f"{first} {second}" for first, second in merges],
        },
    }
    return json.dumps(document, ensure_ascii=False).encode()
