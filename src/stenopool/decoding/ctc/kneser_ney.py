"""Estimates an n-gram model from text: interpolated, modified Kneser-Ney smoothing.

After Chen and Goodman 1998 ("An empirical study of smoothing techniques for language modeling",
section 3): an n-gram counts as often as it was seen, a shorter one by how many words it was seen
after; from each count a discount is taken, which goes to the next shorter n-grams. What is
interpolated can be written with back-off weights, so the result is an ordinary ARPA file.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from stenopool.decoding.ctc.scorer import BEGIN, END, MOST_ORDER, UNKNOWN
from stenopool.errors import UsageError

Gram = tuple[str, ...]

USUAL_DISCOUNTS = (0.5, 1.0, 1.5)  # where there is too little text to estimate them
_NEVER = -99.0
_RESERVED = frozenset({BEGIN, END, UNKNOWN})


@dataclass(frozen=True)
class Model:
    """Probabilities of n-grams, and the back-off weights of those that others begin with.

    Attributes:
        probabilities: by n-gram; those of one context and all that backs off from it sum to 1.
        backoffs: of contexts.
    """

    order: int
    probabilities: dict[Gram, float]
    backoffs: dict[Gram, float]

    def arpa(self) -> Iterator[str]:
        """Lines of an ARPA file."""
        by_order: list[list[Gram]] = [[] for _ in range(self.order)]
        for gram in self.probabilities:
            by_order[len(gram) - 1].append(gram)
        yield "\\data\\\n"
        for length, grams in enumerate(by_order, start=1):
            yield f"ngram {length}={len(grams)}\n"
        for length, grams in enumerate(by_order, start=1):
            yield f"\n\\{length}-grams:\n"
            for gram in sorted(grams):
                chance = self.probabilities[gram]
                shown = math.log10(chance) if chance else _NEVER
                weight = self.backoffs.get(gram)
                tail = f"\t{math.log10(weight):.7g}" if weight else ""
                yield f"{shown:.7g}\t{' '.join(gram)}{tail}\n"
        yield "\n\\end\\\n"


def estimated(sentences: Iterable[Sequence[str]], order: int = 3) -> Model:
    """The model of a text.

    Args:
        sentences: lists of words.
        order: words of the longest n-grams, 1 to 10.

    Raises:
        UsageError: there is no word, or the order is out of bounds.
    """
    if not 1 <= order <= MOST_ORDER:
        raise UsageError(f"the order is {order}", do=f"Give 1 to {MOST_ORDER}")
    counts = _counts(sentences, order)
    if not counts[0]:
        raise UsageError("the text has no word", do="Give a text with words")
    words = {gram[0] for gram in counts[0]} | {END}
    chances: dict[Gram, float] = {}
    backoffs: dict[Gram, float] = {}
    chances |= _unigrams(counts[0], words)
    for length in range(2, order + 1):
        _add(chances, backoffs, counts[length - 1])
    chances[(BEGIN,)] = 0.0
    return Model(order, chances, backoffs)


def _counts(sentences: Iterable[Sequence[str]], order: int) -> list[Counter[Gram]]:
    """By length, how much each n-gram counts."""
    seen: list[Counter[Gram]] = [Counter() for _ in range(order)]
    for sentence in sentences:
        words = [word for word in sentence if word and word not in _RESERVED]
        if not words:
            continue
        padded = (BEGIN, *words, END)
        for length in range(1, order + 1):
            grams = zip(*(padded[begin:] for begin in range(length)), strict=False)
            seen[length - 1].update(grams)
    adjusted: list[Counter[Gram]] = []
    for shorter, longer in pairwise(seen):
        after: Counter[Gram] = Counter(gram[1:] for gram in longer)  # each n-gram counts once
        # Nothing comes before the beginning of a sentence: what begins there counts as seen.
        after.update({gram: n for gram, n in shorter.items() if gram[0] == BEGIN})
        adjusted.append(after)
    adjusted.append(seen[-1])
    adjusted[0].pop((BEGIN,), None)
    return adjusted


def _discounts(counts: Counter[Gram]) -> tuple[float, float, float]:
    """What is taken from counts of 1, of 2, and of 3 and more."""
    of = Counter(min(count, 5) for count in counts.values())
    if not (of[1] and of[2] and of[3] and of[4]):
        return USUAL_DISCOUNTS
    share = of[1] / (of[1] + 2 * of[2])
    found = tuple(n - (n + 1) * share * of[n + 1] / of[n] for n in (1, 2, 3))
    if not all(0 < discount < n for n, discount in enumerate(found, start=1)):
        return USUAL_DISCOUNTS
    return found[0], found[1], found[2]


def _unigrams(counts: Counter[Gram], words: set[str]) -> dict[Gram, float]:
    """Of the words and the unknown one, which has an equal share of what is discounted."""
    discounts = _discounts(counts)
    total = sum(counts.values())
    taken = sum(min(discounts[min(n, 3) - 1], n) for n in counts.values()) / total
    share = taken / (len(words) + 1)
    chances: dict[Gram, float] = {(UNKNOWN,): share}
    for word in words:
        count = counts[(word,)]
        own = max(0.0, count - discounts[min(count, 3) - 1]) / total if count else 0.0
        chances[(word,)] = own + share
    return chances


def _add(chances: dict[Gram, float], backoffs: dict[Gram, float], counts: Counter[Gram]) -> None:
    """The n-grams of the next length; the probabilities of shorter ones are there."""
    discounts = _discounts(counts)
    totals: Counter[Gram] = Counter()
    taken: defaultdict[Gram, float] = defaultdict(float)
    for gram, count in counts.items():
        totals[gram[:-1]] += count
        taken[gram[:-1]] += min(discounts[min(count, 3) - 1], count)
    for context, total in totals.items():
        backoffs[context] = taken[context] / total
    for gram, count in counts.items():
        context = gram[:-1]
        own = max(0.0, count - discounts[min(count, 3) - 1]) / totals[context]
        chances[gram] = own + backoffs[context] * chances[gram[1:]]
