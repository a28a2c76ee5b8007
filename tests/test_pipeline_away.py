"""What a worker process makes of a database that fails."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import sqlalchemy as sa

from pipelines import SCRIPTED, hold, imagined, opened, sqlite_url
from stenopool.errors import EngineFailed, StorageUnavailable
from stenopool.pipeline import flow
from stenopool.pipeline.activity import Activity, Meter
from stenopool.pipeline.database import _engine
from stenopool.pipeline.job import Job
from stenopool.pipeline.jobs import Jobs
from stenopool.pipeline.process import Spec
from stenopool.pipeline.worker import Worker, _Line


@dataclass
class Held:
    """What `flow` has in hand while it tries something."""

    job: Job
    activity: Activity
    task: Any = None
    id: str = "job"


def test_patience_begins_anew_when_the_work_has_got_on() -> None:
    """Trouble after ten hours is not trouble for ten hours."""
    hand = Held(imagined("a", patience=0.3)[1], Activity("a", Meter(), lambda: None, {}))
    tries = 0

    def read(_task: object) -> dict[str, Any]:
        nonlocal tries
        tries += 1
        if tries < 7:
            hand.activity.windows += tries < 6
            time.sleep(0.2)
            raise StorageUnavailable("away", do="Wait") if tries % 2 else EngineFailed("?", do="!")
        return {"outcome": "done"}

    assert flow._patiently(cast(Any, hand), read) == {"outcome": "done"}

    def stuck(_task: object) -> dict[str, Any]:
        raise StorageUnavailable("away", do="Wait")

    with pytest.raises(flow.GivenUpError):
        flow._patiently(cast(Any, hand), stuck)


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    with opened(sqlite_url(tmp_path)) as found:
        yield found


@pytest.fixture
def worker(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> Worker:
    monkeypatch.setattr(flow, "_process", None)
    listener = cast(Any, None)
    return Worker(Spec(SCRIPTED), listener, jobs.engine, _Line(io.StringIO()))


@pytest.mark.parametrize(
    "place", ["/x?host=/nowhere/at/all", "nobody.invalid/x", "127.0.0.1:1/x?connect_timeout=2"]
)
def test_database_that_is_away_counts_as_lost_so_that_it_is_tried_again(place: str) -> None:
    engine = _engine(f"postgresql://steno:x@{place}")
    with pytest.raises(sa.exc.OperationalError) as caught, engine.connect():
        pass
    assert caught.value.connection_invalidated


def test_work_that_was_dropped_is_handed_back_after_two_looks(worker: Worker, jobs: Jobs) -> None:
    three = [imagined(name) for name in ("dropped", "done", "new")]
    ids = [id for id, _ in three]
    jobs.submit(three)
    for id in ids[:2]:
        hold(jobs, id, worker.id)
    worker._begin(ids[1], {})
    idle = worker._hand_back(set())
    assert idle == {ids[0]}
    assert jobs.find(ids[0]).state == "running"  # it may be about to begin
    hold(jobs, ids[2], worker.id)
    worker._hand_back(idle)
    assert [jobs.find(id).state for id in ids] == ["waiting", "running", "running"]


def test_activity_ends_although_the_database_cannot_be_told(
    worker: Worker, jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    id, job = imagined("a", bucket=f"file://{tmp_path}")
    jobs.submit([(id, job)])
    hold(jobs, id, worker.id)

    def away(*_given: object) -> bool:
        raise sa.exc.OperationalError("select", {}, Exception("away"))

    hand = flow._Hand(id, job)
    with pytest.raises(sa.exc.OperationalError), hand:
        hand.outcome = {"outcome": "done"}
        monkeypatch.setattr(flow.this().jobs, "is_held", away)
    assert worker._active == {}
    assert id not in flow._hands
