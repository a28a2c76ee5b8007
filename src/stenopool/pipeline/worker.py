"""A worker process: one model, and the recordings and spans that wait for it.

It is a child of `pool.Pool`, which it tells, a JSON object a line, what it is doing; it ends when
its parent does. SIGTERM lets it finish the windows that are being read and end.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import IO, Any, cast

import sqlalchemy as sa
from dbos import DBOS

from stenopool.errors import StenoError
from stenopool.pipeline import flow
from stenopool.pipeline.activity import Activity, Meter
from stenopool.pipeline.database import DATABASE_ERRORS, configuration, open_database
from stenopool.pipeline.desk import Answerer, Desk
from stenopool.pipeline.job import ANY_DEVICE, FILES, SPANS, Group, Job
from stenopool.pipeline.jobs import Jobs
from stenopool.pipeline.liveness import BEAT_SECONDS, Register, release
from stenopool.pipeline.process import Spec
from stenopool.pipeline.recording import Listener
from stenopool.pipeline.streams import Speaker, Streams

STALLED, FENCED, DOUBTED = 86, 87, 88  # exit statuses
DROPPED_SECONDS = 10.0  # between two looks for work that was dropped
LEAVE_SECONDS = 5.0
DRAIN_SECONDS = 20.0
NOTE_SECONDS = 2.0
WATCH_SECONDS = 0.5
PAUSED_SECONDS = 10.0

log = logging.getLogger(__name__)


def run(spec: Spec, loaded: Callable[[], Listener], parent: IO[str], stdin: IO[str]) -> int:
    """Work until told to stop; gives the exit status.

    Args:
        loaded: gives the model.
        parent: where the parent reads what this process does.
        stdin: its first line tells the database; it ends when the parent does.
    """
    line = _Line(parent)
    said = stdin.readline()
    if not said:
        return 0  # the parent did not need this process, or is dead
    try:
        engine = open_database(json.loads(said)["database"])
    except StenoError as error:  # the parent has it open: it is away, or has too many connections
        log.warning("cannot reach the database: %s", error)
        return error.exit_status
    try:
        listener = loaded()
    except StenoError as error:
        line.tell(error={**error.record(), "exit_status": error.exit_status})
        return error.exit_status
    worker = Worker(spec, listener, engine, line)
    worker.hear(stdin)
    return worker.work()


def queues(spec: Spec) -> dict[str, str]:
    """The queues that a process serves, and the kind of each."""
    devices = {spec.group.device, ANY_DEVICE}
    groups = [Group(spec.group.model, spec.group.engine, device) for device in devices]
    return {
        group.queue(kind, alone=spec.alone, reserved=spec.reserved): kind
        for group in groups
        for kind in (FILES, SPANS)
    }


class Worker:
    """The process while it works."""

    def __init__(self, spec: Spec, listener: Listener, engine: sa.Engine, line: _Line) -> None:
        self._spec = spec
        self._jobs = Jobs(engine)
        self._register = Register(engine)
        self._line = line
        self._meter = Meter()
        self._active: dict[str, Activity] = {}
        self._stopping = threading.Event()
        self._dbos: DBOS | None = None
        self.id = self._register.enter(
            spec.group.queue(FILES, alone=spec.alone, reserved=spec.reserved)
        )
        self._engine = engine
        self._desk = Desk(cast("Answerer", listener), self._meter, line.tell, self._tell)
        self._streams = Streams(cast("Speaker", listener), line.tell)
        flow.use(
            flow.Process(
                self.id,
                self._jobs,
                listener,
                self._begin,
                self._end,
                self._doubt,
                self._has_helpers,
            )
        )

    def work(self) -> int:
        """Until a signal comes."""
        signal.signal(signal.SIGTERM, lambda *_: self._stopping.set())
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
        self._line.tell(id=self.id)
        self._dbos = DBOS(config=configuration(self._engine, self.id))
        served = queues(self._spec)
        for queue, kind in served.items():
            self._jobs.register(queue, kind, alone=self._spec.alone)
        DBOS.listen_queues([*served])
        for work in (self._watch, self._keep):
            threading.Thread(target=work, name=work.__name__, daemon=True).start()
        DBOS.launch()
        self._line.tell(ready=True)
        while not self._stopping.wait(1.0):
            self._tell()
        return self._drained()

    def hear(self, stdin: IO[str]) -> None:
        """Take the requests of the parent; end when it does."""

        def take() -> None:
            try:
                for line in stdin:
                    said = json.loads(line)  # half a line of a parent that was killed is none
                    (self._streams if "live" in said else self._desk).take(said)
            finally:
                self._leave()

        threading.Thread(target=take, name="parent", daemon=True).start()

    def _leave(self) -> None:
        """The parent has gone: hand back what is in hand, so that nobody thinks it was killed by
        that, and end."""
        threading.Timer(LEAVE_SECONDS, os._exit, (0,)).start()  # the database may be gone as well
        self._take_no_more()
        with contextlib.suppress(Exception):
            while release(self._jobs, self.id, None, ()):
                pass  # a look at the queues that had begun may have taken some
            self._register.remove(self.id)
        os._exit(0)

    def _take_no_more(self) -> None:
        """Let DBOS look at no queue any more, or it takes what is handed back at once."""
        for event in self._dbos.background_thread_stop_events if self._dbos else ():
            event.set()

    def _drained(self) -> int:
        """Let windows that are being read be kept; everything else is for the next worker."""
        self._take_no_more()
        for activity in list(self._active.values()):
            activity.stop(park=True)
        until = time.monotonic() + DRAIN_SECONDS
        while time.monotonic() < until and self._is_computing():
            time.sleep(0.05)
        return 0

    def _is_computing(self) -> bool:
        active = list(self._active.values())
        reading = any(one.reading_seconds > 0 or one.keeping for one in active)
        return reading or bool(self._desk.active)

    def _begin(self, id: str, notes: dict[str, Any]) -> Activity:
        activity = Activity(id, self._meter, self._tell, notes)
        self._active[id] = activity
        if self._stopping.is_set():
            activity.stop(park=True)
        self._tell()
        return activity

    def _end(self, activity: Activity) -> None:
        if self._active.get(activity.id) is activity:
            del self._active[activity.id]
        self._tell()

    def _doubt(self, id: str) -> None:
        """The model failed with a job: that is only held against it in a process of its own."""
        if not self._spec.alone:
            self._line.tell(suspect=id)
            os._exit(DOUBTED)

    def _has_helpers(self, job: Job) -> bool:
        """Whether others read spans of a job, or would if some waited."""
        if self._spec.in_company:
            return True
        try:
            rows = self._register.all()
        except DATABASE_ERRORS as error:  # no reason to give up what is being read
            log.warning("cannot reach the database: %s", error)
            return False
        groups = [Group.of_queue(row.group) for row in rows if row.id != self.id]
        return any(job.queue(SPANS) in queues(Spec(*group)) for group in groups if group)

    def _tell(self) -> None:
        active = [*self._active.values(), *self._desk.active.values()]
        computing = [one.id for one in active if one.computing_since is not None]
        reading = sum(one.reading_seconds for one in active)
        jobs = len(active) + len(self._streams.active)
        self._line.tell(jobs=jobs, computing=computing, reading_seconds=round(reading, 1))

    def _watch(self) -> None:
        """Ends the process when a recording does not get on: no thread can be ended alone."""
        before = time.monotonic()
        while True:
            time.sleep(WATCH_SECONDS)
            now = time.monotonic()
            paused, before = now - before > PAUSED_SECONDS, now
            for one in [*self._active.values(), *self._desk.active.values()]:
                since = one.computing_since
                if since is None:
                    continue
                if paused:  # the whole process was, and nobody could get on
                    one.computing_since = now
                elif now - since > self._spec.stall_seconds:
                    self._line.tell(suspect=one.id)
                    os._exit(STALLED)

    def _keep(self) -> None:
        """Beats, tells the database what is new, and hears what was cancelled."""
        beaten, looked = 0.0, 0.0
        idle: set[str] = set()
        while True:
            time.sleep(NOTE_SECONDS)
            try:
                if time.monotonic() - looked >= DROPPED_SECONDS:
                    looked = time.monotonic()
                    idle = self._hand_back(idle)
                if time.monotonic() - beaten >= BEAT_SECONDS:
                    beaten = time.monotonic()
                    if not self._register.beat(self.id):
                        os._exit(FENCED)
                self._write_notes()
                self._hear()
            except Exception as error:  # noqa: BLE001  the database may be away for a while
                log.warning("cannot reach the database: %s", error)

    def _hand_back(self, before: set[str]) -> set[str]:
        """Hand back what is ours by the database, but is not being done, now and a look before.

        DBOS gives up a workflow when the database fails in a way that it does not know, and then
        nobody would go on with it as long as this process lives.
        """
        rows = self._jobs.client.list_workflows(executor_id=self.id, status="PENDING")
        idle = {row.workflow_id: row for row in rows if row.workflow_id not in self._active}
        for id in before.intersection(idle):
            self._jobs.put_back(id, idle[id].queue_name)
        return set(idle)

    def _write_notes(self) -> None:
        for one in list(self._active.values()):
            with one.writing:
                if notes := one.take_notes():
                    self._jobs.client.update_workflow_attributes(one.id, notes, merge=True)

    def _hear(self) -> None:
        active = dict(self._active)
        rows = self._jobs.of_ids([*active])
        for id, activity in active.items():
            row = rows.get(id)
            if row is None or row.status == "CANCELLED":
                activity.stop()
            elif row.status != "PENDING" or row.executor_id != self.id:
                # Ours no more; or it has just ended, and this comes too late to matter.
                activity.stop()


class _Line:
    """Tells the parent something, whole lines at a time.

    A parent that has gone is told nothing: that its end was heard of ends this process, and until
    then no job may fail of it.
    """

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._lock = threading.Lock()

    def tell(self, **what: object) -> None:
        text = json.dumps(what)
        with self._lock, contextlib.suppress(BrokenPipeError):
            self._file.write(text + "\n")
            self._file.flush()
