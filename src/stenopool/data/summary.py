"""What a prepared data set holds, as numbers and as pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stenopool import pictures
from stenopool.data.inspect import Heard, alike

DURATIONS, WORDS = "durations.png", "words.png"
QUANTILES = (0, 0.05, 0.5, 0.95, 1)
BINS = 40


def summary(heard: Sequence[Heard], splits: Mapping[str, Sequence[Heard]]) -> dict[str, Any]:
    """Numbers of the whole and of each split."""
    letters = Counter(letter for one in heard for letter in one.text)
    return {
        **_numbers(heard),
        "characters": {letter: letters[letter] for letter in sorted(letters)},
        "without_speaker": sum(one.recording.speaker is None for one in heard),
        "flagged": dict(Counter(flag for one in heard for flag in one.flags)),
        "perhaps_copies": alike(list(heard))[:100],
        "splits": {name: _numbers(ones) for name, ones in splits.items()},
    }


def draw(heard: Sequence[Heard], folder: Path) -> list[Path]:
    """Histograms of seconds and of words a recording, if matplotlib is there.

    Raises:
        OutputError: a picture cannot be written.
    """
    if not pictures.can_draw() or not heard:
        return []
    shown: dict[str, tuple[Sequence[float], str]] = {
        DURATIONS: ([one.seconds for one in heard], "seconds"),
        WORDS: ([len(one.text.split()) for one in heard], "words"),
    }
    for name, (values, label) in shown.items():
        _histogram(folder / name, values, label)
    return [folder / name for name in shown]


def _numbers(heard: Sequence[Heard]) -> dict[str, Any]:
    seconds = [one.seconds for one in heard]
    words = [len(one.text.split()) for one in heard]
    return {
        "recordings": len(heard),
        "hours": round(sum(seconds) / 3600, 4),
        "words": sum(words),
        "different_words": len({word for one in heard for word in one.text.split()}),
        "speakers": len({one.recording.speaker for one in heard} - {None}),
        "seconds": _quantiles(seconds),
        "words_a_recording": _quantiles(words),
    }


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    names = ("least", "5 %", "median", "95 %", "most")
    found = np.quantile(values, QUANTILES)
    return {name: round(float(one), 3) for name, one in zip(names, found, strict=True)}


def _histogram(path: Path, values: Sequence[float], label: str) -> None:
    figure = pictures.empty(3.5)
    axes = figure.subplots()
    axes.hist(values, bins=BINS, color=pictures.BAR)
    axes.set_xlabel(label)
    axes.set_ylabel("recordings")
    axes.grid(axis="y", alpha=0.3)
    pictures.write_png(path, figure)
