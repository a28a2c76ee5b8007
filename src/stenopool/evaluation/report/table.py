"""The figures as tables for a terminal or a file."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from stenopool.evaluation.report import numbers
from stenopool.evaluation.report.document import Document

if TYPE_CHECKING:
    from rich.table import Table

WIDE = 200  # columns where the output is no terminal: nothing is wrapped


def tables(report: Document, *, width: int = WIDE, shown: Callable[[str], str] = str) -> str:
    """Accuracy and speed of each system under each condition, as plain text.

    Args:
        report: see `document`.
        width: columns there are.
        shown: makes a line fit to be shown; names may hold anything.
    """
    from rich.console import Console

    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None)
    console.print(_accuracy(report))
    console.print(_speed(report))
    for note in notes(report):
        console.print(note, markup=False, highlight=False)
    return "".join(f"{shown(line.rstrip())}\n" for line in out.getvalue().split("\n")[:-1])


def notes(report: Document) -> Iterator[str]:
    """What has to be known to read the figures."""
    data, settings = report["data"], report["settings"]
    yield (
        f"{numbers.counted(data['recordings'], 'recording')}, "
        f"{numbers.counted(data['words'], 'word')}, {data['seconds'] / 60:.1f} min; "
        f"normalised by {', '.join(data['normalisers'])}"
    )
    yield (
        f"{100 * settings['confidence']:.0f} % intervals: {settings['resamples']} bootstrap "
        f"resamples of {numbers.counted(data['units'], data['unit'])}, seed {settings['seed']}"
    )
    if len(report["systems"]) > 1:
        yield (
            f"difference: WER minus that of {report['systems'][0]['name']}; both are resampled "
            f"with the same {data['unit']}s"
        )


def _accuracy(report: Document) -> Table:
    compared = len(report["systems"]) > 1
    silent = any(one["nonspeech_minutes"] for one in report["results"])
    heads = ["condition", "system", "WER %", "95 % interval"]
    heads += ["difference", "95 % interval"] if compared else []
    heads += ["sub", "del", "ins", "CER %", "loops %", "failed"]
    heads += ["invented words/min"] if silent else []
    rows = []
    for one in report["results"]:
        cells = [one["condition"], one["system"], numbers.percent(one["wer"])]
        cells.append(numbers.interval(one["wer_interval"]))
        if compared:
            other = one["difference"] or {"wer": None, "wer_interval": None}
            cells.append(numbers.difference(other["wer"]))
            cells.append(numbers.interval(other["wer_interval"], signed=True))
        cells += [str(one[name]) for name in ("substitutions", "deletions", "insertions")]
        cells += [numbers.percent(one["cer"]), numbers.percent(one["repeated"])]
        cells.append(numbers.failures(one["failed"]))
        cells += [numbers.number(one["words_per_nonspeech_minute"])] if silent else []
        rows.append(cells)
    return _table(heads, rows)


def _speed(report: Document) -> Table:
    heads = ["condition", "system", "times real time", "p50 s", "p95 s", "p99 s"]
    heads += ["memory MiB", "load s", "threads"]
    systems = {one["name"]: one for one in report["systems"]}
    rows = []
    for one in report["results"]:
        system = systems[one["system"]]
        latency = one["latency"] or {}
        rows.append(
            [
                one["condition"],
                one["system"],
                numbers.speed(one["real_time_factor"]),
                *(numbers.number(latency.get(name)) for name in ("p50", "p95", "p99")),
                numbers.mebibytes(system["peak_memory"]),
                numbers.number(system["load_seconds"], 1),
                str(system["threads"]),
            ]
        )
    return _table(heads, rows)


def _table(heads: list[str], rows: list[list[str]]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for place, head in enumerate(heads):
        table.add_column(head, justify="left" if place < 2 else "right")
    for row in rows:
        table.add_row(*map(Text, row))
    return table
