"""`steno run` as processes of its own, and what they say of themselves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from stenopool.bucket import Bucket, open_bucket
from stenopool.pipeline import keys
from stenopool.pipeline.database import open_database
from stenopool.pipeline.jobs import Jobs

from .backends import Place
from .claims import digest

STENO = (sys.executable, "-m", "stenopool", "run")
SUPERVISE = (sys.executable, str(Path(__file__).parent / "supervise.py"))
ENGINES = (*SUPERVISE, "--command", sys.executable, str(Path(__file__).parent / "engines.py"))
WORKERS = ("stenopool.pipeline.process", "saboteur.py", "engines.py")
POLL_SECONDS = 0.5
STILL_SECONDS = 180.0  # without any change: it will not go on
STOP_SECONDS = 60.0
MANY = 100_000  # jobs


@dataclass
class Run:
    """A supervisor with its worker processes.

    Attributes:
        place: its bucket and database.
        log: file for what it writes to stderr, its events among it.
        model: name.
        workers: processes at most.
        program: the command and its arguments, those for the place and the model apart.
        settings: environment variables, on top of those of the place.
    """

    place: Place
    log: Path
    model: str
    workers: int = 3
    program: Sequence[str] = STENO
    settings: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.bucket: Bucket = open_bucket(self.place.bucket)
        self.jobs = Jobs(open_database(self.place.database))

    def start(self) -> None:
        """Begin."""
        command = [*self.program, "--bucket", self.place.bucket, "--database", self.place.database]
        command += ["--model", self.model, "--workers", str(self.workers), "--log-json"]
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=file,
                env={**os.environ, **self.place.environment, **self.settings},
            )

    @property
    def status(self) -> int | None:
        """Exit status of the supervisor; None while it runs."""
        return self.process.poll() if self.process else None

    def children(self) -> list[psutil.Process]:
        """The worker processes."""
        return [one for one in self.family()[1:] if _is_worker(one)]

    def family(self) -> list[psutil.Process]:
        """The supervisor and everything below it."""
        if self.process is None or self.status is not None:
            return []
        try:
            own = psutil.Process(self.process.pid)
            return [own, *own.children(recursive=True)]
        except psutil.Error:
            return []

    def kill(self) -> None:
        """End the supervisor at once."""
        if self.process:
            self.process.kill()
            self.process.wait()

    def stop(self) -> int:
        """End it in good order; gives the exit status."""
        if self.process is None:
            return 0
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            return -signal.SIGKILL

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """The events so far, of one name or all."""
        found = []
        for line in self.log.read_bytes().splitlines():
            try:
                data = json.loads(line)
            except ValueError:
                continue
            if isinstance(data, dict) and data.get("event", "") and name in {"", data["event"]}:
                found.append(data)
        return found

    def is_done(self) -> bool:
        """Whether nothing waits in `input/`, and no job is active."""
        return not self.has_input() and not self.jobs.has_active(self.bucket.url)

    def has_input(self) -> bool:
        """Whether something stands in `input/`."""
        return next(iter(self.bucket.keys(keys.INPUT)), None) is not None

    def wait(self, seconds: float) -> list[str]:
        """Until all is done; gives what is wrong."""
        until, changed, seen = time.monotonic() + seconds, time.monotonic(), ""
        while not self.is_done():
            now, state = time.monotonic(), self._state()
            if state != seen:
                changed, seen = now, state
            if self.status is not None:
                return [f"the supervisor has ended by itself with {self.status}: {self.tail()}"]
            if now > until:
                return [f"not done after {seconds:.0f} s"]
            if now - changed > STILL_SECONDS:
                return [f"nothing has changed for {STILL_SECONDS:.0f} s: {state[:300]}"]
            time.sleep(POLL_SECONDS)
        return []

    def _state(self) -> str:
        """Changes when the work gets on."""
        running = self.jobs.listed(states=("running",), limit=MANY)
        parts = [f"{one.job.key} {one.phase} {one.done_seconds:.0f}" for one in running]
        return f"{self.jobs.counts()} {sorted(parts)}"

    def mistold(self) -> list[str]:
        """What is wrong with what it has said of the jobs that have ended: each is told once."""
        told = Counter(one["job"] for one in self.events("job_ended"))
        wrong = [job.id for job in self.jobs.listed(limit=MANY) if told[job.id] != 1]
        return [f"{len(wrong)} jobs not told once, first {wrong[0]}"] if wrong else []

    def left_behind(self) -> list[str]:
        """Processes of a run that has ended; they are ended now."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if any(self.place.database in part for part in process.cmdline()):
                    found.append(f"process {process.pid} is left behind")
                    process.kill()
        return found

    def tail(self) -> str:
        """The last line of the log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return lines[-1][:300] if lines else ""


@contextmanager
def running(run: Run) -> Iterator[Run]:
    """A run that has ended when the context has."""
    run.start()
    try:
        yield run
    finally:
        if run.status is None:
            run.stop()


def send(bucket: Bucket, paths: Sequence[Path]) -> dict[str, str]:
    """Put files into `input/`; gives their SHA-256 by name."""
    sent = {}
    for path in paths:
        data = path.read_bytes()
        bucket.write(keys.INPUT + path.name, data)
        sent[path.name] = digest(data)
    return sent


def _is_worker(process: psutil.Process) -> bool:
    try:
        line = process.cmdline()
    except psutil.Error:
        return False
    return any(part.endswith(WORKERS) for part in line)
