"""The report as one page that needs nothing else: style, plots and data are in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from stenopool.evaluation.report import numbers, plots
from stenopool.evaluation.report.document import Document
from stenopool.evaluation.report.table import notes

SHOWN = 20  # recordings of each result whose words are shown
CONTEXT = 6  # right words that are shown on each side of errors
TEMPLATE = "page.html.j2"


def page(report: Document) -> str:
    """HTML of a report; all that comes from data is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(numbers=numbers, excerpt=excerpt)
    return environment.get_template(TEMPLATE).render(
        report=report,
        notes=list(notes(report)),
        systems={one["name"]: one for one in report["systems"]},
        colours=plots.names([one["name"] for one in report["systems"]]),
        worst=[worst(one["recordings"]) for one in report["results"]],
        # Made here from escaped text, by matplotlib.
        bars=Markup(plots.wer_by_condition(report)),  # noqa: S704
        scatter=Markup(plots.speed_against_wer(report)),  # noqa: S704
    )


def worst(recordings: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The recordings with the most errors, those without any left out."""
    wrong = [one for one in recordings if _errors(one) or one["error"]]
    return sorted(wrong, key=_errors, reverse=True)[:SHOWN]


def excerpt(alignment: Sequence[Sequence[str]]) -> Iterator[tuple[str, str, str]]:
    """An alignment with long stretches of right words made short.

    Yields:
        kind, words of the reference, words of the hypothesis; of kind `skip` the first is a number.
    """
    last = len(alignment) - 1
    for place, (kind, reference, hypothesis) in enumerate(alignment):
        words = reference.split()
        before = 0 if place == 0 else CONTEXT
        after = 0 if place == last else CONTEXT
        left_out = len(words) - before - after
        if kind != "equal" or left_out <= CONTEXT:
            yield kind, reference, hypothesis
            continue
        if before:
            yield kind, " ".join(words[:before]), ""
        yield "skip", str(left_out), ""
        if after:
            yield kind, " ".join(words[-after:]), ""


def _errors(recording: dict[str, Any]) -> int:
    names = ("substitutions", "deletions", "insertions")
    return sum(int(recording[name]) for name in names)
