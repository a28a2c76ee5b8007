"""What runs depend on fails for a while: the supervisor, database, storage, disk and clock."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from . import machine
from .backends import Backend, Cloud, Folders, Place, backend, environment
from .kill import HOURS, Scene
from .proxy import FAULTS, Proxy, proxy
from .recordings import lengths
from .report import Report
from .running import Run, running, send

SUPERVISOR_KILLS = 2
DAY = 86_400
JUMPS = (DAY, -DAY, 0)  # seconds, one after the other
ROOM = 24 * 2**20  # bytes on the small disk, besides recordings

Disturb = Callable[[Run], Mapping[str, int]]
"""Makes a fault and ends it; gives figures, if there are any."""


@dataclass(frozen=True)
class Trouble:
    """A fault.

    Attributes:
        name: for the report.
        disturb: makes it, and ends it.
        place: where the run is, if that matters.
        reason: why it cannot be tried; empty if it can.
    """

    name: str
    disturb: Disturb
    place: Callable[[], AbstractContextManager[Place]] | None = None
    reason: str = ""


def measure(arguments: argparse.Namespace, folder: Path) -> Report:
    """Transcribe undisturbed, then once with each fault."""
    report = Report(f"faults: {arguments.backend}, {arguments.fault_seconds:.0f} s each")
    with backend(arguments.backend, folder) as places:
        scene = Scene(places, folder, arguments.model, arguments.workers)
        scene.prepare(lengths(arguments.recordings), arguments.data)
        report.figures["audio, minutes"] = scene.seconds / 60
        report.figures["undisturbed, seconds"] = scene.undisturbed(report)
        for trouble in _troubles(places, scene, arguments.fault_seconds):
            if arguments.only and trouble.name not in arguments.only:
                continue
            if trouble.reason:
                report.skipped[trouble.name] = trouble.reason
            else:
                _try(report, scene, trouble)
    return report


def _troubles(places: Backend, scene: Scene, seconds: float) -> Iterator[Trouble]:
    yield Trouble("supervisor", lambda run: _supervisor(run, seconds))
    if isinstance(places, Cloud):
        yield Trouble("database", lambda run: _database(run, places, seconds))
        for fault in FAULTS[1:]:
            place = _Proxied(places, f"storage-{fault}")
            yield Trouble(f"storage-{fault}", place.disturb(fault, seconds), place)
        yield Trouble("disk", _nothing, reason="the bucket and the database are on servers")
    else:
        yield from _disks(scene, seconds)
    yield Trouble("clock", lambda run: _clock(run, seconds))


def _try(report: Report, scene: Scene, trouble: Trouble) -> None:
    name = trouble.name
    place = trouble.place() if trouble.place else nullcontext(scene.places.place(name))
    with place as found:
        run = Run(found, scene.folder / f"{name}.log", scene.model, scene.workers)
        run.settings = machine.clock_settings(run.log) if name == "clock" else {}
        sent = send(run.bucket, scene.paths)
        begun = time.monotonic()
        with running(run):
            _wait_until_busy(run)
            for what, figure in trouble.disturb(run).items():
                report.figures[f"{name}, {what}"] = figure
            if run.status is not None:
                report.add(name, [f"the supervisor has ended by itself: {run.tail()}"])
                run.start()
            report.add(name, run.wait(HOURS))
            report.figures[f"{name}, seconds"] = time.monotonic() - begun
        scene.judge(report, name, run, sent)
        if name != "supervisor":  # one that was killed tells nothing
            report.add(name, run.mistold())


def _wait_until_busy(run: Run) -> None:
    """Until something is being transcribed, and some of it is kept."""
    until = time.monotonic() + HOURS
    while run.status is None and time.monotonic() < until:
        if any(job.done_seconds for job in run.jobs.listed(states=("running",))):
            return
        time.sleep(0.2)


def _nothing(_: Run) -> Mapping[str, int]:
    return {}


def _supervisor(run: Run, seconds: float) -> Mapping[str, int]:
    for _ in range(SUPERVISOR_KILLS):
        run.kill()
        run.start()
        time.sleep(seconds)
    return {"kills": SUPERVISOR_KILLS}


def _database(run: Run, places: Cloud, seconds: float) -> Mapping[str, int]:
    run.jobs.engine.dispose()
    places.postgres.stop()
    time.sleep(seconds)
    places.postgres.start()
    return {}


class _Proxied:
    """A place whose storage is reached through a proxy."""

    def __init__(self, places: Cloud, name: str) -> None:
        self._places = places
        self._name = name
        self._proxy: Proxy | None = None

    @contextmanager
    def __call__(self) -> Iterator[Place]:
        place = self._places.place(self._name)
        with proxy(self._places.endpoint) as self._proxy:
            yield replace(place, environment=environment(self._proxy.endpoint))

    def disturb(self, fault: str, seconds: float) -> Disturb:
        def disturb(_: Run) -> Mapping[str, int]:
            if self._proxy is None:
                raise RuntimeError("the place is not there")
            self._proxy.fault = next(one for one in FAULTS if one == fault)
            time.sleep(seconds)
            self._proxy.fault = "none"
            return {"requests that met it": self._proxy.seen[fault]}

        return disturb


def _disks(scene: Scene, seconds: float) -> Iterator[Trouble]:
    """The disk of the bucket, with the database on another one and on the same one."""
    disk = scene.folder / "disk"
    size = sum(path.stat().st_size for path in scene.paths) + ROOM
    reason = machine.no_disk(disk)

    @contextmanager
    def place(database: Path) -> Iterator[Place]:
        with machine.small_disk(disk, size):
            found = Folders(disk).place("bucket")
            yield replace(found, database=f"sqlite:///{database}")

    def disturb(_: Run) -> Mapping[str, int]:
        with machine.filled(disk) as size:
            time.sleep(seconds)
        return {"bytes that filled it": size}

    for name, folder in (("disk", scene.folder), ("disk-with-database", disk)):
        database = folder / f"{name}.sqlite"
        yield Trouble(name, disturb, partial(place, database), reason)


def _clock(run: Run, seconds: float) -> Mapping[str, int]:
    for jump in JUMPS:
        machine.jump(run.log, jump)
        time.sleep(seconds)
    return {"jumps": len(JUMPS)}
