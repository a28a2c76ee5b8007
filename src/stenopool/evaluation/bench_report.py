"""What a bench found, as a table and as JSON."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from stenopool import __version__
from stenopool.evaluation.bench import Material, Standing
from stenopool.evaluation.machine import Machine
from stenopool.evaluation.normalise import normaliser_name

SCHEMA = "stenopool.bench/1"
WIDE = 200  # columns where the output is no terminal: nothing is wrapped
BUSY_IDLING = 0.02  # of a system's own computing time: above this it is told

_HEADS = (
    *("system", "x real time", "ratio", "WER %", "ins, del, sub"),
    *("memory MB", "load s", "cold s", "cores"),
)


@dataclass(frozen=True, slots=True)
class Setting:
    """What was measured, and with what.

    Attributes:
        command: the exact command line.
        model: name or folder.
        threads: of every system.
        language: of all recordings.
        rounds: that were asked for.
        together: whether each system got all recordings in one call.
    """

    command: str
    model: str
    threads: int
    language: str
    rounds: int
    together: bool


def document(
    standings: Sequence[Standing], material: Sequence[Material], setting: Setting, machine: Machine
) -> dict[str, Any]:
    """All figures as plain data."""
    return {
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "stenopool": __version__,
        **asdict(setting),
        "machine": asdict(machine),
        "recordings": len(material),
        "seconds": sum(one.seconds for one in material),
        "normaliser": normaliser_name(setting.language),
        "systems": [_system(one, standings[0]) for one in standings],
    }


def _system(one: Standing, first: Standing) -> dict[str, Any]:
    told = asdict(one)
    del told["units"]  # a line for each utterance
    return {
        **told,
        "turns": [{**asdict(turn), "speed": turn.speed} for turn in one.turns],
        "speed": one.speed,
        "ratio": one.ratio(first),
        "wer": one.counts and one.counts.wer,
    }


def text(report: dict[str, Any], *, width: int = WIDE) -> str:
    """The machine, the table and what has to be known to read it, as plain text.

    Args:
        report: see `document`.
        width: columns there are.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column(_HEADS[0], overflow="fold")
    for head in _HEADS[1:]:
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("runs on", overflow="fold")
    for one in report["systems"]:
        table.add_row(*_row(one))
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None, markup=False, highlight=False)
    for line in _machine(report):
        console.print(line)
    console.print()
    console.print(table)
    console.print()
    for line in _notes(report):
        console.print(line)
    return out.getvalue()


def _machine(report: dict[str, Any]) -> Iterator[str]:
    machine = report["machine"]
    yield f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}"
    yield f"instructions: {' '.join(machine['flags']) or 'unknown'}"
    yield (
        f"model {report['model']}, {report['threads']} threads, language {report['language']}, "
        f"{report['recordings']} recordings, {report['seconds'] / 60:.1f} min, "
        f"{report['rounds']} rounds"
    )


def _row(one: dict[str, Any]) -> list[str]:
    if not one["turns"]:
        return [one["name"], *["-"] * (len(_HEADS) - 1), "failed"]
    speeds = [turn["speed"] for turn in one["turns"]]
    wall = sum(turn["wall"] for turn in one["turns"])
    cores = sum(turn["cpu"] for turn in one["turns"]) / wall if wall else 0.0
    figures = one["figures"]
    return [
        one["name"],
        f"{one['speed']:.1f} [{min(speeds):.1f}-{max(speeds):.1f}]",
        "-" if one["ratio"] is None else f"{one['ratio']:.2f}",
        "-" if one["wer"] is None else f"{100 * one['wer']:.2f}",
        _parts(one["counts"]),
        f"{figures['peak_memory'] / 1e6:.0f}" if figures else "-",
        f"{figures['load_seconds']:.1f}" if figures else "-",
        f"{one['cold_seconds']:.1f}",
        f"{cores:.2f}",
        figures["detail"] if figures else "failed",
    ]


def _parts(counts: dict[str, int] | None) -> str:
    if counts is None:
        return "-"
    return f"{counts['insertions']}, {counts['deletions']}, {counts['substitutions']}"


def _notes(report: dict[str, Any]) -> Iterator[str]:
    systems = report["systems"]
    yield (
        "x real time: median [lowest-highest] of the rounds; ratio: to the first system, median of "
        "the ratios within rounds; cold: from the start of the process to the text of 30 s; cores: "
        "computing time by wall time"
    )
    if any(one["wer"] is not None for one in systems):
        yield f"WER: of the first round, normalised by {report['normaliser']}"
    packages = dict(
        sorted(pair for one in systems if one["figures"] for pair in _versions(one["figures"]))
    )
    yield "versions: " + ", ".join(f"{name} {version}" for name, version in packages.items())
    for one in systems:
        yield from _doubts(one)


def _versions(figures: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield from figures["versions"].items()


def _doubts(one: dict[str, Any]) -> Iterator[str]:
    if one["error"]:
        yield f"{one['name']}: error[{one['error']['code']}]: {one['error']['message']}"
    failed = sum(sum(turn["failed"].values()) for turn in one["turns"])
    if failed:
        yield f"{one['name']}: {failed} recordings failed; its speed is of the others"
    if not one["steady"]:
        yield f"{one['name']}: its text is not the same in every round"
    busy = sum(turn["cpu"] for turn in one["turns"])
    if busy and one["idle_cpu"] > BUSY_IDLING * busy:
        yield f"{one['name']}: computed for {one['idle_cpu']:.1f} s while others had their turns"
