"""How much work waits, in a form that people and autoscalers can follow."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from stenopool.decoding.options import SEQUENTIAL
from stenopool.pipeline.job import FILES, Group
from stenopool.pipeline.jobs import Jobs
from stenopool.pipeline.liveness import Register
from stenopool.settings import settings

PART_SECONDS = 240.0  # of a recording, about, make a span
MOST_RUNNING = 1000  # recordings that are looked at


@dataclass(frozen=True, slots=True)
class Depth:
    """What there is to do with one model on one kind of device.

    Attributes:
        waiting, running: recordings.
        spans_waiting: parts of long recordings that nobody reads yet, cut or not.
        spans_running: such parts that are read as jobs of their own.
        workers: processes that serve it.
    """

    model: str
    device: str
    waiting: int
    running: int
    spans_waiting: int
    spans_running: int
    workers: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return asdict(self)


def uncut_parts(jobs: Jobs) -> dict[str, int]:
    """How many parts of the recordings of each queue are read by one process, but could be shared.

    About: it follows from what is left of their lengths, as the files claim them.
    """
    found = Counter[str]()
    longest = settings().max_hours * 3600
    for view in jobs.listed(states=("running",), limit=MOST_RUNNING):
        if view.phase == "spans" or view.job.options.get("algorithm") == SEQUENTIAL:
            continue  # all of it is cut, or nothing can be
        left = min(view.total_seconds or 0.0, longest) - view.done_seconds
        if left >= PART_SECONDS:
            found[view.job.queue(FILES)] += int(left // PART_SECONDS)
    return found


def depths(jobs: Jobs) -> list[Depth]:
    """The work of each model."""
    totals: dict[Group, Counter[str]] = {}
    for queue, count in jobs.counts().items():
        parsed = Group.of_queue(queue)
        if parsed is None:
            continue
        kind = "" if Group.kind_of_queue(queue) == FILES else "spans_"
        total = totals.setdefault(parsed[0], Counter())
        total[f"{kind}waiting"] += count.get("ENQUEUED", 0) + count.get("DELAYED", 0)
        total[f"{kind}running"] += count.get("PENDING", 0)
    for queue, parts in uncut_parts(jobs).items():
        if parsed := Group.of_queue(queue):
            totals.setdefault(parsed[0], Counter())["parts"] += parts
    for row in Register(jobs.engine).all():
        if parsed := Group.of_queue(row.group):
            totals.setdefault(parsed[0], Counter())["workers"] += 1
    return [
        Depth(
            group.model,
            group.device,
            total["waiting"],
            total["running"],
            max(total["spans_waiting"], total["parts"] - total["spans_running"]),
            total["spans_running"],
            total["workers"],
        )
        for group, total in sorted(totals.items())
    ]


_HELP = {
    "waiting": "Recordings that wait.",
    "running": "Recordings that are being transcribed.",
    "spans_waiting": "Parts of long recordings that nobody reads yet.",
    "spans_running": "Parts of long recordings that are read as jobs of their own.",
    "workers": "Worker processes.",
}


def prometheus(found: list[Depth]) -> str:
    """The same as Prometheus text."""
    lines = []
    for name, text in _HELP.items():
        lines += [f"# HELP steno_queue_{name} {text}", f"# TYPE steno_queue_{name} gauge"]
        for one in found:
            labels = f'model="{_escaped(one.model)}",device="{_escaped(one.device)}"'
            lines.append(f"steno_queue_{name}{{{labels}}} {getattr(one, name)}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
