"""Batches: what is in `input/` at one moment, parted into N lists of equal length.

    work/batches/<batch>/<child>.json   the recordings of one child

The children are jobs that any worker does, or processes that something outside starts, such as an
array job: each then does one list, with workers of its own.
"""

from __future__ import annotations

import heapq
import json
import os
import re
import secrets
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa

from stenopool.audio.media import Recording
from stenopool.bucket import Bucket, Key
from stenopool.errors import InputError, UnknownName, UsageError
from stenopool.pipeline import keys
from stenopool.pipeline.database import batches
from stenopool.pipeline.job import Job
from stenopool.pipeline.jobs import ACTIVE, Jobs, State
from stenopool.pipeline.watch import Defaults, Watcher

BYTES_PER_SECOND = 16_000.0  # a guess, where a recording does not say how long it is
INDEX_VARIABLES = ("AWS_BATCH_JOB_ARRAY_INDEX", "JOB_COMPLETION_INDEX", "SLURM_ARRAY_TASK_ID")

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")


@dataclass(frozen=True, slots=True)
class Child:
    """One list: how many recordings, of how many seconds in all."""

    recordings: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as the database knows it.

    Attributes:
        schedule: name of the schedule that began it; empty for none.
        created: seconds since 1970.
    """

    id: str
    bucket: str
    schedule: str
    created: float
    children: tuple[Child, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a child has come: how many recordings are in each state, and what it cost so far."""

    states: Mapping[State, int]
    compute_seconds: float

    @property
    def is_done(self) -> bool:
        return not any(self.states.get(state) for state in ACTIVE)


def submit(
    jobs: Jobs,
    bucket: Bucket,
    defaults: Defaults,
    children: int,
    *,
    schedule: str = "",
    batch_id: str = "",
    outside: bool = False,
) -> Batch | None:
    """Part what is new in `input/` among children; None, and nothing done, when nothing is.

    Args:
        children: lists at most; none is empty.
        batch_id: given by a schedule, so that each of its runs happens once.
        outside: each list waits for its own process: see `child_jobs`.
    """
    found = Watcher(bucket, jobs, defaults).collect()
    if not found:
        return None
    moment = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    name = checked_name(batch_id or f"{moment}-{secrets.token_hex(3)}")
    lists = balanced([(one, seconds(bucket, one[1])) for one in found], children)
    parts = [
        [
            (job_id, replace(job, batch=name, child=index, outside=outside))
            for (job_id, job), _ in part
        ]
        for index, part in enumerate(lists)
    ]
    counts = tuple(Child(len(part), sum(length for _, length in part)) for part in lists)
    batch = Batch(name, bucket.url, schedule, time.time(), counts)
    for index, part in enumerate(parts):
        bucket.write(_list_key(name, index), json.dumps([[id, job.to_dict()] for id, job in part]))
    everything = [] if outside else [one for part in parts for one in part]
    jobs.submit(everything, also=lambda connection: _insert(connection, batch))
    return batch


def balanced(items: Sequence[tuple[T, float]], parts: int) -> list[list[tuple[T, float]]]:
    """Part items so that the lists are about equally long: the longest first, each to the list
    that is the shortest by then, and has the fewest. No list is empty."""
    lists: list[list[tuple[T, float]]] = [[] for _ in range(min(parts, len(items)))]
    shortest = [(0.0, 0, index) for index in range(len(lists))]
    for item in sorted(items, key=lambda one: -one[1]):
        total, count, index = heapq.heappop(shortest)
        lists[index].append(item)
        heapq.heappush(shortest, (total + item[1], count + 1, index))
    return lists


def seconds(bucket: Bucket, job: Job) -> float:
    """About how long a recording is, without fetching it."""
    guess = job.stamp.size / BYTES_PER_SECOND
    if not bucket.url.startswith("file://"):
        return guess
    try:
        with bucket.local(job.key) as path, Recording(Path(path)) as recording:
            claimed = recording.claimed_seconds or 0.0
            return claimed if claimed > 0 else guess
    except InputError:
        return guess  # its job will say what is wrong with it


