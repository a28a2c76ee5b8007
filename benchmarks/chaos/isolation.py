"""Recordings that hang, crash or eat memory harm no other one."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from stenopool.pipeline import keys
from stenopool.pipeline.jobs import JobView
from stenopool.pipeline.pool import SILENT_SECONDS

from .backends import backend
from .claims import broken, broken_jobs, collected, digest
from .kill import Scene
from .recordings import lengths
from .report import Report
from .running import MANY, SUPERVISE, Run, running, send
from .saboteur import DEEDS, MARK

SABOTEUR = (*SUPERVISE, "--command", sys.executable, str(Path(__file__).parent / "saboteur.py"))
STALL_SECONDS = 10.0
MEMORY_GB = 1.5
PATIENCE = 600.0  # seconds
START_SECONDS = 15.0  # of a process, on a busy machine
ALONE = 3.0  # times that one recording after the other may take, beside all at once
CODE = "input_crashed"


def measure(arguments: argparse.Namespace, folder: Path) -> Report:
    """Transcribe ordinary recordings undisturbed, then among the others."""
    report = Report(f"isolation: {arguments.backend}, {arguments.workers} workers")
    with backend(arguments.backend, folder) as places:
        scene = Scene(places, folder, arguments.model, arguments.workers)
        scene.prepare(lengths(arguments.recordings), arguments.data)
        report.figures["undisturbed, seconds"] = scene.undisturbed(report)
        run = scene.run("sabotaged")
        run.program = SABOTEUR
        run.settings = {
            "STENO_STALL_SECONDS": str(STALL_SECONDS),
            "STENO_WORKER_MEMORY_GB": str(MEMORY_GB),
        }
        sent = send(run.bucket, scene.paths)
        crafted = _send_crafted(run)
        begun = time.monotonic()
        with running(run):
            report.add("sabotaged", run.wait(PATIENCE))
        report.figures["sabotaged, seconds"] = time.monotonic() - begun
        report.figures["given up after at most, seconds"] = _limit(report)
        _judge(report, scene, run, sent, crafted)
    return report


def _limit(report: Report) -> float:
    """Seconds after which all are given up: each has two turns, and others go before it."""
    turns = dict.fromkeys(DEEDS, STALL_SECONDS + START_SECONDS)
    turns["freeze"] += SILENT_SECONDS
    calm: float = report.figures["undisturbed, seconds"]
    return 2 * sum(turns.values()) + ALONE * calm


def _send_crafted(run: Run) -> dict[str, str]:
    """One of each kind; gives their SHA-256 by name."""
    sent = {}
    for name in DEEDS:
        data = MARK + name.encode() + b"\n"
        run.bucket.write(f"{keys.INPUT}{name}.wav", data)
        sent[f"{name}.wav"] = digest(data)
    return sent


def _judge(
    report: Report, scene: Scene, run: Run, sent: dict[str, str], crafted: dict[str, str]
) -> None:
    if scene.reference is None:
        raise RuntimeError("`undisturbed` comes first")
    wanted = scene.reference.with_failed(crafted, CODE)
    report.add("sabotaged", broken(sent | crafted, collected(run.bucket), wanted))
    report.add("sabotaged", run.left_behind())
    jobs = {one.job.key.removeprefix(keys.INPUT): one for one in run.jobs.listed(limit=MANY)}
    report.add("sabotaged", broken_jobs(jobs.values()))
    for name in DEEDS:
        if job := jobs.get(f"{name}.wav"):
            _judge_crafted(report, name, job)


def _judge_crafted(report: Report, name: str, job: JobView) -> None:
    took = (job.finished or time.time()) - job.created
    error = job.error or {}
    report.figures[name] = {
        "state": job.state,
        "seconds": took,
        "attempts": job.attempts,
        "deaths": job.deaths,
    }
    report.figures[f"{name}, said"] = error.get("message", "nothing")
    limit = _limit(report)
    report.require(took <= limit, f"{name}: given up after {took:.0f} s, not {limit:.0f} s")
