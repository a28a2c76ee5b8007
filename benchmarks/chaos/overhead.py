"""What a recording costs besides its transcription, and what many of them cost to find."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from .backends import Folders, Place, Postgres, postgres
from .claims import FORMATS
from .report import Report
from .running import ENGINES, Run, running

KEYS = (sys.executable, str(Path(__file__).parent / "listing.py"))
OLD = 3600.0  # seconds: files that nobody writes to any more
PATIENCE = 3600.0


def measure(arguments: argparse.Namespace, folder: Path) -> Report:
    """Small files with an engine that takes no time, and a listing of many keys."""
    report = Report(f"overhead: {arguments.files} files, {arguments.workers} workers")
    with postgres(folder) as server:
        for name, place in places(folder, server, "files").items():
            report.figures[name] = _files(report, name, place, arguments, folder)
        for name, place in places(folder, server, "keys").items() if arguments.keys else ():
            fill(Path(place.bucket), arguments.keys)
            report.figures[f"{name}, {arguments.keys} keys"] = _keys(place)
    return report


def places(folder: Path, server: Postgres, name: str) -> Mapping[str, Place]:
    """A folder with either database."""
    plain = Folders(folder)
    second = plain.place(f"{name}-postgres")
    return {
        "SQLite": plain.place(f"{name}-sqlite"),
        "PostgreSQL": replace(second, database=server.database(name)),
    }


def fill(bucket: Path, count: int) -> None:
    """Small files, each another one, which were put there some time ago."""
    folder = bucket / "input"
    folder.mkdir()
    then = time.time() - OLD
    for number in range(count):
        path = folder / f"{number:07d}.wav"
        path.write_text(f"recording {number}\n")
        os.utime(path, (then, then))


def _files(
    report: Report, name: str, place: Place, arguments: argparse.Namespace, folder: Path
) -> dict[str, float]:
    count: int = arguments.files
    fill(Path(place.bucket), count)
    log = folder / f"files-{name}.log"
    run = Run(place, log, "none", arguments.workers, program=(*ENGINES, "0"))
    begun = time.monotonic()
    with running(run):
        report.add(name, run.wait(PATIENCE))
        wall = time.monotonic() - begun
    jobs = [*run.jobs.listed(limit=count)]
    states = dict(Counter(one.state for one in jobs))
    report.require(states == {"done": count}, f"{name}: not all {count} jobs are done: {states}")
    ended = sorted(one.finished or 0.0 for one in jobs)
    took = ended[-1] - ended[0] if ended else 0.0
    documents = sum(1 for _ in run.bucket.keys("output/"))
    report.require(documents == count * len(FORMATS), f"{name}: {documents} documents")
    steady = (len(ended) - 1) / took if took else 0.0
    return {
        "files a second": steady,
        "ms a file": 1000 / steady if steady else 0.0,
        "seconds in all": wall,
    }


def _keys(place: Place) -> dict[str, float]:
    command = [*KEYS, place.bucket, place.database]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    found: dict[str, float] = json.loads(done.stdout)
    return found
