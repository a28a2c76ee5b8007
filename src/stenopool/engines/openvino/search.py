"""The search for a window's tokens: beams or samples, under Whisper's rules for timestamps.

A strategy holds the hypotheses of one window. It is shown what the model says of the next token and
answers which hypotheses go on, and with which tokens; windows that are done leave the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stenopool.engines.base import Hypothesis, Search

LATEST_FIRST_TIMESTAMP = 50  # steps of 20 ms, as in the paper's code: text begins within 1 s

SPREAD = 1.2  # natural logarithm
ALIKE = 2  # tokens

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Special:
    """Token ids that decoding needs to know; those of text are all below `end`."""

    start: int
    end: int
    no_speech: int
    no_timestamps: int
    languages: dict[str, int]
    suppressed: tuple[int, ...]
    suppressed_first: tuple[int, ...]

    @property
    def first_timestamp(self) -> int:
        return self.no_timestamps + 1


@dataclass(frozen=True, slots=True)
class Next:
    """What the model says of the next token of some rows; see `decoder.writer`."""

    ids: NDArray[np.int32]  # (rows, candidates)
    logits: Floats  # (rows, candidates)
    mass: Floats  # (rows,)
    specials: Floats  # (rows, vocabulary - end)

    def of(self, rows: slice) -> Next:
        """The same of some of the rows."""
        return Next(self.ids[rows], self.logits[rows], self.mass[rows], self.specials[rows])

    def special_shares(self, token: int) -> NDArray[np.float64]:
        """The probability of a special token, by its number from the end token on, in each row."""
        total = np.logaddexp(
            self.mass, np.logaddexp.reduce(self.specials, axis=1, dtype=np.float64)
        )
        return np.asarray(np.exp(self.specials[:, token] - total), dtype=np.float64)


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


@dataclass(frozen=True, slots=True)
class Choices:
    """The tokens that may follow one hypothesis, in no order: ids and log-probabilities."""

    ids: NDArray[np.int64]
    logprobs: NDArray[np.float64]


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


class Rules:
    """Which tokens may follow which.

    Args:
        timestamps: whether the text has them.
    """

    def __init__(self, special: Special, *, timestamps: bool) -> None:
        self._special, self._timestamps = special, timestamps

    def choices(self, following: Next, row: int, so_far: tuple[int, ...]) -> Choices:
        """The candidates after a hypothesis, with log-probabilities over all that is allowed."""
        special = self._special
        ids, logits = following.ids[row].astype(np.int64), following.logits[row].astype(np.float64)
        mass, end = float(following.mass[row]), float(following.specials[row, 0])
        if not so_far:
            first = np.isin(ids, special.suppressed_first)
            logits = np.where(first, -np.inf, logits)
            end = -np.inf if special.end in special.suppressed_first else end
        if not self._timestamps:
            total = np.logaddexp(mass, end)
            return Choices(np.append(ids, special.end), np.append(logits, end) - total)
        stamps = self._stamps(following, row, so_far)
        stamp_mass = _log_sum(stamps)
        text, ending = self._text_and_end(so_far)
        rivals = [*(logits.tolist() if text else ()), *([end] if ending else ())]
        if stamp_mass > max(rivals, default=-np.inf):
            text = ending = False
        parts = [(ids, logits, mass)] if text else []
        parts += [(np.array([special.end]), np.array([end]), end)] if ending else []
        order = np.argsort(-stamps)[: len(ids)]
        parts.append((order + special.first_timestamp, stamps[order], stamp_mass))
        total = _log_sum(np.array([part[2] for part in parts]))
        return Choices(
            np.concatenate([part[0] for part in parts]),
            np.concatenate([part[1] for part in parts]) - total,
        )

    def _text_and_end(self, so_far: tuple[int, ...]) -> tuple[bool, bool]:
        """Whether text, and the end, may follow: after one timestamp comes its partner, or the end;
        a text begins with a timestamp."""
        if not so_far:
            return False, False
        first = self._special.first_timestamp
        alone = so_far[-1] >= first and not (len(so_far) < 2 or so_far[-2] >= first)
        return not alone, True

    def _stamps(self, following: Next, row: int, so_far: tuple[int, ...]) -> NDArray[np.float64]:
        """Logits of the timestamps; those that may not come are minus infinity."""
        special = self._special
        stamps = following.specials[row, special.first_timestamp - special.end :].astype(np.float64)
        if not so_far:
            stamps[LATEST_FIRST_TIMESTAMP + 1 :] = -np.inf
            return stamps
        given = [token for token in so_far if token >= special.first_timestamp]
        last = so_far[-1] >= special.first_timestamp
        before = len(so_far) < 2 or so_far[-2] >= special.first_timestamp
        if last and before:
            stamps[:] = -np.inf  # a pair is complete
        elif given:
            again = last and not before
            stamps[: given[-1] - special.first_timestamp + (0 if again else 1)] = -np.inf
        return stamps


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


def _log_sum(logits: NDArray[np.float64]) -> float:
    highest = float(logits.max())
    if highest == -np.inf:
        return highest
    return highest + float(np.log(np.exp(logits - highest).sum()))
