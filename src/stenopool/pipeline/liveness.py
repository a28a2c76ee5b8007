"""Which worker processes live, and what becomes of the work of those that do not.

A worker counts its beats up in the database; whoever watches decides by a clock of its own that
never jumps. On the same machine the process itself is looked for, so its end is seen at once. A
worker that is wrongly taken for dead does no harm: DBOS accepts no step of a workflow that was
given to another, what is kept in `work/` is made once, and the worker ends when it finds out.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import psutil
import sqlalchemy as sa
from dbos import WorkflowStatus

from stenopool.pipeline.database import workers
from stenopool.pipeline.job import FILES, SPANS, Group
from stenopool.pipeline.jobs import TRANSCRIBE, Jobs

BEAT_SECONDS = 5.0
DEAD_SECONDS = 40.0  # without a beat
PARENT_SECONDS = 4.0  # for the parent of a process to release what it held
BLIND_SECONDS = 15.0  # a watcher that has not looked for so long may not judge

CRASHES = 2  # that prove a recording guilty: one in company, one alone
SUSPICIOUS = 3  # losses of whole machines, after which a recording is tried alone
LOSSES = 10  # the same for processes that somebody else may have killed

Death: TypeAlias = Literal["crashed", "stalled", "memory", "lost"]

_MESSAGES: dict[Death, str] = {
    "crashed": "transcribing it has ended the process {count} times",
    "stalled": "transcribing it came to a standstill {count} times",
    "memory": "transcribing it took more memory than a worker may use, {count} times",
    "lost": "the process that transcribed it was killed {count} times without getting on",
}


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker process as the database knows it."""

    id: str
    host: str
    pid: int
    born: str
    group: str
    beat: int
    since: float


def host_name() -> str:
    """This machine since its start; in containers, this one."""
    marks = [socket.gethostname()]
    with contextlib.suppress(OSError):
        marks.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8])
    with contextlib.suppress(OSError):
        marks.append(Path("/proc/self/ns/pid").readlink().name)
    return "/".join(marks)


