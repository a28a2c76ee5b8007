"""How a training went, drawn when matplotlib is there: `loss.png`, `wer.png`, `agreement.png`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from stenopool import pictures

HEIGHT = 4.0  # inches
FEW = 50  # points; more of them hide the line
Points = list[tuple[float, float]]


def draw(output: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Draw what `metrics.jsonl` holds.

    Raises:
        OutputError: a picture cannot be written.
    """
    if not pictures.can_draw():
        return
    lines = list(lines)
    valid = [(line["step"], line["valid"]) for line in lines if "valid" in line]
    losses = {
        "training": [(line["step"], line["loss"]) for line in lines if line.get("loss")],
        "validation": _points(valid, "loss", 1.0),
    }
    rates = {"words": _points(valid, "wer", 100.0), "characters": _points(valid, "cer", 100.0)}
    _picture(output / "loss.png", losses, "loss, nats a character or token", logarithmic=True)
    _picture(output / "wer.png", rates, "error rate of validation, %")
    if alike := _points(valid, "agreement", 100.0):
        label = "tokens of the teacher that the student writes too, %"
        _picture(output / "agreement.png", {"greedy": alike}, label)


def _points(valid: list[tuple[int, Mapping[str, Any]]], name: str, scale: float) -> Points:
    return [(step, one[name] * scale) for step, one in valid if one.get(name) is not None]


def _picture(
    path: Path, curves: Mapping[str, Points], label: str, *, logarithmic: bool = False
) -> None:
    figure = pictures.empty(HEIGHT)
    axes = figure.subplots()
    for name, points in curves.items():
        if points:
            marker = "." if len(points) < FEW else ""
            axes.plot(*zip(*points, strict=True), label=name, marker=marker)
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    if logarithmic and any(curves.values()):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if any(curves.values()):
        axes.legend()
    pictures.write_png(path, figure)
