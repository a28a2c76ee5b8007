"""What the data of a training were, for the card of the model; nothing is learned from it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from stenopool.errors import ModelDamaged
from stenopool.models.files import read_json

REPORT = "report.json"  # of `steno data filter`
NOBODY_TOLD = "not told"
_KEPT = ("bounds", "second", "windows", "kept", "kept_hours", "dropped", "median_wer")


class Item(Protocol):
    """A recording or a window."""

    @property
    def licence(self) -> str | None: ...


def licences(items: Iterable[Item]) -> dict[str, float]:
    """Hours of each licence, by name; recordings whose length nobody claims count as none."""
    found: dict[str, float] = {}
    for one in items:
        name = one.licence or NOBODY_TOLD
        found[name] = found.get(name, 0.0) + _seconds(one)
    return {name: round(found[name] / 3600, 4) for name in sorted(found)}


def _seconds(item: Any) -> float:  # noqa: ANN401  windows have `seconds`, recordings `duration`
    return float(getattr(item, "seconds", None) or getattr(item, "duration", None) or 0.0)


def filter_report(source: str) -> dict[str, Any]:
    """What the filter said of the labels in a manifest; empty where it is not one of the filter's.

    Args:
        source: a manifest or its folder, beside which the filter leaves its report.
    """
    path = Path(source)
    with suppress(ModelDamaged):
        told = read_json((path if path.is_dir() else path.parent) / REPORT)
        if "bounds" in told and "kept" in told:
            return {name: told[name] for name in _KEPT if name in told}
    return {}
