"""Plots as inline SVG whose colours are those of the page, light or dark."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from stenopool.evaluation.report.document import Document

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 5.4  # inches; on a telephone the letters stay large enough
BAR = 0.24  # inches a bar
LABELLED = 16  # points; names of more would lie upon each other
SYSTEMS = 8  # colours there are

# Placeholders that become variables of the page's style sheet.
INK, FAINT, PAPER = "#010203", "#010204", "#010205"
COLOURS = tuple(f"#0102{16 + number:02x}" for number in range(SYSTEMS))
_VARIABLES = {
    INK: "var(--ink)",
    FAINT: "var(--faint)",
    PAPER: "var(--paper)",
    **{colour: f"var(--system-{number})" for number, colour in enumerate(COLOURS)},
}
MARKERS = "osD^vPX*"


def wer_by_condition(report: Document) -> str:
    """A bar for each system under each condition, with its interval."""
    systems = [one["name"] for one in report["systems"]]
    conditions = [one["name"] for one in report["conditions"]]
    bars = len(systems) * len(conditions)
    height = BAR * (bars + 0.8 * len(conditions)) + 0.9 + 0.2 * len(systems)

    def draw(axes: Axes) -> None:
        for number, system in enumerate(systems):
            _bars(axes, report, system, number, len(systems))
        places = np.arange(len(conditions)) * (len(systems) + 0.8) + (len(systems) - 1) / 2
        axes.set_yticks(places, conditions)
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        axes.set_xlabel("word error rate, %")
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color=FAINT, linewidth=0.5)
        _legend(axes)

    return _svg(draw, height, "wer", "Word error rate of each system under each condition")


def speed_against_wer(report: Document) -> str:
    """A point for each system under each condition: to the right is faster, down is better."""

    def draw(axes: Axes) -> None:
        for number, system in enumerate(report["systems"]):
            _points(axes, report, system["name"], number)
        axes.set_xlabel("times faster than real time")
        axes.set_ylabel("word error rate, %")
        axes.margins(0.15)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.grid(color=FAINT, linewidth=0.5)
        _legend(axes)

    height = 3.4 + 0.2 * len(report["systems"])
    return _svg(draw, height, "speed", "Speed of each system against its word error rate")


def _points(axes: Axes, report: Document, system: str, number: int) -> None:
    found = [
        (1 / one["real_time_factor"], 100 * one["wer"], one["condition"])
        for one in report["results"]
        if one["system"] == system and one["real_time_factor"] and one["wer"] is not None
    ]
    if not found:
        return
    speeds, rates, _ = zip(*found, strict=True)
    colour, marker = COLOURS[number % SYSTEMS], MARKERS[number % len(MARKERS)]
    axes.scatter(speeds, rates, label=system, s=36, color=colour, marker=marker)
    if len(report["conditions"]) > 1 and len(report["results"]) <= LABELLED:
        for speed, rate, condition in found:
            axes.annotate(
                condition, (speed, rate), (6, 0), textcoords="offset points", va="center", size=8
            )


def _bars(axes: Axes, report: Document, system: str, number: int, systems: int) -> None:
    colour = COLOURS[number % SYSTEMS]
    results = [one for one in report["results"] if one["system"] == system]
    places = np.arange(len(results)) * (systems + 0.8) + number
    rates = [100 * (one["wer"] or 0.0) for one in results]
    axes.barh(places, rates, height=0.86, color=colour, label=system)
    for place, rate, one in zip(places, rates, results, strict=True):
        end = rate
        if one["wer_interval"]:
            low, high = (100 * edge for edge in one["wer_interval"])
            axes.plot([low, high], [place, place], color=INK, linewidth=1.2, marker="|")
            end = max(rate, high)
        shown = "–" if one["wer"] is None else f"{rate:.1f}"
        axes.annotate(shown, (end, place), (5, 0), textcoords="offset points", va="center")


def _legend(axes: Axes) -> None:
    """Below the plot, one name a line: names are long and telephones narrow."""
    if axes.get_legend_handles_labels()[1]:
        axes.figure.legend(
            *axes.get_legend_handles_labels(),
            loc="outside lower left",
            frameon=False,
            labelcolor=INK,
            fontsize=9,
        )


def _svg(draw: Callable[[Axes], None], height: float, name: str, title: str) -> str:
    """Draw and make the result fit into a page: no head, names of its own, a title."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    out = io.StringIO()
    with mpl.rc_context(_style(name)), warnings.catch_warnings():
        # Letters that matplotlib's own font lacks: the page's fonts show them.
        warnings.simplefilter("ignore", UserWarning)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes)
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return _embedded(out.getvalue(), name, title)


def _style(name: str) -> Any:  # noqa: ANN401  the type lists all parameters there are
    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    return {
        **dict.fromkeys(inked, INK),
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "text.parse_math": False,  # a `$` in a name is a dollar
        "axes.axisbelow": True,
        "font.size": 10,
    }


def _embedded(svg: str, name: str, title: str) -> str:
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'(\bid="|"#|url\(#)', rf"\g<1>{name}-", body)
    body = re.sub(
        r"font: [^;\"]*?(\d+(?:\.\d+)?px)[^;\"]*", r"font: \1 system-ui, sans-serif", body
    )
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, variable)
    start = f'<svg role="img" aria-labelledby="{name}-title" '
    body = re.sub(r"<svg ", start, body, count=1)
    return re.sub(
        r"(<svg[^>]*>)", rf'\1<title id="{name}-title">{escape(title)}</title>', body, count=1
    )


def names(systems: Sequence[str]) -> dict[str, int]:
    """The number of each system's colour."""
    return {name: number % SYSTEMS for number, name in enumerate(systems)}
