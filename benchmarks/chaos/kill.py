"""Worker processes killed at random, again and again, while they transcribe."""

from __future__ import annotations

import argparse
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import psutil

from .backends import Backend, backend
from .claims import Found, broken, broken_jobs, collected, drift
from .recordings import lengths, make, seconds_of
from .report import Report
from .running import MANY, Run, running, send

BROKEN = b"RIFF, but nothing that could be heard follows\n"  # fails in every run
HOURS = 3600.0


@dataclass
class Kills:
    """What killing has done.

    Attributes:
        victims: process ids.
        lost: seconds of audio that were being read, at each kill.
    """

    victims: list[int] = field(default_factory=list)
    lost: list[float] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.victims)

    def figures(self) -> dict[str, object]:
        """For the report."""
        return {
            "kills": self.count,
            "audio lost, seconds, in all": round(sum(self.lost), 1),
            "audio lost, seconds, most by one kill": max(self.lost, default=0.0),
            "audio lost, seconds, mean": sum(self.lost) / max(1, len(self.lost)),
        }


def measure(arguments: argparse.Namespace, folder: Path) -> Report:
    """Transcribe undisturbed, then under fire; compare."""
    report = Report(f"kill: {arguments.backend}, {arguments.workers} workers, {arguments.model}")
    with backend(arguments.backend, folder) as places:
        scene = Scene(places, folder, arguments.model, arguments.workers)
        scene.prepare(lengths(arguments.recordings), arguments.data)
        report.figures["recordings"] = len(scene.paths)
        report.figures["audio, minutes"] = scene.seconds / 60
        report.figures["undisturbed, seconds"] = calm = scene.undisturbed(report)
        run = scene.run("disturbed")
        sent = send(run.bucket, scene.paths)
        begun = time.monotonic()
        with running(run):
            kills = kill_workers(run, arguments.kills, arguments.every)
            report.add("disturbed", run.wait(HOURS))
            took = time.monotonic() - begun
        report.figures["disturbed, seconds"] = took
        report.figures["disturbed over undisturbed"] = took / calm
        kills.lost = [
            one["lost_audio_seconds"] for one in run.events("worker_ended") if one["death"]
        ]
        report.figures |= kills.figures()
        report.require(kills.count == arguments.kills, f"only {kills.count} kills were possible")
        scene.judge(report, "disturbed", run, sent)
        report.add("disturbed", run.mistold())
    return report


@dataclass
class Scene:
    """Recordings, and what an undisturbed run makes of them."""

    places: Backend
    folder: Path
    model: str
    workers: int
    paths: list[Path] = field(default_factory=list)
    seconds: float = 0.0  # of audio
    reference: Found | None = None

    def prepare(self, seconds: list[float], data: Path | None = None) -> None:
        """Make the recordings."""
        self.paths = make(self.folder / "recordings", seconds, data)
        self.seconds = seconds_of(self.paths)
        wrong = self.folder / "recordings" / "broken.wav"
        wrong.write_bytes(BROKEN)
        self.paths.append(wrong)

    def undisturbed(self, report: Report) -> float:
        """Transcribe all of them and keep what comes out; gives the seconds that it took."""
        run = self.run("undisturbed")
        sent = send(run.bucket, self.paths)
        begun = time.monotonic()
        with running(run):
            report.add("undisturbed", run.wait(HOURS))
            took = time.monotonic() - begun
        self.reference = collected(run.bucket)
        self.judge(report, "undisturbed", run, sent)
        done = len(self.reference.processed)
        report.require(done == len(self.paths) - 1, f"undisturbed: only {done} were transcribed")
        return took

    def run(self, name: str) -> Run:
        """A run in a place of its own."""
        log = self.folder / f"{name}.log"
        return Run(self.places.place(name), log, self.model, self.workers)

    def judge(self, report: Report, name: str, run: Run, sent: dict[str, str]) -> None:
        """Report what does not hold of a run that has ended."""
        if self.reference is None:
            raise RuntimeError("`undisturbed` comes first")
        found = collected(run.bucket)
        report.add(name, broken(sent, found, self.reference))
        report.figures[f"{name}, drift of probabilities"] = drift(found, self.reference)
        report.add(name, run.left_behind())
        report.add(name, broken_jobs(run.jobs.listed(limit=MANY)))


def kill_workers(run: Run, count: int, every: float) -> Kills:
    """Kill a random worker process every few seconds, until all is done."""
    kills, random = Kills(), Random()  # noqa: S311  no secret
    while kills.count < count:
        time.sleep(every * random.uniform(0.5, 1.5))
        if run.is_done() or run.status is not None:
            break
        if victims := run.children():
            victim = random.choice(victims)
            with suppress(psutil.NoSuchProcess):
                victim.kill()
                kills.victims.append(victim.pid)
    return kills
