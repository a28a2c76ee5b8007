"""Pictures of figures, where matplotlib is there."""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from stenopool.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 7.0  # inches
BAR = "#3465a4"


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def empty(height: float) -> Figure:
    """A picture of so many inches; without pyplot, which wants to know of screens."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), layout="constrained")


def write_png(path: Path, figure: Figure) -> None:
    """Write a picture.

    Raises:
        OutputError: it cannot be written.
    """
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    write_whole(path, drawn.getvalue())
