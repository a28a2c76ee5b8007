"""Numbers as people read them; a dash where there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

NONE = "–"


def percent(fraction: float | None) -> str:
    """`4.93`, without the sign."""
    return NONE if fraction is None else f"{100 * fraction:.2f}"


def interval(found: Sequence[float] | None, *, signed: bool = False) -> str:
    """`4.10 to 5.81`: a dash between numbers would look like a minus."""
    if found is None:
        return NONE
    low, high = (f"{100 * one:{'+' if signed else ''}.2f}" for one in found)
    return f"{low} to {high}"


def difference(fraction: float | None) -> str:
    """`+0.31` or `-0.31`."""
    return NONE if fraction is None else f"{100 * fraction:+.2f}"


def speed(real_time_factor: float | None) -> str:
    """How many times faster than real time: `43.1`."""
    return f"{1 / real_time_factor:.1f}" if real_time_factor else NONE


def counted(count: int, noun: str) -> str:
    """`1 recording`, `2 recordings`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def number(value: float | None, places: int = 2) -> str:
    return NONE if value is None else f"{value:.{places}f}"


def mebibytes(value: float) -> str:
    return f"{value / 2**20:.0f}"


def failures(failed: Mapping[str, int]) -> str:
    """`3: 2 not_media, 1 no_audio`."""
    if not failed:
        return "0"
    named = ", ".join(f"{count} {code}" for code, count in failed.items())
    return f"{sum(failed.values())}: {named}"
