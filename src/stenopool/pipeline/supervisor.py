"""One loop that watches buckets, looks after processes and puts right what died.

It holds no model: with nothing to do there is only this loop.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import sqlalchemy as sa

from stenopool.bucket import Bucket
from stenopool.errors import StenoError
from stenopool.pipeline import keys
from stenopool.pipeline.batch import finish_batches
from stenopool.pipeline.checkpoints import Checkpoints
from stenopool.pipeline.database import DATABASE_ERRORS
from stenopool.pipeline.events import event
from stenopool.pipeline.job import Group
from stenopool.pipeline.jobs import ACTIVE, Jobs, JobView, state_of
from stenopool.pipeline.liveness import Janitor
from stenopool.pipeline.pool import Limits, Pool
from stenopool.pipeline.process import COMMAND, Begun
from stenopool.pipeline.queue import uncut_parts
from stenopool.pipeline.watch import Watcher

TICK_SECONDS = 0.2
LOOK_SECONDS = 2.0
SWEEP_SECONDS = 5.0
WORKING_SECONDS = 1.0  # between ticks while processes work and nothing happens to them
IDLE_SECONDS = 1.0  # between ticks with nothing to do
TELL_SECONDS = 1.0
OVERLAP_SECONDS = 5.0  # of what is asked for: clocks of machines differ
TIDY_SECONDS = 600.0
LEAST_SHARE = 20  # a look that took a second is not repeated for so many
DAY = 86_400.0


class Observer(Protocol):
    """Is told what happens."""

    def running(self, jobs: Sequence[JobView]) -> None:
        """What runs now."""

    def ended(self, job: JobView) -> None:
        """A job has ended."""


@dataclass
class Supervisor:
    """Runs until told to stop, or until there is nothing left to do.

    Attributes:
        database: URL.
        watcher: None where only the queues are served.
        history_days: after which ended jobs are forgotten.
        command: of a worker process.
        early: one that has begun already.
        brisk: requests may come at any moment, so it never sleeps long.
        on_failure: is told of a model that could not be loaded.
        duties: called at each sweep, such as schedules.
    """

    jobs: Jobs
    database: str
    limits: Limits
    observer: Observer
    bucket: Bucket | None = None
    watcher: Watcher | None = None
    history_days: float = 30.0
    command: Sequence[str] = COMMAND
    early: Begun | None = None
    duties: Sequence[Callable[[], object]] = ()
    batch: str = ""
    brisk: bool = False
    on_failure: Callable[[Group, dict[str, Any]], None] = lambda group, error: None
    stopping: Callable[[], bool] = lambda: False
    _next: dict[str, float] = field(default_factory=dict)
    _failures: dict[Group, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pool = Pool(
            self.jobs,
            self.database,
            self.limits,
            self._cannot_load,
            command=self.command,
            early=self.early,
        )
        self._janitor = Janitor(self.jobs)
        self._since = time.time()
        earlier = self.jobs.ended(self._since - OVERLAP_SECONDS)
        self._told = {  # ids of jobs, and when they ended
            job.id: job.finished or self._since for job in earlier
        }
        self._young = 0  # recordings that are still being copied
        self._counts: dict[str, dict[str, int]] = {}
        self._parts: dict[str, int] = {}  # of recordings that are read by one process each

    def run(self, *, once: bool = False) -> dict[Group, dict[str, Any]]:
        """Work.

        Args:
            once: end when everything that is there has been done, as far as this supervisor can.

        Returns:
            errors of the models that could not be loaded.
        """
        over = threading.Event()
        threading.Thread(target=self._guard, args=[over], name="guard", daemon=True).start()
        try:
            while not self.stopping():
                left = self._tick()
                if once and not left:
                    break
                busy = self.brisk or self.pool.children or left
                self._pause(TICK_SECONDS if busy else IDLE_SECONDS)
        finally:
            self._finish()
            over.set()
        return self._failures

    def _guard(self, over: threading.Event) -> None:
        """Look after the processes though a round takes long: it may wait for the database, and
        that for a lock which a frozen process holds.
        """
        while not over.wait(TICK_SECONDS):
            self.pool.check()

    def _pause(self, seconds: float) -> None:
        """Until the next round. While processes work that is when something happens to them, or a
        second: a round takes some milliseconds of a core that a model may be using.
        """
        until = time.monotonic() + WORKING_SECONDS
        time.sleep(seconds)
        while self._waits_for_news() and time.monotonic() < until:
            self.pool.news.wait(TICK_SECONDS)
        self.pool.news.clear()

    def _waits_for_news(self) -> bool:
        works = any(child.jobs for child in self.pool.children)
        return works and not (self.brisk or self.pool.news.is_set() or self.stopping())

    def _finish(self) -> None:
        """Leave nothing behind; trouble on the way is left to the next run."""
        try:
            self.pool.stop()
            self._next.pop("tell", None)
            self._tell()
            if self.bucket:
                tidy(self.jobs, self.bucket)
                finish_batches(self.jobs, self.bucket)
        except (StenoError, *DATABASE_ERRORS) as error:
            event("trouble", logging.WARNING, message=str(error))

    def _tick(self) -> bool:
        """One round; whether something is left to do."""
        try:
            if self.watcher and self._is_due("look", LOOK_SECONDS):
                begun = time.monotonic()
                _, self._young = self.watcher.look()
                self._put_off("look", LEAST_SHARE * (time.monotonic() - begun))
            if self._is_due("sweep", SWEEP_SECONDS):
                self._sweep()
            if self.bucket and self._is_due("tidy", TIDY_SECONDS):
                tidy(self.jobs, self.bucket)
                finish_batches(self.jobs, self.bucket)
            counted = self._is_due("count", 0.0)
            if counted:
                begun = time.monotonic()
                self._counts = self.jobs.counts()
                self.jobs.pace(self._counts)
                self._put_off("count", LEAST_SHARE * (time.monotonic() - begun))
            self.pool.tick(self._wanted_counts())
            for child in self.pool.children:
                if child.ready:
                    self._failures.pop(child.kind.group, None)
            self._tell()
            return bool(self._young) or not counted or self._has_work()
        except StenoError as error:  # of the storage; jobs report their own
            event("trouble", logging.WARNING, **error.record())
            self._put_off("look", LOOK_SECONDS)
            return True
        except DATABASE_ERRORS as error:
            message = str(error.orig if isinstance(error, sa.exc.DBAPIError) else error)
            event("trouble", logging.WARNING, code="database", message=message)
            time.sleep(IDLE_SECONDS)  # not five times a second while it is away
            return True
        except OSError as error:  # no process could be started, too many files are open
            event("trouble", logging.WARNING, code="system", message=str(error))
            time.sleep(IDLE_SECONDS)
            return True

    def _wanted_counts(self) -> dict[str, dict[str, int]]:
        """What is there for processes, with the recordings that another process reads alone.

        It shares them as soon as it sees that one more is there.
        """
        if len(self.pool.children) >= self.limits.most or not any(
            count.get("PENDING") for count in self._counts.values()
        ):
            return self._counts
        if self._is_due("parts", SWEEP_SECONDS):
            self._parts = uncut_parts(self.jobs)
        shared = {queue: {"ENQUEUED": parts} for queue, parts in self._parts.items()}
        return {**shared, **{q: {**shared.get(q, {}), **n} for q, n in self._counts.items()}}

    def _has_work(self) -> bool:
        if self.pool.unfinished(self._counts) <= self._failures.keys():
            return False  # what is left, if anything, is for others
        return self.bucket is None or self.jobs.has_active(self.bucket.url, self.batch)

    def _sweep(self) -> None:
        for worker in self._janitor.sweep(self.pool.ids()):
            event("worker_taken_for_dead", logging.WARNING, worker=worker)
        if self._is_due("forget", 3600.0):
            self.jobs.forget(time.time() - self.history_days * DAY)
        for duty in self.duties:
            duty()

    def _tell(self) -> None:
        """The observer of what has ended, each once, and of what runs."""
        if not self._is_due("tell", TELL_SECONDS):
            return
        for job in reversed([*self.jobs.ended(self._since - OVERLAP_SECONDS)]):
            if job.id in self._told or not self._is_ours(job):
                continue
            self._told[job.id] = finished = job.finished or self._since
            self._since = max(self._since, finished)
            event("job_ended", **_outline(job))
            self.observer.ended(job)
        old = self._since - 2 * OVERLAP_SECONDS
        self._told = {id: at for id, at in self._told.items() if at >= old}
        if self.pool.children:
            self.observer.running([*self.jobs.listed(states=("running",), limit=20)])

    def _is_ours(self, job: JobView) -> bool:
        if self.batch and f"{job.job.batch}.{job.job.child}" != self.batch:
            return False
        return self.bucket is None or job.job.bucket == self.bucket.url

    def _cannot_load(self, group: Group, error: dict[str, Any]) -> None:
        event("model_not_loaded", logging.ERROR, model=group.model, **error)
        self._failures[group] = error
        self.on_failure(group, error)

    def _is_due(self, what: str, seconds: float) -> bool:
        now = time.monotonic()
        if now < self._next.get(what, 0.0):
            return False
        self._next[what] = now + seconds
        return True

    def _put_off(self, what: str, seconds: float) -> None:
        self._next[what] = max(self._next.get(what, 0.0), time.monotonic() + seconds)


def _outline(job: JobView) -> dict[str, object]:
    return {
        "job": job.id,
        "state": job.state,
        "worker": job.worker,
        "attempts": job.attempts,
        "deaths": job.deaths,
        "audio_seconds": job.total_seconds,
        "compute_seconds": job.compute_seconds,
        "code": (job.error or {}).get("code"),
    }


def tidy(jobs: Jobs, bucket: Bucket) -> None:
    """Remove what jobs have left in `work/` that ended without cleaning up: cancelled ones."""
    seen: set[str] = set()
    for key in bucket.keys(keys.WORK):
        job_id = key.removeprefix(keys.WORK).partition("/")[0]
        if job_id in seen or not keys.is_job_id(job_id):
            continue
        seen.add(job_id)
        row = jobs.of_ids([job_id]).get(job_id)
        if row is not None and state_of(row) not in ACTIVE:
            Checkpoints(bucket, job_id).clear()
