"""Where text may be cut, and how good a place that is: sentence end, clause, space, character.

A small part of the Unicode line breaking algorithm (UAX #14): spaces, the scripts that are written
without them, and punctuation that may not begin or end a line. There is no dictionary, so Thai,
Lao, Khmer and Burmese words may be cut, but not between a letter and its marks.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len

LINE_COLUMNS = 42  # the limit of broadcast and streaming style guides for Latin script

# Costs of a cut. Sentence ends are free; any other place is dearer than some unevenness.
SENTENCE, CLAUSE, SPACE, CHARACTER = 0.0, 0.4, 1.0, 1.2

_SENTENCE_ENDS = frozenset(".!?…。．！？｡؟۔।॥።၊။།។៕")
_CLAUSE_ENDS = frozenset(",;:–—،؛、，；：､")
_CLOSERS = "\"'”’»›)]}」』】）］｣"
_TITLES = frozenset({"mr.", "mrs.", "ms.", "dr.", "prof.", "st.", "vs.", "e.g.", "i.e."})

# Thai, Lao, Tibetan, Burmese, Khmer, Chinese and Japanese: no spaces between words.
_DENSE = (
    "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u2e80-\u312f\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
)
_DENSE_PIECE = re.compile(f"[{_DENSE}]|[^{_DENSE}]+")

_CLOSING = frozenset({"Pe", "Pf", "Po"})
_OPENING = frozenset({"Ps", "Pi"})
_NEVER_FIRST = _CLOSING | {"Mn", "Mc", "Me", "Pd", "Lm"}  # Lm: ー, 々 and ๆ prolong or repeat
_NEVER_FIRST_LETTERS = frozenset("ぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮヵヶะาำๅະາຳ")
_NEVER_LAST_LETTERS = frozenset("เแโใไເແໂໃໄ\u17d2\u1039")  # vowels written first; conjoining signs


_WIDE_FORM = "\ufe0f"  # without width, but it may widen the character before it


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of text that is never cut."""

    text: str
    columns: int  # on a character grid, at most LINE_COLUMNS
    spaced: bool  # a space stands before it, unless it begins a line


def units(text: str) -> list[Unit]:
    """The units of a text whose white space is single spaces, in order; none for an empty text."""
    found: list[Unit] = []
    for piece, spaced in _pieces(text):
        if found and _sticks(found[-1].text, piece, spaced):
            before = found[-1]
            width = before.columns + spaced + _columns(piece)
            if width <= LINE_COLUMNS:
                found[-1] = Unit(before.text + " " * spaced + piece, width, before.spaced)
                continue
        found.append(Unit(piece, _columns(piece), spaced))
    return found


def join(run: Sequence[Unit]) -> str:
    """The text of consecutive units."""
    return "".join(" " * unit.spaced + unit.text for unit in run).lstrip(" ")


def cut_cost(unit: Unit, following: Unit) -> float:
    """How bad it is to cut between two neighbours: one of the four costs."""
    text = unit.text.rstrip(_CLOSERS) or unit.text
    last = text[-1]
    if following.spaced or not last.isascii():  # `3.5` and `www.example.org` go on
        if last in _SENTENCE_ENDS and not _is_abbreviation(text):
            return SENTENCE
        if last in _CLAUSE_ENDS or text == "-":
            return CLAUSE
    return SPACE if following.spaced else CHARACTER


def _pieces(text: str) -> Iterator[tuple[str, bool]]:
    """Words, or single characters where those are dense or too long; and whether spaced."""
    spaced = False
    for token in text.split():
        for piece in _DENSE_PIECE.findall(token):
            for part in piece if cell_len(piece) > LINE_COLUMNS else (piece,):
                yield part, spaced
                spaced = False
        spaced = True


def _columns(piece: str) -> int:
    return 1 if piece == _WIDE_FORM else cell_len(piece)


def _sticks(before: str, after: str, spaced: bool) -> bool:
    """Whether a line should not end with `before` and the next begin with `after`."""
    if spaced:  # French writes `« Oui ! »`
        return _categories(after) <= _CLOSING or _categories(before) <= _OPENING
    first, last = after[0], before[-1]
    never_first = first in _NEVER_FIRST_LETTERS or _categories(first) & _NEVER_FIRST
    never_last = last in _NEVER_LAST_LETTERS or _categories(last) & _OPENING
    return bool(never_first or never_last or cell_len(first) == 0)


def _categories(text: str) -> set[str]:
    return {unicodedata.category(character) for character in text}


def _is_abbreviation(text: str) -> bool:
    """`Dr.` and `J.` are followed by a name, not by a new sentence."""
    word = text.rpartition(" ")[2].lstrip("([\"'“‘")
    is_initial = len(word) == 2 and word[0].isupper() and word[1] == "."
    return word.lower() in _TITLES or is_initial
