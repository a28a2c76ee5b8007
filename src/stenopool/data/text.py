"""How texts are written in a manifest, and which are no texts of speech."""

from __future__ import annotations

import re
import unicodedata

from stenopool.errors import UnknownName

NONE, LOWER, LETTERS = "none", "lower", "letters"
WAYS = (NONE, LOWER, LETTERS)

_APOSTROPHES = str.maketrans({"\u2019": "'", "\u02bc": "'", "\uff07": "'"})
_MARKUP = re.compile(r"<[^<>]*>|\[[^\[\]]*\]|\{[^{}]*\}")


def check_way(way: str) -> None:
    """Refuse a way to normalise that is not known.

    Raises:
        UnknownName: it is none of `WAYS`.
    """
    if way not in WAYS:
        raise UnknownName(f"unknown normalisation: `{way}`", do=f"Use one of: {', '.join(WAYS)}")


def normalised(text: str, way: str) -> str:
    """The text as it goes into the manifest.

    Args:
        way: `none` composes letters and their marks (NFC) and leaves single spaces; `lower` also
            makes lower case; `letters` also leaves nothing but letters and apostrophes in words.
    """
    composed = unicodedata.normalize("NFC", text)
    if way != NONE:
        composed = composed.lower()
    if way == LETTERS:
        composed = "".join(map(_letter, composed.translate(_APOSTROPHES)))
        composed = " ".join(word.strip("'") for word in composed.split())
    return " ".join(composed.split())


def oddity(text: str, way: str) -> str | None:
    """Why a text as its source has it is no text of speech; `None` if nothing speaks against it."""
    if any(_is_control(one) for one in text):
        return "it has control characters"
    if "\ufffd" in text:
        return "it has characters that were lost (U+FFFD)"
    if _MARKUP.search(text):
        return "it has markup"
    if not any(one.isalpha() for one in text):
        return "it has no letters"
    if way == LETTERS and any(one.isnumeric() for one in text):
        return "it has digits, which are spoken and are no letters"
    return None


def _letter(one: str) -> str:
    if one == "'" or one.isalpha() or unicodedata.category(one).startswith("M"):
        return one
    return " "


def _is_control(one: str) -> bool:
    return unicodedata.category(one) == "Cc" and not one.isspace()
