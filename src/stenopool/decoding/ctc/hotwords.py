"""Words to listen for: a hypothesis is worth more for each one in it, and for its beginning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from stenopool.decoding.ctc.alphabet import Alphabet
from stenopool.errors import UsageError

BOOST = 8.0  # natural logarithm: as much as a character of a third of a thousandth
MOST_BOOST = 100.0


@dataclass(frozen=True)
class HotWords:
    """Boosts of words.

    Attributes:
        boosts: by the word, in the symbols of the alphabet.
        beginnings: of each beginning of a word, the boost that it has earned so far.
    """

    boosts: Mapping[str, float]
    beginnings: Mapping[str, float]

    @classmethod
    def of(cls, text: str, alphabet: Alphabet) -> Self:
        """As an option says them: words, parted by spaces or commas, each may end in `:boost`.

        Raises:
            UsageError: a boost is out of bounds, or a word has no character of the alphabet.
        """
        boosts: dict[str, float] = {}
        for given in text.replace(",", " ").split():
            word, boost = _parted(given)
            known = alphabet.normalised(word)
            if not known:
                raise UsageError(
                    f"the model cannot write the hot word `{word}`",
                    do="Spell it in the characters of its vocabulary",
                )
            boosts[known] = boost
        beginnings: dict[str, float] = {}
        for word, boost in boosts.items():
            for end in range(1, len(word) + 1):
                share = boost * end / len(word)
                beginnings[word[:end]] = max(share, beginnings.get(word[:end], -MOST_BOOST))
        return cls(boosts, beginnings)

    def __bool__(self) -> bool:
        return bool(self.boosts)


def _parted(given: str) -> tuple[str, float]:
    word, colon, number = given.rpartition(":")
    if not colon or not word:
        return given, BOOST
    try:
        boost = float(number)
    except ValueError:
        return given, BOOST
    if not -MOST_BOOST <= boost <= MOST_BOOST:
        raise UsageError(
            f"the boost of the hot word `{word}` is {number}",
            do=f"Give -{MOST_BOOST:g} to {MOST_BOOST:g}",
        )
    return word, boost
