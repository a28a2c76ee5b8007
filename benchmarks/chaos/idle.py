"""What a supervisor needs while there is nothing to do."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import psutil

from .backends import backend
from .recordings import make
from .report import Report
from .running import Run, running, send

IDLE_SECONDS = 2.0
SETTLE_SECONDS = 10.0
PATIENCE = 600.0
MOST_MB = 200.0
MOST_SHARE = 0.05  # of one core


def measure(arguments: argparse.Namespace, folder: Path) -> Report:
    """One recording, then nothing for a while."""
    report = Report(f"idle: {arguments.backend}, {arguments.seconds:.0f} s")
    with backend(arguments.backend, folder) as places:
        run = Run(places.place("idle"), folder / "idle.log", arguments.model, 1)
        run.settings = {"STENO_IDLE_SECONDS": str(IDLE_SECONDS)}
        send(run.bucket, make(folder / "recordings", [10.0], arguments.data))
        with running(run):
            report.add("idle", run.wait(PATIENCE))
            busy = memory(run.family())
            time.sleep(IDLE_SECONDS + SETTLE_SECONDS)
            family = run.family()
            report.figures["worker processes"] = len(family) - 1
            report.require(len(family) == 1, f"{len(family) - 1} processes besides the supervisor")
            before = processor(family)
            time.sleep(arguments.seconds)
            share = (processor(family) - before) / arguments.seconds
            idle = memory(run.family())
        report.figures |= {
            "resident after one recording, MB": busy,
            "resident when idle, MB": idle,
            "share of one core": share,
        }
        report.require(idle <= MOST_MB, f"{idle:.0f} MB when idle, over {MOST_MB:.0f}")
        report.require(share <= MOST_SHARE, f"{share:.3f} of a core when idle, over {MOST_SHARE}")
    return report


def memory(family: list[psutil.Process]) -> float:
    """Resident memory of processes, MB; what they share is counted for each."""
    return float(sum(one.memory_info().rss for one in family)) / 2**20


def processor(family: list[psutil.Process]) -> float:
    """Seconds of processor time that processes have used."""
    return float(sum(sum(one.cpu_times()[:2]) for one in family))
