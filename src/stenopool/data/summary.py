"""What a prepared data set holds, as numbers and as pictures."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from stenopool.data.inspect import Heard, alike
from stenopool.files import write_whole

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
    if find_spec("matplotlib") is None or not heard:
        return []
    pictures: dict[str, tuple[Sequence[float], str]] = {
        DURATIONS: ([one.seconds for one in heard], "seconds"),
        WORDS: ([len(one.text.split()) for one in heard], "words"),
    }
    for name, (values, label) in pictures.items():
        write_whole(folder / name, _histogram(values, label))
    return [folder / name for name in pictures]


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


def _histogram(values: Sequence[float], label: str) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.hist(values, bins=BINS, color="#3465a4")
    axes.set_xlabel(label)
    axes.set_ylabel("recordings")
    axes.grid(axis="y", alpha=0.3)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    return drawn.getvalue()