def birth_of(pid: int) -> str | None:
    """When a process began, in ticks that no clock can move; None if there is none of this id."""
    try:
        # The name may hold anything, so fields are counted from its closing bracket.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
    except (OSError, IndexError):
        pass
    try:
        return str(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


class Register:
    """The table of workers."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def enter(self, group: str) -> str:
        """Enter this process; gives its id, which no process had before."""
        name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        row = {
            "id": name,
            "host": host_name(),
            "pid": os.getpid(),
            "born": birth_of(os.getpid()) or "",
            "group": group,
            "beat": 0,
            "since": time.time(),
        }
        with self._engine.begin() as connection:
            connection.execute(sa.insert(workers).values(row))
        return name

    def beat(self, worker: str) -> bool:
        """Say that a worker lives; False if it was taken for dead."""
        change = sa.update(workers).where(workers.c.id == worker)
        with self._engine.begin() as connection:
            result = connection.execute(change.values(beat=workers.c.beat + 1))
        return result.rowcount == 1

    def remove(self, worker: str) -> None:
        """Take a worker out."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(workers).where(workers.c.id == worker))

    def all(self) -> list[WorkerRow]:
        """Every worker that is entered."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(workers)).all()
        return [WorkerRow(*row) for row in rows]


class Janitor:
    """Gives the work of dead workers to others."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._register = Register(jobs.engine)
        self._host = host_name()
        self._seen: dict[str, tuple[int, float]] = {}  # beat, and when it was new
        self._gone: dict[str, float] = {}  # when a process of this machine was first missed
        self._looked = time.monotonic()

    def sweep(self, own: Collection[str] = ()) -> list[str]:
        """Release what dead workers held; gives their ids.

        Args:
            own: workers that the caller looks after itself, and knows more about.
        """
        holders = self._holders()  # before the workers: one that comes up meanwhile is no stranger
        rows = [row for row in self._register.all() if row.id not in own]
        now = time.monotonic()
        if now - self._looked > BLIND_SECONDS:
            self._seen = {}
        self._looked = now
        dead = [row for row in rows if self._is_dead(row, now)]
        for row in dead:
            self._register.remove(row.id)  # first: its beat tells it, if it lives after all
        living = {row.id for row in rows if row not in dead}
        self._seen = {id: seen for id, seen in self._seen.items() if id in living}
        self._gone = {id: since for id, since in self._gone.items() if id in living}
        for stranger in holders.difference(living, own):
            release(self._jobs, stranger, "lost", None)
        return [row.id for row in dead]

    def _is_dead(self, row: WorkerRow, now: float) -> bool:
        if row.host == self._host and birth_of(row.pid) != row.born:
            # Its parent, who knows how it ended, comes first.
            return now - self._gone.setdefault(row.id, now) >= PARENT_SECONDS
        beat, since = self._seen.get(row.id, (-1, now))
        self._seen[row.id] = (row.beat, since if beat == row.beat else now)
        return now - self._seen[row.id][1] >= DEAD_SECONDS

    def _holders(self) -> set[str]:
        """Workers that hold work, also those that were taken out, by whomever."""
        pending = self._jobs.client.list_workflows(
            status="PENDING", queues_only=True, load_input=False, load_output=False
        )
        return {row.executor_id or "" for row in pending}


def release(
    jobs: Jobs, worker: str, death: Death | None, suspects: Collection[str] | None
) -> list[str]:
    """Put back into queues what a worker held that has ended.

    Whatever was being computed when a process died may be what killed it, so it is tried again one
    at a time, in a process of its own; what dies there again is given up.

    Args:
        death: how it ended; None if it was stopped in good order.
        suspects: ids of what it computed at that moment; None if nobody knows.

    Returns:
        the ids.
    """
    held = [
        row
        for row in jobs.client.list_workflows(executor_id=worker, status="PENDING")
        if row.queue_name and Group.of_queue(row.queue_name)
    ]
    released = []
    for row in held:
        if not jobs.is_held(row.workflow_id, worker):
            continue  # somebody else released it, and it may be at work again
        released.append(row.workflow_id)
        queue = row.queue_name or ""
        if death and (suspects is None or row.workflow_id in suspects):
            queue = _blamed(jobs, row, death, known=suspects is not None)
        jobs.put_back(row.workflow_id, queue)
    return released


def _blamed(jobs: Jobs, row: WorkflowStatus, death: Death, *, known: bool) -> str:
    """Note the death of a process with a job; gives the queue that it goes to now."""
    notes = row.attributes or {}
    got_on = float(notes.get("done", 0)) > float(notes.get("done_at_death", -1))
    counted: dict[str, int] = {} if got_on else dict(notes.get("died", {}))
    counted[death] = counted.get(death, 0) + 1
    count = counted[death]
    changed: dict[str, Any] = {
        "deaths": int(notes.get("deaths", 0)) + 1,
        "died": counted,
        "done_at_death": float(notes.get("done", 0)),
    }
    if count >= (LOSSES if death == "lost" else CRASHES):
        changed["verdict"] = {"death": death, "message": _MESSAGES[death].format(count=count)}
    jobs.client.update_workflow_attributes(row.workflow_id, changed, merge=True)
    return _lonely(jobs, row) if known or count > SUSPICIOUS else row.queue_name or ""


def _lonely(jobs: Jobs, row: WorkflowStatus) -> str:
    """The queue for one at a time that goes with a row's own."""
    found = Group.of_queue(row.queue_name or "")
    if found is None:
        return row.queue_name or ""
    group, _, reserved = found
    kind = FILES if row.name == TRANSCRIBE else SPANS
    queue = group.queue(kind, alone=True, reserved=reserved)
    jobs.register(queue, kind, alone=True)
    return queue
