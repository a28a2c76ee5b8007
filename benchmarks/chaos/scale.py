"""Throughput of one worker process and of many, and of those that one leaves alone."""

from __future__ import annotations

import argparse
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil

from stenopool.pipeline import keys
from stenopool.pipeline.jobs import JobView
from stenopool.pipeline.liveness import DEAD_SECONDS

from .backends import Folders, Postgres, postgres
from .claims import Found, broken, broken_jobs, collected, digest
from .overhead import fill
from .report import Report
from .running import ENGINES, MANY, Run, running

SECONDS = 2.0  # that each recording takes
PATIENCE = 1800.0
MIDDLE = (0.25, 0.75)  # of the jobs: while all processes are up and none has run dry
LEAST_SHARE = 0.9  # of the throughput that so many processes should have
CONNECTIONS = 500  # that the database takes, so that it is not what is measured
FROZEN_SECONDS = DEAD_SECONDS + 20.0


def measure(arguments: argparse.Namespace, folder: Path) -> Report:
    """Throughput, then a process that stands still for a while."""
    report = Report(f"scale: {SECONDS:.0f} s a recording, PostgreSQL")
    with postgres(folder) as server:
        server.allow(CONNECTIONS)
        rates = {
            workers: _rate(report, server, folder, workers, arguments.each)
            for workers in sorted(set(arguments.processes))
        }
        for workers, rate in rates.items():
            report.figures[f"{workers} processes, recordings a second"] = rate
        fewest, most = min(rates), max(rates)
        ratio = rates[most] / rates[fewest]
        report.figures[f"throughput {most}:{fewest}"] = ratio
        wanted = LEAST_SHARE * most / fewest
        report.require(ratio >= wanted, f"throughput ratio is {ratio:.1f}, below {wanted:.1f}")
        _frozen(report, server, folder)
    return report


def _run(server: Postgres, folder: Path, name: str, workers: int, count: int) -> Run:
    place = Folders(folder).place(name)
    fill(Path(place.bucket), count)
    place = replace(place, database=server.database(name))
    program = (*ENGINES, str(SECONDS))
    return Run(place, folder / f"{name}.log", "none", workers, program=program)


def _rate(report: Report, server: Postgres, folder: Path, workers: int, each: int) -> float:
    name = f"workers-{workers}"
    run = _run(server, folder, name, workers, workers * each)
    with running(run), counted(partial(server.connections, name)) as most:
        report.add(name, run.wait(PATIENCE))
    report.figures[f"{workers} processes, connections"] = most[0]
    jobs = [*run.jobs.listed(states=("done",), limit=MANY)]
    report.require(len(jobs) == workers * each, f"{name}: only {len(jobs)} are done")
    return steady(jobs)


@contextmanager
def counted(count: Callable[[], int]) -> Iterator[list[int]]:
    """Counts again and again while the context lasts; gives a list of the highest count."""
    most, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(1.0):
            most[0] = max(most[0], count())

    thread = threading.Thread(target=watch, name="count")
    thread.start()
    try:
        yield most
    finally:
        ended.set()
        thread.join()


def steady(jobs: list[JobView]) -> float:
    """Jobs a second, in the middle of a run."""
    ended = sorted(one.finished or 0.0 for one in jobs)
    if len(ended) < 4:
        return 0.0
    first, last = (round(share * (len(ended) - 1)) for share in MIDDLE)
    return (last - first) / (ended[last] - ended[first])


def _frozen(report: Report, server: Postgres, folder: Path) -> None:
    """A process that is stopped for longer than others wait for it, and goes on then.

    A supervisor is patient with its own processes, so there is another one, as of another machine.
    """
    run = _run(server, folder, "frozen", 2, 90)
    other = replace(run, log=folder / "frozen-other.log")
    sent = {
        key.removeprefix(keys.INPUT): digest(run.bucket.read(key) or b"")
        for key in run.bucket.keys(keys.INPUT)
    }
    with running(run):
        victim = _victim(run)
        victim.send_signal(signal.SIGSTOP)
        held = {job.id for job in _held(run, victim)}
        with running(other):
            report.add("frozen", run.wait(FROZEN_SECONDS + PATIENCE))
            _continued(report, run, victim, held)
        taken = [*run.events("worker_taken_for_dead"), *other.events("worker_taken_for_dead")]
        report.require(bool(taken), "frozen: nobody took it for dead")
    found = collected(run.bucket)
    # The texts tell their recordings, so no undisturbed run is needed to compare with.
    report.add("frozen", broken(sent, found, found))
    report.add("frozen", broken_jobs(run.jobs.listed(limit=MANY)))
    wrong = [name for name, one in sent.items() if one.encode() not in _text(found, name)]
    report.require(not wrong, f"frozen: {len(wrong)} transcripts of another recording")


def _continued(report: Report, run: Run, victim: psutil.Process, held: set[str]) -> None:
    """Let it go on; it must end, as its work was done by others."""
    others = {job.worker for job in run.jobs.listed(limit=MANY) if job.id in held}
    begun = time.monotonic()
    victim.send_signal(signal.SIGCONT)
    ended = _ended(victim)
    report.figures["cut off: jobs that it held"] = len(held)
    report.figures["cut off: processes that did them"] = len(others)
    report.figures["cut off: ended after, seconds"] = time.monotonic() - begun
    report.require(ended, "frozen: it still runs")
    report.require(bool(held), "frozen: it held nothing")


def _victim(run: Run) -> psutil.Process:
    """A process that is at work."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        for child in run.children():
            if _held(run, child):
                return child
        time.sleep(0.2)
    raise RuntimeError("no worker process took up any work")


def _held(run: Run, process: psutil.Process) -> list[JobView]:
    jobs = run.jobs.listed(states=("running",), limit=MANY)
    return [one for one in jobs if f":{process.pid}:" in one.worker]


def _ended(process: psutil.Process) -> bool:
    try:
        process.wait(30)
    except psutil.TimeoutExpired:
        return False
    return True


def _text(found: Found, name: str) -> bytes:
    return found.documents.get(f"{name}.txt", b"")
