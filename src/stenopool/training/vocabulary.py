"""The characters that a CTC model writes, as `vocab.json` of Transformers has them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path

from stenopool.errors import InputUnreadable, UsageError

DELIMITER, UNKNOWN, BLANK = "|", "[UNK]", "[PAD]"
UNKNOWNS, BLANKS = (UNKNOWN, "<unk>"), (BLANK, "<pad>")  # ours, and those of other models
LARGEST = 1 << 24  # bytes


class Vocabulary:
    """Characters and their numbers.

    Args:
        numbers: of each token, from 0 without holes; `|`, `[UNK]` (or `<unk>`) and `[PAD]` (or
            `<pad>`), which is the blank, are among them.
        where: what to name in errors.

    Raises:
        UsageError: the numbers have holes, or one of the three is missing.
    """

    def __init__(self, numbers: Mapping[str, int], where: str = "the vocabulary") -> None:
        if sorted(numbers.values()) != list(range(len(numbers))):
            raise UsageError(
                f"{where}: its numbers are not 0 to {len(numbers) - 1}",
                do="Number the tokens from 0, each once",
            )
        wanted = ((DELIMITER,), UNKNOWNS, BLANKS)
        missing = [names[0] for names in wanted if not set(names) & numbers.keys()]
        if missing:
            raise UsageError(f"{where}: it has no {' and no '.join(missing)}", do="Add them")
        self.unknown = next(one for one in UNKNOWNS if one in numbers)
        self.pad = next(one for one in BLANKS if one in numbers)
        self.numbers = dict(sorted(numbers.items(), key=lambda one: one[1]))

    @classmethod
    def of(cls, texts: Iterable[str]) -> Vocabulary:
        """The vocabulary of texts: their characters in the order of Unicode, then the three."""
        letters = sorted({letter for text in texts for letter in text} - {" ", DELIMITER})
        return cls({one: at for at, one in enumerate([*letters, DELIMITER, UNKNOWN, BLANK])})

    @classmethod
    def read(cls, path: Path) -> Vocabulary:
        """A `vocab.json`.

        Raises:
            InputUnreadable, UsageError: by name.
        """
        try:
            with path.open("rb") as file:
                found = json.loads(file.read(LARGEST))
        except OSError as error:
            raise InputUnreadable(
                f"cannot read `{path}`: {error.strerror}", do="Check the path"
            ) from error
        except (ValueError, RecursionError) as error:
            raise UsageError(
                f"`{path}` is no JSON: {error!s:.200}", do='Write {"a": 0, "b": 1, …}'
            ) from error
        good = isinstance(found, dict) and all(type(one) is int for one in found.values())
        if not good:
            raise UsageError(f"`{path}` is no vocabulary", do='Write {"a": 0, "b": 1, …}')
        return cls(found, f"`{path}`")

    @property
    def blank(self) -> int:
        return self.numbers[self.pad]

    def __len__(self) -> int:
        return len(self.numbers)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and other.numbers == self.numbers

    def __hash__(self) -> int:
        return hash(tuple(self.numbers))

    def labels(self, text: str) -> tuple[int, ...]:
        """The numbers of a text's characters; those that are not in it are `[UNK]`."""
        unknown = self.numbers[self.unknown]
        known = {**self.numbers, " ": self.numbers[DELIMITER]}
        known.pop(DELIMITER)  # in a text it would be a letter that looks like a space
        return tuple(known.get(letter, unknown) for letter in text)

    def outside(self, text: str) -> list[str]:
        """The characters of a text that cannot be written with it."""
        letters = dict.fromkeys(text.replace(" ", ""))
        return [one for one in letters if one == DELIMITER or one not in self.numbers]

    def document(self) -> str:
        """`vocab.json`."""
        return json.dumps(self.numbers, ensure_ascii=False, indent=2) + "\n"


def frames_needed(labels: tuple[int, ...]) -> int:
    """Frames that CTC needs for a text: one a label, and a blank between two that are the same."""
    repeats = sum(one == other for one, other in pairwise(labels))
    return len(labels) + repeats
