"""From cross-attention to times by dynamic time warping, as in the Whisper paper's code."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MEDIAN_WIDTH = 7  # positions of 20 ms; the network below is made for it

# Exchanges that bring the median of seven values to the middle (Devillard 1998).
_FIRST = ((0, 5), (0, 3), (1, 6), (2, 4), (0, 1), (3, 5), (2, 6))
_EXCHANGES = (*_FIRST, (2, 3), (3, 6), (4, 5), (1, 4), (1, 3), (3, 4))
_DIAGONAL, _DOWN, _ALONG = 0, 1, 2  # where the path comes from


def starts(attention: NDArray[np.float32]) -> NDArray[np.int64]:
    """The first position of each row on the path through the matrix with the highest sum.

    Args:
        attention: (tokens, positions); a path goes from the first corner to the last, one token,
            one position or both at a time.

    Returns:
        (tokens,) positions.
    """
    steps = _best_steps(-_smoothed(attention))
    token, position = attention.shape[0] - 1, attention.shape[1] - 1
    first = np.zeros(token + 1, dtype=np.int64)
    while token > 0:
        # Along its row to where the path came from the row above.
        while position > 0 and steps[token, position] == _ALONG:
            position -= 1
        first[token] = position
        position -= int(steps[token, position] == _DIAGONAL)
        token -= 1
    return first


def starts_of_text(attention: NDArray[np.float32], before: int, count: int) -> NDArray[np.int64]:
    """The position where each token of a text begins, and where the last one ends.

    Args:
        attention: (tokens, positions) of what stands before the text, the text and the end token,
            as far as the decoder has places: a text in a loop may fill them.
        before: tokens before the text.
        count: tokens of the text.

    Returns:
        (count + 1,) positions; tokens for which there was no place begin where the last one does.
    """
    # The row of a token's predecessor is where that token is predicted.
    found = starts(attention[before - 1 : before + count])
    return np.pad(found, (0, count + 1 - len(found)), mode="edge")


def _best_steps(cost: NDArray[np.float32]) -> NDArray[np.int8]:
    """Where the cheapest path to each cell comes from.

    A row at a time: with S the running sum of a row's costs, the cheapest way into cell j that
    enters the row at cell k costs entry[k] - S[k - 1] + S[j], so a running minimum finds it.
    """
    tokens, positions = cost.shape
    steps = np.full((tokens, positions), _ALONG, dtype=np.int8)
    above = np.cumsum(cost[0], dtype=np.float64)
    for token in range(1, tokens):
        diagonal = np.concatenate([[np.inf], above[:-1]])
        entry = np.minimum(diagonal, above)
        sums = np.cumsum(cost[token], dtype=np.float64)
        before = np.concatenate([[0.0], sums[:-1]])
        ways = entry - before
        cheapest = np.minimum.accumulate(ways)
        entered = ways <= cheapest
        steps[token, entered] = np.where(diagonal <= above, _DIAGONAL, _DOWN)[entered]
        above = cheapest + sums
    return steps


def _smoothed(attention: NDArray[np.float32]) -> NDArray[np.float32]:
    """The median over seven positions, mirrored at the ends."""
    reach = MEDIAN_WIDTH // 2
    if attention.shape[1] <= reach:
        return attention
    padded = np.pad(attention, ((0, 0), (reach, reach)), mode="reflect")
    count = attention.shape[1]
    values = [padded[:, shift : shift + count] for shift in range(MEDIAN_WIDTH)]
    for low, high in _EXCHANGES:
        values[low], values[high] = (
            np.minimum(values[low], values[high]),
            np.maximum(values[low], values[high]),
        )
    return values[reach]