def child_index(environment: Mapping[str, str] = os.environ) -> int:
    """Which child this process is, as those who run array jobs say it.

    Raises:
        UsageError: none of them does.
    """
    for name in INDEX_VARIABLES:
        if (value := environment.get(name, "")).isdecimal():
            return int(value)
    raise UsageError(
        "which child is this?", do=f"Give `--index`, or set one of {', '.join(INDEX_VARIABLES)}"
    )


def child_jobs(bucket: Bucket, batch: str, index: int) -> list[tuple[str, Job]]:
    """The jobs of one list; none when it is done, or there is no such list."""
    document = bucket.read(_list_key(checked_name(batch), index))
    if document is None:
        return []
    try:
        return [(str(id), Job.from_dict(data)) for id, data in json.loads(document)]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"the list {index} of batch `{batch}` is damaged", do="Submit the batch anew"
        ) from error


def finish_child(bucket: Bucket, batch: str, index: int) -> None:
    """Its list is done."""
    bucket.delete(_list_key(checked_name(batch), index))
    if not next(bucket.keys(_folder(batch)), None):
        bucket.delete_below(_folder(batch))


def finish_batches(jobs: Jobs, bucket: Bucket) -> None:
    """Remove the lists of batches that are done."""
    names = {key.removeprefix(_FOLDER).partition("/")[0] for key in bucket.keys(_FOLDER)}
    for name in names:
        batch = next((one for one in all_batches(jobs) if one.id == name), None)
        if batch and all(one.is_done and one.states for one in progress(jobs, batch)):
            bucket.delete_below(_folder(name))


def all_batches(jobs: Jobs) -> list[Batch]:
    """The newest first."""
    query = sa.select(batches).order_by(batches.c.created.desc())
    with jobs.engine.connect() as connection:
        return [_batch(row) for row in connection.execute(query)]


def find(jobs: Jobs, name: str) -> Batch:
    """One batch.

    Raises:
        UnknownName: there is none of this id.
    """
    with jobs.engine.connect() as connection:
        row = connection.execute(sa.select(batches).where(batches.c.id == name)).first()
    if row is None:
        raise UnknownName(f"no batch `{name}`", do="See `steno batch list`")
    return _batch(row)


def progress(jobs: Jobs, batch: Batch) -> list[Progress]:
    """How far each child has come."""
    found = []
    for index in range(len(batch.children)):
        views = list(jobs.listed(batch=f"{batch.id}.{index}", limit=1_000_000))
        states = Counter(view.state for view in views)
        found.append(Progress(states, sum(view.compute_seconds for view in views)))
    return found


def cancel(jobs: Jobs, batch: Batch) -> int:
    """Stop what has not ended of a batch; gives how many jobs that were."""
    count = 0
    for index in range(len(batch.children)):
        for view in list(jobs.listed(states=ACTIVE, batch=f"{batch.id}.{index}", limit=1_000_000)):
            jobs.cancel(view.id)
            count += 1
    return count


def checked_name(name: str) -> str:
    """The name, if it can be that of a batch or a schedule.

    Raises:
        UsageError: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"not a name: `{name}`", do="Use up to 80 letters, digits, `-` and `_`")
    return name


_FOLDER = f"{keys.WORK}batches/"


def _folder(batch: str) -> Key:
    return f"{_FOLDER}{batch}"


def _list_key(batch: str, index: int) -> Key:
    return f"{_folder(batch)}/{index:05d}.json"


def _insert(connection: sa.Connection, batch: Batch) -> None:
    children = [asdict(child) for child in batch.children]
    row: dict[str, Any] = {
        "id": batch.id,
        "bucket": batch.bucket,
        "schedule": batch.schedule,
        "created": batch.created,
        "children": children,
    }
    connection.execute(sa.insert(batches).values(row))


def _batch(row: sa.Row[Any]) -> Batch:
    children = tuple(Child(**child) for child in row.children)
    return Batch(row.id, row.bucket, row.schedule, row.created, children)
