"""Prefix beam search over the emissions, with an n-gram model of words and hot words.

After Hannun et al. 2014 ("First-pass large vocabulary continuous speech recognition using
bi-directional recurrent DNNs", algorithm 1): a hypothesis is a text, whose probability is the sum
over all its paths, kept apart by whether they end in a blank. A word is scored when it is complete;
until then a hot word's beginning counts in part, and a beginning that no known word has counts
against it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import exp, inf, log1p
from typing import Any

import numpy as np

from stenopool.decoding.ctc.alphabet import Alphabet
from stenopool.decoding.ctc.hotwords import HotWords
from stenopool.decoding.ctc.scorer import Scorer
from stenopool.decoding.family import Candidate
from stenopool.engines.ctc import Emissions

LEAST = -7.0  # log-probability of a symbol that is tried
MOST_SYMBOLS = 12  # that are tried in a frame
WORST = 16.0  # of log-probability behind the best hypothesis: given up


@dataclass(slots=True, eq=False)
class _Text:
    """A hypothesis: a node of the tree of all texts.

    Attributes:
        word: characters of the word that is not complete.
        settled: what its complete words add; `extra` what the beginning of the last one does.
        state: what the n-gram model remembers of the complete words.
    """

    before: _Text | None
    symbol: int
    word: str
    settled: float
    extra: float
    state: Any
    after: dict[int, _Text] = field(default_factory=dict)


class BeamSearch:
    """Searches with the same helpers any number of times; safe to use from several threads.

    Args:
        beam_size: hypotheses kept side by side.
        scorer: scores words; `None` counts on the sound alone.
        hot: may be empty.
    """

    def __init__(
        self, alphabet: Alphabet, *, beam_size: int, scorer: Scorer | None, hot: HotWords
    ) -> None:
        self._alphabet = alphabet
        self._beam_size = beam_size
        self._scorer = scorer
        self._hot = hot

    def candidates(self, emissions: Emissions, most: int = 1) -> list[Candidate]:
        """The best texts, the best first."""
        state = self._scorer.ngrams.begin() if self._scorer else None
        root = _Text(None, -1, "", 0.0, 0.0, state)
        beam = {root: (0.0, -inf)}  # log-probability of paths that end in a blank, or do not
        for blank, symbols in self._frames(emissions):
            beam = self._pruned(self._extended(beam, blank, symbols))
        found: dict[str, Candidate] = {}
        for text, (quiet, loud) in beam.items():
            one = self._finished(text, _sum(quiet, loud))
            # One text may be there twice: with and without a delimiter at its end.
            kept = found.get(one.text)
            found[one.text] = one if kept is None else _both(one, kept)
        return sorted(found.values(), key=lambda one: -one.score)[:most]

    def _frames(self, emissions: Emissions) -> list[tuple[float, list[tuple[int, float]]]]:
        """Of each frame the log-probability of no symbol, and of the symbols worth trying."""
        silent = [self._alphabet.blank, *self._alphabet.silent]
        blanks = np.logaddexp.reduce(emissions[:, silent], axis=1).tolist()
        spoken = emissions.copy()
        spoken[:, silent] = -inf
        frames = []
        worth = spoken > LEAST
        for blank, row, tried in zip(blanks, spoken, worth, strict=True):
            ids = np.flatnonzero(tried)
            if len(ids) > MOST_SYMBOLS:
                ids = ids[np.argsort(-row[ids])[:MOST_SYMBOLS]]
            if not len(ids) and blank < LEAST:
                ids = row.argmax(keepdims=True)
            frames.append((blank, list(zip(ids.tolist(), row[ids].tolist(), strict=True))))
        return frames

    def _extended(
        self,
        beam: dict[_Text, tuple[float, float]],
        blank: float,
        symbols: list[tuple[int, float]],
    ) -> dict[_Text, tuple[float, float]]:
        if not symbols:
            return {text: (_sum(*ends) + blank, -inf) for text, ends in beam.items()}
        quiet: dict[_Text, float] = {}
        loud: dict[_Text, float] = {}
        for text, (ends_quiet, ends_loud) in beam.items():
            both = _sum(ends_quiet, ends_loud)
            quiet[text] = _sum(quiet.get(text, -inf), both + blank)
            for symbol, chance in symbols:
                if symbol == text.symbol:
                    if ends_loud > -inf:
                        loud[text] = _sum(loud.get(text, -inf), ends_loud + chance)
                    if ends_quiet == -inf:
                        continue
                before = ends_quiet if symbol == text.symbol else both
                following = text.after.get(symbol) or self._following(text, symbol)
                kept = loud if following is not text else quiet
                kept[following] = _sum(kept.get(following, -inf), before + chance)
        return {text: (quiet.get(text, -inf), loud.get(text, -inf)) for text in quiet.keys() | loud}

    def _pruned(self, beam: dict[_Text, tuple[float, float]]) -> dict[_Text, tuple[float, float]]:
        scores = {text: _sum(*ends) + text.settled + text.extra for text, ends in beam.items()}
        best = max(scores.values())
        near = [text for text, score in scores.items() if score > best - WORST]
        if len(near) > self._beam_size:
            near = sorted(near, key=lambda text: -scores[text])[: self._beam_size]
        return {text: beam[text] for text in near}

    def _following(self, text: _Text, symbol: int) -> _Text:
        """The text with one more symbol; a delimiter after no word changes nothing."""
        if symbol == self._alphabet.delimiter:
            if not text.word:
                return text
            gained, state = self._complete(text)
            found = _Text(text, symbol, "", text.settled + gained, 0.0, state)
        elif self._alphabet.delimiter is None:
            gained, state = self._complete(text) if text.word else (0.0, text.state)
            word = self._alphabet.symbols[symbol]
            settled = text.settled + gained
            found = _Text(text, symbol, word, settled, self._promise(word), state)
        else:
            word = text.word + self._alphabet.symbols[symbol]
            found = _Text(text, symbol, word, text.settled, self._promise(word), text.state)
        text.after[symbol] = found
        return found

    def _complete(self, text: _Text) -> tuple[float, Any]:
        """What the last word adds, and the state after it."""
        boost = self._hot.boosts.get(text.word)
        if self._scorer is None:
            return boost or 0.0, None
        gained, state = self._scorer.score(text.state, text.word, boosted=boost is not None)
        return gained + (boost or 0.0), state

    def _promise(self, word: str) -> float:
        """What the beginning of a word adds for now."""
        boost = self._hot.beginnings.get(word)
        if boost is not None:
            return boost
        if self._scorer is None or self._scorer.ngrams.may_become(word):
            return 0.0
        return self._scorer.weights.alpha * self._scorer.weights.unknown

    def _finished(self, text: _Text, logprob: float) -> Candidate:
        gained = self._complete(text)[0] if text.word else 0.0
        symbols = []
        node: _Text | None = text
        while node is not None and node.before is not None:
            symbols.append(node.symbol)
            node = node.before
        symbols.reverse()
        return Candidate(
            tuple(symbols), self._written(symbols), logprob, logprob + text.settled + gained
        )

    def _written(self, symbols: list[int]) -> str:
        alphabet = self._alphabet
        if alphabet.delimiter is None:
            return alphabet.text(symbols)
        parts = (" " if one == alphabet.delimiter else alphabet.symbols[one] for one in symbols)
        return "".join(parts).strip()


def _both(one: Candidate, other: Candidate) -> Candidate:
    """The same text with the probability of both."""
    better = max(one, other, key=lambda each: each.score)
    logprob = _sum(one.logprob, other.logprob)
    return replace(better, logprob=logprob, score=better.score - better.logprob + logprob)


def _sum(one: float, other: float) -> float:
    """The logarithm of the sum of two probabilities."""
    if one < other:
        one, other = other, one
    if other == -inf:
        return one
    return one + log1p(exp(other - one))
