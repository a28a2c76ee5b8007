"""The warping of the OpenVINO engine, against the plain ways to compute the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from stenopool.engines.alignment import MEDIAN_WIDTH, _smoothed, starts

# Small whole numbers: sums are exact, and equal ways are frequent.
matrices = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=14),
    elements=st.integers(-4, 4).map(float),
)
sounds = arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(MEDIAN_WIDTH // 2 + 1, 20)),
    elements=st.floats(-5, 5, width=32),
)


def plain_median(attention: NDArray[np.float32]) -> NDArray[np.float32]:
    """The median over seven positions, mirrored at the ends, by NumPy."""
    reach = MEDIAN_WIDTH // 2
    if attention.shape[1] <= reach:
        return attention
    padded = np.pad(attention, ((0, 0), (reach, reach)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, MEDIAN_WIDTH, axis=1)
    return np.median(windows, axis=-1).astype(np.float32)


def highest_sum(matrix: NDArray[np.float32]) -> float:
    """The best sum of a path from the first corner to the last, cell by cell."""
    best = np.full(matrix.shape, -np.inf)
    for token, position in np.ndindex(matrix.shape):
        before = [
            best[token - down, position - along]
            for down, along in ((1, 1), (1, 0), (0, 1))
            if token >= down and position >= along
        ]
        best[token, position] = matrix[token, position] + max(before, default=0.0)
    return float(best[-1, -1])


def sum_along(matrix: NDArray[np.float32], first: NDArray[np.int64]) -> float:
    """The best sum of a path whose rows begin at these positions."""
    ends = [*first[1:].tolist(), matrix.shape[1] - 1]
    total = 0.0
    for row, (begin, following) in enumerate(zip(first.tolist(), ends, strict=True)):
        total += float(matrix[row, begin:following].sum())
        last_row = row == len(ends) - 1
        # The row below may be entered from straight above, or one position before.
        straight = float(matrix[row, following])
        must = last_row or following == begin
        total += straight if must else max(straight, 0.0)
    return total


@given(sounds)
def test_network_gives_the_median_mirrored_at_the_ends(attention: NDArray[np.float32]) -> None:
    assert np.array_equal(_smoothed(attention), plain_median(attention))


@pytest.mark.parametrize("positions", [1, 2, 3])
def test_sound_shorter_than_the_median_is_left_as_it_is(positions: int) -> None:
    attention = np.random.default_rng(0).random((2, positions), dtype=np.float32)
    assert np.array_equal(_smoothed(attention), attention)


@given(matrices)
def test_path_has_the_highest_sum_of_all(attention: NDArray[np.float32]) -> None:
    seen = plain_median(attention)
    assert sum_along(seen, starts(attention)) == highest_sum(seen)


@given(matrices)
def test_rows_begin_at_the_first_position_and_never_go_back(
    attention: NDArray[np.float32],
) -> None:
    first = starts(attention)
    assert first.shape == attention.shape[:1]
    assert first[0] == 0
    assert (np.diff(first) >= 0).all()
    assert (first < attention.shape[1]).all()


def test_words_that_are_heard_apart_begin_where_they_are_heard() -> None:
    attention = np.full((4, 80), -1.0, dtype=np.float32)
    for row, begin in enumerate((0, 20, 30, 65)):
        attention[row, begin : (0, 20, 30, 65, 80)[row + 1]] = 1.0
    assert starts(attention).tolist() == [0, 20, 30, 65]


def test_more_tokens_than_positions_share_them() -> None:
    assert starts(np.ones((5, 1), dtype=np.float32)).tolist() == [0, 0, 0, 0, 0]
    assert starts(np.ones((6, 2), dtype=np.float32)).max() <= 1


def test_real_size_is_warped_exactly() -> None:
    attention = np.random.default_rng(7).normal(size=(60, 300)).astype(np.float32)
    seen = plain_median(attention)
    found = sum_along(seen, starts(attention))
    assert found == pytest.approx(highest_sum(seen), rel=1e-5)
