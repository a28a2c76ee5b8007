from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stenopool.data.splits import divided, shares
from stenopool.errors import UsageError

SPEAKERS = st.dictionaries(
    st.text(min_size=1, max_size=5), st.floats(0.1, 100.0), min_size=3, max_size=40
)


@given(SPEAKERS, st.integers(0, 1000))
def test_every_speaker_is_in_one_split_and_no_split_is_empty(
    speakers: dict[str, float], seed: int
) -> None:
    found = divided(speakers, shares("80/10/10"), seed)
    assert found.keys() == speakers.keys()
    assert set(found.values()) == {"train", "valid", "test"}


@given(SPEAKERS, st.integers(0, 1000))
def test_order_of_the_speakers_does_not_matter(speakers: dict[str, float], seed: int) -> None:
    turned = dict(reversed(speakers.items()))
    wanted = shares("8/1/1")
    assert divided(speakers, wanted, seed) == divided(turned, wanted, seed)


def test_splits_have_about_their_shares() -> None:
    speakers = {f"s{number}": 10.0 for number in range(100)}
    found = list(divided(speakers, shares("80/15/5"), 1).values())
    assert [found.count(name) for name in ("train", "valid", "test")] == [80, 15, 5]


def test_another_seed_gives_another_split() -> None:
    speakers = {f"s{number}": 1.0 for number in range(20)}
    assert divided(speakers, shares("2/1/1"), 0) != divided(speakers, shares("2/1/1"), 1)


def test_too_few_speakers_are_refused() -> None:
    with pytest.raises(UsageError, match="2 speakers for 3 splits"):
        divided({"a": 1.0, "b": 1.0}, shares("80/10/10"), 0)


def test_share_of_zero_is_no_split() -> None:
    assert shares("90/10/0") == {"train": 0.9, "valid": 0.1}


@pytest.mark.parametrize("text", ["80/20", "a/b/c", "-1/1/1", "0/0/0", "nan/1/1", "1/inf/1", ""])
def test_wrong_shares_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="are no shares"):
        shares(text)
