"""Who is learned from, and who is measured with: no speaker is in two splits."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from stenopool.errors import UsageError

TRAIN, VALID, TEST = "train", "valid", "test"
SPLITS = (TRAIN, VALID, TEST)


def shares(text: str) -> dict[str, float]:
    """The shares that `80/10/10` gives to `train`, `valid` and `test`; those of 0 are left out.

    Raises:
        UsageError: it is not three numbers, or all of them are 0.
    """
    try:
        numbers = [float(one) for one in text.split("/")]
    except ValueError:
        numbers = []
    if (
        len(numbers) != len(SPLITS)
        or not all(0 <= one < 1e9 for one in numbers)
        or not any(numbers)
    ):
        raise UsageError(
            f"`{text}` are no shares", do="Give those of train, valid and test, such as 80/10/10"
        )
    return {name: one / sum(numbers) for name, one in zip(SPLITS, numbers, strict=True) if one}


def divided(groups: Mapping[str, float], wanted: Mapping[str, float], seed: int) -> dict[str, str]:
    """Which split each group goes to, so that each split has about its share of the seconds.

    The same groups, shares and seed give the same splits, in whatever order the groups come.

    Args:
        groups: seconds of each, for example of each speaker.
        wanted: share of each split.

    Raises:
        UsageError: there are fewer groups than splits.
    """
    if len(groups) < len(wanted):
        raise UsageError(
            f"there are {len(groups)} speakers for {len(wanted)} splits",
            do="Ask for fewer splits, or give `--mixed-speakers`",
        )
    drawn = sorted(groups, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    total = sum(groups.values()) or 1.0
    held = dict.fromkeys(wanted, 0.0)
    empty = sorted(wanted, key=lambda name: wanted[name])
    found: dict[str, str] = {}
    for name in drawn:
        # First one for each, the smallest first, since the largest will get more anyway.
        chosen = empty.pop(0) if empty else _poorest(held, wanted, total)
        found[name] = chosen
        held[chosen] += groups[name]
    return found


def _poorest(held: Mapping[str, float], wanted: Mapping[str, float], total: float) -> str:
    return max(wanted, key=lambda name: wanted[name] - held[name] / total)
