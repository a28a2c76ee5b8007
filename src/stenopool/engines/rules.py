"""Whisper's rules for the next token: what the model says of it, and what of that may follow."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from stenopool.engines.base import overflowed
from stenopool.engines.special import Special

LATEST_FIRST_TIMESTAMP = 50  # steps of 20 ms, as in the paper's code: text begins within 1 s

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Next:
    """What the model says of the next token of some rows, in natural logarithms.

    Attributes:
        ids: of the most probable text tokens.
        logits: of those.
        mass: the logarithm of the sum of exp(logit) over all text tokens.
        specials: the logits from the end token on.
    """

    ids: NDArray[np.int32]  # (rows, candidates)
    logits: Floats  # (rows, candidates)
    mass: Floats  # (rows,)
    specials: Floats  # (rows, vocabulary - end)

    def of(self, rows: slice) -> Next:
        """The same of some of the rows."""
        return Next(self.ids[rows], self.logits[rows], self.mass[rows], self.specials[rows])

    def special_shares(self, token: int) -> NDArray[np.float64]:
        """The probability of a special token, by its number from the end token on, in each row.

        Raises:
            EngineFailed: what the model says is no number.
        """
        if not np.isfinite(self.mass).all():
            raise overflowed()
        total = np.logaddexp(
            self.mass, np.logaddexp.reduce(self.specials, axis=1, dtype=np.float64)
        )
        return np.asarray(np.exp(self.specials[:, token] - total), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Choices:
    """The tokens that may follow one hypothesis, in no order: ids and log-probabilities.

    Attributes:
        apart: how far text and timestamps are from changing places as what must come next.
    """

    ids: NDArray[np.int64]
    logprobs: NDArray[np.float64]
    apart: float = np.inf


@dataclass(frozen=True, slots=True)
class Choice:
    """The most probable token that may follow a hypothesis.

    Attributes:
        margin: by how much, in natural logarithms, it is better than all others. With other
            rounding errors than the model's, a token with a small one might not have been chosen.
    """

    token: int
    logprob: float
    margin: float


class Rules:
    """Which tokens may follow which.

    Args:
        timestamps: whether the text has them.
    """

    def __init__(self, special: Special, *, timestamps: bool) -> None:
        self._special, self._timestamps = special, timestamps

    def choices(self, following: Next, row: int, so_far: tuple[int, ...]) -> Choices:
        """The candidates after a hypothesis, with log-probabilities over all that is allowed.

        Raises:
            EngineFailed: what the model says is no number.
        """
        special = self._special
        ids, logits = following.ids[row].astype(np.int64), following.logits[row].astype(np.float64)
        mass, end = float(following.mass[row]), float(following.specials[row, 0])
        if not isfinite(mass):
            raise overflowed()
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
        highest = max(rivals, default=-np.inf)
        if stamp_mass > highest:
            text = ending = False
        parts = [(ids, logits, mass)] if text else []
        parts += [(np.array([special.end]), np.array([end]), end)] if ending else []
        order = np.argsort(-stamps)[: len(ids)]
        parts.append((order + special.first_timestamp, stamps[order], stamp_mass))
        total = _log_sum(np.array([part[2] for part in parts]))
        return Choices(
            np.concatenate([part[0] for part in parts]),
            np.concatenate([part[1] for part in parts]) - total,
            abs(stamp_mass - highest) if rivals else np.inf,
        )

    def best(self, following: Next, row: int, so_far: tuple[int, ...]) -> Choice:
        """The most probable token after a hypothesis."""
        found = self.choices(following, row, so_far)
        chosen = int(found.logprobs.argmax())
        first, second = np.partition(found.logprobs, -2)[:-3:-1].tolist()
        return Choice(int(found.ids[chosen]), first, min(found.apart, first - second))

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


def _log_sum(logits: NDArray[np.float64]) -> float:
    highest = float(logits.max())
    if highest == -np.inf:
        return highest
    return highest + float(np.log(np.exp(logits - highest).sum()))
