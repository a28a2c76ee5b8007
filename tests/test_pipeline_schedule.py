from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from listeners import Death
from pipelines import age, opened
from stenopool.bucket import FolderBucket
from stenopool.errors import UnknownName, UsageError
from stenopool.pipeline import schedule as module
from stenopool.pipeline.batch import all_batches, submit
from stenopool.pipeline.database import schedules as table
from stenopool.pipeline.job import Group
from stenopool.pipeline.jobs import Jobs
from stenopool.pipeline.schedule import Schedule, Schedules
from stenopool.pipeline.watch import Defaults

DEFAULTS = Defaults(Group("tiny"), ("json",), {})
NIGHTLY = "30 2 * * *"
DAY = 86_400.0
BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture
def bucket(tmp_path: Path) -> FolderBucket:
    (tmp_path / "bucket/input").mkdir(parents=True)
    return FolderBucket(tmp_path / "bucket")


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    with opened(f"sqlite:///{tmp_path / 'jobs.sqlite'}") as found:
        yield found


@pytest.fixture
def schedules(jobs: Jobs) -> Schedules:
    return Schedules(jobs)


def lay(bucket: FolderBucket, *names: str) -> None:
    for name in names:
        bucket.write(f"input/{name}", "x")
        age(bucket.root / "input" / name)


def request(bucket: FolderBucket, **changes: object) -> dict[str, Any]:
    given = {"bucket": bucket.url, "children": 2, "defaults": DEFAULTS.to_dict(), **changes}
    found: dict[str, Any] = json.loads(json.dumps(given))
    return found


def set_last(jobs: Jobs, name: str, last: float) -> None:
    """Up to when its runs were begun."""
    with jobs.engine.begin() as connection:
        connection.execute(sa.update(table).where(table.c.name == name).values(last=last))


def moment(text: str, zone: str = "UTC", fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


NOW = moment("2026-06-10T12:00")
DUE = moment("2026-06-10T02:30")


def nightly(schedules: Schedules, jobs: Jobs, bucket: FolderBucket, name: str = "night") -> None:
    """A schedule that ran for the last time the day before."""
    schedules.set(name, NIGHTLY, "UTC", request(bucket))
    set_last(jobs, name, DUE - DAY)


def batch_ids(jobs: Jobs) -> list[str]:
    return sorted(one.id for one in all_batches(jobs))


# --- runs ---------------------------------------------------------------------------------------


def test_run_is_begun_once_when_it_is_due(
    schedules: Schedules, jobs: Jobs, bucket: FolderBucket
) -> None:
    nightly(schedules, jobs, bucket)
    lay(bucket, "a.wav", "b.wav", "c.wav")
    assert schedules.tick(DUE - 1) == []
    assert schedules.tick(DUE) == ["night"]
    assert schedules.tick(DUE) == []
    assert schedules.tick(DUE + 3600) == []
    (batch,) = all_batches(jobs)
    assert (batch.id, batch.schedule) == ("night-20260610T0230Z", "night")
    assert [child.recordings for child in batch.children] == [2, 1]
    assert len(list(jobs.listed())) == 3
    lay(bucket, "d.wav")
    assert schedules.tick(DUE + DAY) == ["night"]
    assert batch_ids(jobs) == ["night-20260610T0230Z", "night-20260611T0230Z"]
    assert len(list(jobs.listed())) == 4


def test_new_schedule_waits_for_its_next_moment(
    schedules: Schedules, jobs: Jobs, bucket: FolderBucket
) -> None:
    lay(bucket, "a.wav")
    made = schedules.set("night", NIGHTLY, "UTC", request(bucket))
    assert schedules.tick() == []
    assert schedules.tick(made.following(time.time()) - 1) == []
    assert schedules.tick(made.following(time.time())) == ["night"]
    assert len(all_batches(jobs)) == 1


def test_missed_runs_are_caught_up_by_one(
    schedules: Schedules, jobs: Jobs, bucket: FolderBucket
) -> None:
    nightly(schedules, jobs, bucket)
    lay(bucket, "a.wav")
    assert schedules.tick(NOW + 5 * DAY) == ["night"]
    assert schedules.tick(NOW + 5 * DAY) == []
    assert batch_ids(jobs) == ["night-20260615T0230Z"]


def test_run_with_nothing_to_do_makes_no_batch_and_is_over(
    schedules: Schedules, jobs: Jobs, bucket: FolderBucket
) -> None:
    nightly(schedules, jobs, bucket)
    assert schedules.tick(NOW) == ["night"]
    lay(bucket, "a.wav")
    assert schedules.tick(NOW) == []
    assert batch_ids(jobs) == []


def test_clock_that_goes_back_repeats_nothing(
    schedules: Schedules, jobs: Jobs, bucket: FolderBucket
) -> None:
    nightly(schedules, jobs, bucket)
    lay(bucket, "a.wav")
    schedules.tick(NOW)
    lay(bucket, "b.wav")
    assert schedules.tick(NOW - 3 * DAY) == []
    assert schedules.tick(NOW) == []
    assert len(all_batches(jobs)) == 1


def test_supervisors_that_tick_at_the_same_time_begin_one_batch(
    schedules: Schedules, jobs: Jobs, bucket: FolderBucket
) -> None:
    nightly(schedules, jobs, bucket)
    lay(bucket, *(f"{number}.wav" for number in range(20)))
    barrier = threading.Barrier(4)

    def tick(_: int) -> list[str]:
        with opened(str(jobs.engine.url)) as own:
            barrier.wait()
            return Schedules(own).tick(NOW)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(tick, range(4)))
    assert ["night"] in found
    assert batch_ids(jobs) == ["night-20260610T0230Z"]
    assert len(list(jobs.listed())) == 20
    assert schedules.tick(NOW) == []


