"""The symbols that a CTC model writes, as Transformers' `Wav2Vec2CTCTokenizer` keeps them."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from stenopool.models.files import damaged, read_json

VOCABULARY = "vocab.json"
_TOKENIZER = "tokenizer_config.json"
_ADDED = "added_tokens.json"
_LONGEST_SYMBOL = 50  # characters
_SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
_PLAIN = str.maketrans({"’": "'", "‘": "'", "`": "'", "‐": "-", "‑": "-", "–": "-", "—": "-"})


@dataclass(frozen=True)
class Alphabet:
    """What each column of the emissions stands for.

    Attributes:
        symbols: text by id; empty for the blank, the delimiter and special tokens.
        blank: id that stands for no symbol.
        delimiter: id that ends a word; `None` where each symbol is a word of its own, as in
            languages that are written without spaces.
    """

    symbols: tuple[str, ...]
    blank: int
    delimiter: int | None

    @classmethod
    def read(cls, folder: Path, size: int, blank: int) -> Self:
        """The alphabet of a model.

        Args:
            folder: with `vocab.json` and `tokenizer_config.json`.
            size: symbols that the model knows.
            blank: id of its padding token.

        Raises:
            ModelDamaged: a file is missing or damaged, or an id has no symbol, or two.
        """
        said = read_json(folder / _TOKENIZER)
        special = {kind: _text(said.get(kind, usual)) for kind, usual in _SPECIAL.items()}
        numbers = _numbers(folder)
        names: dict[int, str] = {}
        for name, number in numbers.items():
            if number in names:
                raise damaged(f"`{VOCABULARY}` gives the id {number} to two symbols")
            names[number] = name
        for number in range(size):
            if number not in names:
                raise damaged(
                    f"`{VOCABULARY}` has no symbol for the id {number}, and the model has {size}"
                )
        if numbers.get(special["pad_token"], blank) != blank:
            raise damaged(f"the padding token of `{VOCABULARY}` is not that of `config.json`")
        delimiter = numbers.get(_text(said.get("word_delimiter_token", "|")))
        delimiter = delimiter if delimiter is not None and delimiter < size else None
        silent = {blank, delimiter, *(numbers.get(one) for one in special.values())}
        lower = bool(said.get("do_lower_case", False))
        return cls(
            tuple(
                "" if number in silent else _cased(names[number], lower=lower)
                for number in range(size)
            ),
            blank,
            delimiter,
        )

    @cached_property
    def silent(self) -> tuple[int, ...]:
        """Ids besides the blank and the delimiter that write nothing."""
        spoken = {self.blank, self.delimiter}
        return tuple(n for n, symbol in enumerate(self.symbols) if not symbol and n not in spoken)

    @cached_property
    def _ids(self) -> Mapping[str, int]:
        found: dict[str, int] = {}
        for number, symbol in enumerate(self.symbols):
            if symbol:
                found.setdefault(symbol, number)
        return found

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._ids), default=1)

    def spelled(self, word: str) -> list[int]:
        """Ids of a word's characters; what the alphabet lacks is left out.

        Case is that of the alphabet, where it has only one.
        """
        text = unicodedata.normalize("NFKC", word).translate(_PLAIN)
        found: list[int] = []
        at = 0
        while at < len(text):
            for length in range(min(self._longest, len(text) - at), 0, -1):
                number = self._id(text[at : at + length])
                if number is not None:
                    found.append(number)
                    break
            at += length
        return found

    def _id(self, text: str) -> int | None:
        for form in (text, text.lower(), text.upper()):
            if form in self._ids:
                return self._ids[form]
        return None

    def text(self, ids: Sequence[int]) -> str:
        """What ids write."""
        return "".join(self.symbols[number] for number in ids)

    def normalised(self, text: str) -> str:
        """A text in the symbols of this alphabet, words parted by spaces."""
        words = (self.text(self.spelled(word)) for word in text.split())
        return " ".join(word for word in words if word)


def _numbers(folder: Path) -> dict[str, int]:
    vocabulary = read_json(folder / VOCABULARY)
    if any(isinstance(value, dict) for value in vocabulary.values()):
        raise damaged(f"`{VOCABULARY}` is of several languages: save the model with one of them")
    added = read_json(folder / _ADDED) if (folder / _ADDED).exists() else {}
    for name, number in {**vocabulary, **added}.items():
        whole = isinstance(number, int) and not isinstance(number, bool)
        if not whole or number < 0 or len(name) > _LONGEST_SYMBOL:
            raise damaged(f"`{VOCABULARY}` gives `{name[:_LONGEST_SYMBOL]}` no id")
    return {**vocabulary, **added}


def _text(said: Any) -> str:  # noqa: ANN401  whatever the file holds
    """A token, which may be written as an object with its `content`."""
    found = said.get("content") if isinstance(said, dict) else said
    if found is None:
        return ""
    if not isinstance(found, str):
        raise damaged(f"`{_TOKENIZER}` has a token that is no text")
    return found


def _cased(symbol: str, *, lower: bool) -> str:
    return symbol.lower() if lower else symbol
