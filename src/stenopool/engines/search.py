"""The search for a window's tokens: greedy, beams or samples, under Whisper's rules for timestamps.

A strategy holds the hypotheses of one window. It is shown what the model says of the next token and
answers which hypotheses go on, and with which tokens; windows that are done leave the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from stenopool.engines.base import Hypothesis, Search, overflowed
from stenopool.engines.rules import Choice, Next, Rules
from stenopool.engines.special import Special

SPREAD = 1.2  # natural logarithm
ALIKE = 2  # tokens


class Strategy(Protocol):
    """The hypotheses of one window.

    Attributes:
        tokens: the newest token of each hypothesis that goes on.
        parents: the hypothesis of the last step that each goes on from.
        done: nothing goes on.
    """

    tokens: list[int]
    parents: list[int]
    done: bool

    def advance(self, following: Next) -> None: ...
    def best(self, no_speech_prob: float) -> Hypothesis: ...


@dataclass(slots=True)
class _Path:
    """A hypothesis: its tokens without prompt, with their log-probabilities."""

    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    total: float = 0.0

    def followed_by(self, token: int, logprob: float) -> _Path:
        return _Path((*self.tokens, token), (*self.logprobs, logprob), self.total + logprob)

    @property
    def average(self) -> float:
        return self.total / max(1, len(self.logprobs))


class Greedy:
    """The most probable token at each step."""

    def __init__(self, rules: Rules, special: Special) -> None:
        self._rules, self._end = rules, special.end
        self._path = _Path()
        self.tokens: list[int] = []
        self.parents = [0]
        self.done = False

    @property
    def path(self) -> tuple[int, ...]:
        """The tokens so far, without prompt."""
        return self._path.tokens

    def advance(self, following: Next) -> None:
        self.take(self.best_of(following))

    def best_of(self, following: Next) -> Choice:
        """What `advance` would take."""
        return self._rules.best(following, 0, self._path.tokens)

    def take(self, choice: Choice) -> None:
        """Go on with a token."""
        self._path = self._path.followed_by(choice.token, choice.logprob)
        self.done = choice.token == self._end
        self.tokens = [] if self.done else [choice.token]

    def best(self, no_speech_prob: float) -> Hypothesis:
        return _hypothesis(self._path, self._end, no_speech_prob)


class Beams:
    """Beam search that spends rows only where there is doubt.

    Of the candidates at most `size` go on, and only those whose probability is within `SPREAD` of
    the best. Of hypotheses that end in the same few tokens, only the best goes on: what follows
    hardly depends on where they differ. Mostly one or two are left, for the same text.
    """

    def __init__(self, rules: Rules, special: Special, size: int) -> None:
        self._rules, self._end, self._size = rules, special.end, size
        self._paths = [_Path()]
        self._ended: list[_Path] = []
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.done = False

    def advance(self, following: Next) -> None:
        candidates: list[tuple[float, int, int, float]] = []
        for row, path in enumerate(self._paths):
            choices = self._rules.choices(following, row, path.tokens)
            for number in np.argsort(-choices.logprobs, kind="stable")[: self._size + 1]:
                logprob = float(choices.logprobs[number])
                candidates.append((path.total + logprob, row, int(choices.ids[number]), logprob))
        candidates.sort(key=lambda one: -one[0])
        floor = max([candidates[0][0], *(path.total for path in self._ended)]) - SPREAD
        before, self._paths, self.tokens, self.parents = self._paths, [], [], []
        seen = set()
        for total, row, token, logprob in candidates:
            if total < floor or len(self._paths) == self._size:
                break
            path = before[row].followed_by(token, logprob)
            recent = path.tokens[-ALIKE:]
            if recent in seen:
                continue
            seen.add(recent)
            if token == self._end:
                self._ended.append(path)
            else:
                self._paths.append(path)
                self.tokens.append(token)
                self.parents.append(row)
        self.done = len(self._ended) >= self._size or not self._paths

    def best(self, no_speech_prob: float) -> Hypothesis:
        ended = self._ended or self._paths
        return _hypothesis(max(ended, key=lambda path: path.average), self._end, no_speech_prob)


class Samples:
    """Hypotheses drawn token by token; the most probable of them is the result.

    Drawing takes the largest of log-probability / temperature plus Gumbel noise, which is a draw
    from the softmax, here over the most probable candidates. The noise is the same for every
    window, whatever else is in the batch, so that a text can be repeated.
    """

    def __init__(self, rules: Rules, special: Special, search: Search) -> None:
        self._rules, self._special, self._temperature = rules, special, search.temperature
        self._random = np.random.default_rng(0)
        self._count = search.best_of
        self._paths = [_Path()] * search.best_of
        self._ended = [False] * search.best_of
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.done = False

    def advance(self, following: Next) -> None:
        first = not self.tokens
        self.tokens, self.parents = [], []
        for number in range(self._count):
            row = 0 if first else number
            if not self._ended[number]:
                self._draw(number, following, row)
            path = self._paths[number]
            self.tokens.append(path.tokens[-1])
            self.parents.append(row)
        self.done = all(self._ended)

    def _draw(self, number: int, following: Next, row: int) -> None:
        path = self._paths[number]
        choices = self._rules.choices(following, row, path.tokens)
        noise = self._random.gumbel(size=len(choices.ids))
        drawn = int(np.argmax(choices.logprobs / self._temperature + noise))
        token = int(choices.ids[drawn])
        self._paths[number] = path.followed_by(token, float(choices.logprobs[drawn]))
        self._ended[number] = token == self._special.end

    def best(self, no_speech_prob: float) -> Hypothesis:
        best = max(self._paths, key=lambda path: path.average)
        return _hypothesis(best, self._special.end, no_speech_prob)


class LanguageShares:
    """Not a search: the probability of each language, from what follows the start token."""

    def __init__(self, special: Special) -> None:
        self._special = special
        self.shares: dict[str, float] = {}
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.done = False

    def advance(self, following: Next) -> None:
        special = self._special
        logits = following.specials[0, [id - special.end for id in special.languages.values()]]
        if not np.isfinite(logits).all():
            raise overflowed()
        shares = np.exp(logits - logits.max())
        self.shares = dict(zip(special.languages, (shares / shares.sum()).tolist(), strict=True))
        self.done = True

    def best(self, no_speech_prob: float) -> Hypothesis:
        return _hypothesis(_Path(), self._special.end, no_speech_prob)


def strategy(special: Special, search: Search, *, timestamps: bool) -> Strategy:
    """The hypotheses of a new window."""
    rules = Rules(special, timestamps=timestamps)
    if search.temperature > 0:
        return Samples(rules, special, search)
    if search.beam_size == 1:
        return Greedy(rules, special)
    return Beams(rules, special, search.beam_size)


def _hypothesis(path: _Path, end: int, no_speech_prob: float) -> Hypothesis:
    ended = bool(path.tokens) and path.tokens[-1] == end
    count = len(path.tokens) - ended
    return Hypothesis(
        tokens=path.tokens[:count],
        avg_logprob=path.average,
        no_speech_prob=no_speech_prob,
        probabilities=tuple(float(np.exp(one)) for one in path.logprobs[:count]),
    )