def test_supervisor_that_comes_second_with_the_same_run_submits_nothing(
    schedules: Schedules, jobs: Jobs, bucket: FolderBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have looked whether the run is there before one of them began it."""
    nightly(schedules, jobs, bucket)
    lay(bucket, "a.wav")
    other = Schedules(jobs)
    is_there = Schedules._is_there

    def late(own: Schedules, run: str) -> bool:
        found = is_there(own, run)
        if own is other:
            assert schedules.tick(NOW) == ["night"]
            lay(bucket, "b.wav")  # so that there is something for the second one
        return found

    monkeypatch.setattr(Schedules, "_is_there", late)
    assert other.tick(NOW) == ["night"]
    assert batch_ids(jobs) == ["night-20260610T0230Z"]
    assert [view.job.key for view in jobs.listed()] == ["input/a.wav"]


@pytest.mark.parametrize("submitted", [False, True])
def test_run_of_a_supervisor_that_died_is_found_by_the_next(
    schedules: Schedules,
    jobs: Jobs,
    bucket: FolderBucket,
    monkeypatch: pytest.MonkeyPatch,
    submitted: bool,
) -> None:
    nightly(schedules, jobs, bucket)
    lay(bucket, "a.wav", "b.wav")

    def dying(*arguments: Any, **more: Any) -> Any:
        if submitted:
            submit(*arguments, **more)
        raise Death

    with monkeypatch.context() as patch, pytest.raises(Death):
        patch.setattr(module, "submit", dying)
        schedules.tick(NOW)
    assert len(all_batches(jobs)) == submitted
    lay(bucket, "c.wav")
    assert Schedules(jobs).tick(NOW) == ["night"]
    assert batch_ids(jobs) == ["night-20260610T0230Z"]
    assert len(list(jobs.listed())) == (2 if submitted else 3)
    assert Schedules(jobs).tick(NOW) == []


def test_trouble_with_one_keeps_no_other_waiting(
    schedules: Schedules,
    jobs: Jobs,
    bucket: FolderBucket,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    lost = FolderBucket(tmp_path / "lost")
    lost.root.mkdir()
    nightly(schedules, jobs, lost, "a-lost")
    nightly(schedules, jobs, bucket, "b-elsewhere")
    nightly(schedules, jobs, bucket, "c-strange")
    nightly(schedules, jobs, bucket, "d-foreign")
    nightly(schedules, jobs, bucket, "z-good")
    for name, change in (
        ("b-elsewhere", {"timezone": "Europe/Atlantis"}),  # another machine may know more of them
        ("c-strange", {"cron": "0 0 30 2 *"}),
        ("d-foreign", {"request": {"bucket": bucket.url, "children": 1}}),
    ):
        with jobs.engine.begin() as connection:
            connection.execute(sa.update(table).where(table.c.name == name).values(**change))
    shutil.rmtree(lost.root)
    lay(bucket, "a.wav")
    assert schedules.tick(NOW) == ["z-good"]
    told = [
        record.fields["schedule"]  # type: ignore[attr-defined]
        for record in caplog.records
        if record.getMessage() == "schedule_failed"
    ]
    assert told == ["a-lost", "b-elsewhere", "c-strange", "d-foreign"]
    lost.root.joinpath("input").mkdir(parents=True)
    lay(lost, "b.wav")
    assert schedules.tick(NOW) == ["a-lost"]


# --- pause --------------------------------------------------------------------------------------


def test_paused_schedule_begins_nothing_and_catches_nothing_up(
    schedules: Schedules, jobs: Jobs, bucket: FolderBucket
) -> None:
    lay(bucket, "a.wav")
    made = schedules.set("night", NIGHTLY, "UTC", request(bucket))
    set_last(jobs, "night", time.time() - 10 * DAY)
    schedules.pause("night", paused=True)
    assert schedules.find("night").paused
    assert schedules.tick() == []
    assert schedules.tick(time.time() + 5 * DAY) == []
    set_last(jobs, "night", time.time() - 10 * DAY)
    schedules.pause("night", paused=False)
    assert schedules.tick() == []
    assert schedules.tick(made.following(time.time())) == ["night"]
    assert len(all_batches(jobs)) == 1


def test_paused_schedule_can_be_run_by_hand(
    schedules: Schedules, jobs: Jobs, bucket: FolderBucket
) -> None:
    schedules.set("night", NIGHTLY, "UTC", request(bucket))
    schedules.pause("night", paused=True)
    assert schedules.trigger("night") is None
    lay(bucket, "a.wav")
    batch = schedules.trigger("night")
    assert batch
    assert batch.schedule == "night"
    assert schedules.trigger("night") is None
    assert batch_ids(jobs) == [batch.id]


# --- what a schedule is -------------------------------------------------------------------------


def test_schedules_are_listed_by_name_and_can_be_changed(
    schedules: Schedules, bucket: FolderBucket
) -> None:
    for name in ("b", "a", "c"):
        schedules.set(name, NIGHTLY, "UTC", request(bucket))
    schedules.pause("a", paused=True)
    before = time.time()
    changed = schedules.set("a", "0 4 * * 1", "Europe/Berlin", request(bucket, children=5))
    assert [one.name for one in schedules.all()] == ["a", "b", "c"]
    assert schedules.find("a") == changed
    assert (changed.cron, changed.timezone, changed.request["children"]) == (
        "0 4 * * 1",
        "Europe/Berlin",
        5,
    )
    assert not changed.paused
    assert changed.last >= before
    schedules.delete("a")
    assert [one.name for one in schedules.all()] == ["b", "c"]


def test_unknown_schedule_is_refused(schedules: Schedules) -> None:
    for act in (
        lambda: schedules.find("x"),
        lambda: schedules.pause("x", paused=True),
        lambda: schedules.delete("x"),
        lambda: schedules.trigger("x"),
    ):
        with pytest.raises(UnknownName, match="no schedule `x`"):
            act()


NO_CRON = [
    "",
    "x",
    "* * * *",
    "* * * * * *",
    "60 * * * *",
    "@daily",
    "*/0 * * * *",
    "0 25 * * *",
    "0 0 30 2 *",  # never
    "0 0 31 4,6 *",
    "H * * * *",
    "R * * * *",  # another moment each time it is asked
    "r(0-29) 2 * * *",
    "0 1 * * *\0",
]


def test_expression_that_is_none_is_refused(schedules: Schedules, bucket: FolderBucket) -> None:
    for cron in NO_CRON:
        with pytest.raises(UsageError, match="cron expression") as caught:
            schedules.set("night", cron, "UTC", request(bucket))
        assert "0 1 * * *" in caught.value.do
    assert schedules.all() == []


def test_usual_expressions_are_taken(schedules: Schedules, bucket: FolderBucket) -> None:
    for cron in ("0 1 * * *", "*/15 8-18 * * mon-fri", "0 0 29 2 *", "0 3 L * *", "0 1 * mar thu"):
        assert schedules.set("night", cron, "UTC", request(bucket)).following(NOW) > NOW


def test_time_zone_that_is_none_is_refused(schedules: Schedules, bucket: FolderBucket) -> None:
    for zone in ("", "Berlin", "Europe/Atlantis", "../UTC", "/etc/passwd", "a\0b"):
        with pytest.raises(UsageError, match="no such time zone"):
            schedules.set("night", NIGHTLY, zone, request(bucket))


def test_name_that_is_none_is_refused(schedules: Schedules, bucket: FolderBucket) -> None:
    for name in ("", "a b", "../x", "n" * 81, "n" * 61):
        with pytest.raises(UsageError, match="not a name"):
            schedules.set(name, NIGHTLY, "UTC", request(bucket))


def test_longest_name_that_is_taken_has_runs(
    schedules: Schedules, jobs: Jobs, bucket: FolderBucket
) -> None:
    nightly(schedules, jobs, bucket, "n" * 60)
    lay(bucket, "a.wav")
    assert schedules.tick(NOW) == ["n" * 60]
    assert len(all_batches(jobs)) == 1


# --- time zones ---------------------------------------------------------------------------------


def made(cron: str, zone: str) -> Schedule:
    return Schedule("x", cron, zone, {}, False, 0.0)


def moments(cron: str, zone: str, begin: str, end: str) -> list[str]:
    """All between two times of the zone, in UTC."""
    one, at, found = made(cron, zone), moment(begin, zone), []
    while (at := one.following(at)) < moment(end, zone):
        found.append(f"{datetime.fromtimestamp(at, ZoneInfo('UTC')):%d %H:%M}")
    return found


def test_time_is_that_of_the_zone() -> None:
    assert moments(NIGHTLY, "UTC", "2026-06-10", "2026-06-11") == ["10 02:30"]
    assert moments(NIGHTLY, "Europe/Berlin", "2026-06-10", "2026-06-11") == ["10 00:30"]
    assert moments(NIGHTLY, "Europe/Berlin", "2026-12-10", "2026-12-11") == ["10 01:30"]
    assert moments(NIGHTLY, "Asia/Kolkata", "2026-06-10", "2026-06-11") == ["09 21:00"]


def test_hour_that_is_left_out_in_spring_runs_once_after_it() -> None:
    assert moments(NIGHTLY, "Europe/Berlin", "2026-03-28", "2026-03-31") == [
        "28 01:30",
        "29 01:00",  # 3:00 of that day
        "30 00:30",
    ]


def test_hour_that_comes_twice_in_autumn_is_two_moments() -> None:
    assert moments(NIGHTLY, "Europe/Berlin", "2026-10-24", "2026-10-27") == [
        "24 00:30",
        "25 00:30",
        "25 01:30",
        "26 01:30",
    ]
    assert moments("0 3 * * *", "Europe/Berlin", "2026-10-25", "2026-10-26") == ["25 02:00"]


def test_every_hour_is_every_hour_when_clocks_change() -> None:
    hourly = "0 * * * *"
    for day in ("2026-03-29", "2026-10-25"):
        begin = moment(f"{day}T00:00", "Europe/Berlin")
        one = made(hourly, "Europe/Berlin")
        for hour in range(1, 6):
            assert one.following(begin + 3600 * hour - 1) == begin + 3600 * hour
            assert one.due(begin + 3600 * hour + 1) == begin + 3600 * hour


ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"]
CRONS = [NIGHTLY, "0 * * * *", "*/30 * * * *", "15 3 * * sun", "0 0 1 * *", "59 1 29 3 *"]


@given(
    at=st.floats(moment("2026-01-01"), moment("2027-01-01")),
    zone=st.sampled_from(ZONES),
    cron=st.sampled_from(CRONS),
)
def test_each_moment_is_due_exactly_from_then_on(at: float, zone: str, cron: str) -> None:
    one = made(cron, zone)
    due, following = one.due(at), one.following(at)
    assert due <= at < following
    assert one.due(due) == due
    assert one.due(following) == following
    assert one.due(following - 1) == due
    assert one.following(due) == following


def test_ticks_over_a_night_of_changing_clocks_begin_each_run_once(
    schedules: Schedules, jobs: Jobs, bucket: FolderBucket
) -> None:
    schedules.set("night", NIGHTLY, "Europe/Berlin", request(bucket))
    for begin, runs in (("2026-03-28T12:00", 1), ("2026-10-24T12:00", 2)):
        start = moment(begin, "Europe/Berlin")
        set_last(jobs, "night", start)
        begun = [at for at in range(0, 24 * 60, 10) if schedules.tick(start + at * 60)]
        assert len(begun) == runs
