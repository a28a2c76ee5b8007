"""How probable words are after one another: n-gram models in the ARPA format, and KenLM's.

ARPA files are read here. KenLM's binary files, and larger ARPA files, are read by the `kenlm`
package where it is installed. All probabilities are natural logarithms.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, Self

from stenopool.errors import EngineMissing, ModelDamaged
from stenopool.models.files import read_json, regular

ARPA, BINARY, SETTINGS = "scorer.arpa", "scorer.binary", "scorer.json"
LARGEST_ARPA = 50 << 20  # bytes: above, KenLM reads it in a tenth of the memory
BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
MOST_ORDER = 10

_LN10 = math.log(10.0)
_NEVER = -99.0  # what ARPA files say for a probability of 0


class NGrams(Protocol):
    """A model of words. A state is what it remembers of the words so far."""

    def begin(self) -> Any:  # noqa: ANN401
        """The state at the beginning of a sentence."""

    def follow(self, state: Any, word: str) -> tuple[float, Any]:  # noqa: ANN401
        """The log-probability of a word in a state, and the state after it."""

    def knows(self, word: str) -> bool:
        """Whether a word is in its vocabulary."""

    def may_become(self, beginning: str) -> bool:
        """Whether a word of its vocabulary begins so; True where it cannot tell."""


@dataclass(frozen=True, slots=True)
class Weights:
    """What a scorer counts beside the sound.

    Attributes:
        alpha: weight of the model's log-probabilities.
        beta: added for each word, which balances that every word costs probability.
        unknown: added to the log-probability of a word that the model does not know.
    """

    alpha: float = 0.5
    beta: float = 1.5
    unknown: float = -10.0


@dataclass(frozen=True)
class Scorer:
    """An n-gram model and its weights."""

    ngrams: NGrams
    weights: Weights

    @classmethod
    def beside(cls, folder: Path) -> Self | None:
        """The scorer in a model's folder; None where there is none.

        Raises:
            ModelDamaged: it cannot be read.
            EngineMissing: it is for KenLM, which is not installed.
        """
        for name in (BINARY, ARPA):
            if (folder / name).exists():
                return cls(read_ngrams(regular(folder / name)), _weights(folder / SETTINGS))
        return None

    def score(self, state: Any, word: str, *, boosted: bool) -> tuple[float, Any]:  # noqa: ANN401
        """What a word adds to a hypothesis, and the state after it.

        Args:
            boosted: it is a hot word, which may be new.
        """
        found, after = self.ngrams.follow(state, word)
        if not boosted and not self.ngrams.knows(word):
            found += self.weights.unknown
        return self.weights.alpha * found + self.weights.beta, after


def read_ngrams(file: Path) -> NGrams:
    """A model in a file.

    Raises:
        ModelDamaged: the file is no such model.
        EngineMissing: the file needs KenLM, which is not installed.
    """
    if file.suffix == ".binary" or file.stat().st_size > LARGEST_ARPA:
        return KenLM(file)
    return ArpaModel.read(file)


class KenLM:
    """A model that KenLM reads (Heafield 2011)."""

    def __init__(self, file: Path) -> None:
        if find_spec("kenlm") is None:
            raise EngineMissing(
                f"`{file.name}` needs the package `kenlm`",
                do="Run `pip install 'stenopool[scorer]'`, or give a smaller `scorer.arpa`",
            )
        self._kenlm = import_module("kenlm")
        try:
            self._model = self._kenlm.Model(str(file))
        except (OSError, RuntimeError) as error:
            raise _damaged(file, f"KenLM cannot read it: {error}") from error

    def begin(self) -> Any:  # noqa: ANN401
        state = self._kenlm.State()
        self._model.BeginSentenceWrite(state)
        return state

    def follow(self, state: Any, word: str) -> tuple[float, Any]:  # noqa: ANN401
        after = self._kenlm.State()
        return self._model.BaseScore(state, word, after) * _LN10, after

    def knows(self, word: str) -> bool:
        return word in self._model

    def may_become(self, beginning: str) -> bool:
        return True


class ArpaModel:
    """A model in memory.

    Args:
        order: words of the longest n-grams.
        table: log-probability and back-off weight of each n-gram.
    """

    def __init__(self, order: int, table: dict[tuple[str, ...], tuple[float, float]]) -> None:
        self.order = order
        self.table = table
        self._unknown = table.get((UNKNOWN,), (_NEVER * _LN10, 0.0))
        words = {gram[0] for gram in table if len(gram) == 1}
        self._beginnings = {word[:end] for word in words for end in range(1, len(word) + 1)}

    @classmethod
    def read(cls, file: Path) -> Self:
        """A model in an ARPA file.

        Raises:
            ModelDamaged: names the line that is wrong.
        """
        table: dict[tuple[str, ...], tuple[float, float]] = {}
        order = 0
        try:
            with file.open(encoding="utf-8") as lines:
                for gram, probability, backoff in _entries(file, lines):
                    table[gram] = probability * _LN10, backoff * _LN10
                    order = max(order, len(gram))
        except (OSError, UnicodeDecodeError) as error:
            raise _damaged(file, f"it cannot be read: {error}") from error
        if not order:
            raise _damaged(file, "it has no n-grams")
        return cls(order, table)

    def begin(self) -> tuple[str, ...]:
        return (BEGIN,)

    def follow(self, state: tuple[str, ...], word: str) -> tuple[float, tuple[str, ...]]:
        known = word if (word,) in self.table else UNKNOWN
        after = (*state, known)[-(self.order - 1) :] if self.order > 1 else ()
        cost = 0.0
        for begin in range(len(state)):
            context = state[begin:]
            found = self.table.get((*context, known))
            if found is not None:
                return cost + found[0], after
            cost += self.table.get(context, (0.0, 0.0))[1]
        return cost + self.table.get((known,), self._unknown)[0], after

    def knows(self, word: str) -> bool:
        return word != UNKNOWN and (word,) in self.table

    def may_become(self, beginning: str) -> bool:
        return beginning in self._beginnings


def _entries(file: Path, lines: Iterator[str]) -> Iterator[tuple[tuple[str, ...], float, float]]:
    """Each n-gram with its common logarithms of probability and back-off weight."""
    order = 0
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if text == "\\end\\":
            return
        if text.startswith("\\") and text.endswith("-grams:"):
            said = text[1 : -len("-grams:")]
            if not said.isdecimal() or int(said) != order + 1 or order >= MOST_ORDER:
                raise _damaged(file, f"line {number} is `{text[:40]}`")
            order += 1
        elif text and order:
            yield _entry(file, number, text, order)
    raise _damaged(file, "it is cut off: there is no `\\end\\`")


def _entry(file: Path, number: int, text: str, order: int) -> tuple[tuple[str, ...], float, float]:
    fields = text.split()
    try:
        probability = float(fields[0])
        backoff = float(fields[order + 1]) if len(fields) == order + 2 else 0.0
    except ValueError:
        probability = backoff = math.nan
    whole = len(fields) in (order + 1, order + 2)
    if not whole or not math.isfinite(probability) or not math.isfinite(backoff) or probability > 0:
        raise _damaged(file, f"line {number} is no {order}-gram")
    return tuple(fields[1 : order + 1]), probability, backoff


def _weights(file: Path) -> Weights:
    if not file.exists():
        return Weights()
    said = read_json(file)
    try:
        found = Weights(**{name: float(value) for name, value in said.items()})
    except (TypeError, ValueError) as error:
        raise _damaged(file, f"it is not `{json.dumps({'alpha': 0.5, 'beta': 1.5})}`") from error
    if not all(map(math.isfinite, (found.alpha, found.beta, found.unknown))):
        raise _damaged(file, "it has a number that is none")
    return found


def _damaged(file: Path, what: str) -> ModelDamaged:
    return ModelDamaged(
        f"`{file.name}` is no scorer: {what}", do="Build it again with `steno data scorer`"
    )
