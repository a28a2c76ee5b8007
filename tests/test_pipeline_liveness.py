from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from pipelines import change, end, hold, imagined, notes_of, opened, queue_of, sqlite_url, wait_for
from stenopool.pipeline import database as database_module
from stenopool.pipeline import liveness
from stenopool.pipeline.job import FILES, SPANS, Group, span_prefix
from stenopool.pipeline.jobs import Jobs
from stenopool.pipeline.liveness import (
    BLIND_SECONDS,
    CRASHES,
    DEAD_SECONDS,
    LOSSES,
    PARENT_SECONDS,
    SUSPICIOUS,
    Death,
    Janitor,
    Register,
    birth_of,
    host_name,
    release,
)

GROUP = Group("scripted")
OWN, ALONE = GROUP.queue(FILES), GROUP.queue(FILES, alone=True)


@dataclass
class Clock:
    """Stands in for the module `time`."""

    now: float = 1_000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return time.time() - 5_000.0  # wrong, which nobody must mind


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(liveness, "time", clock)
    return clock


@pytest.fixture
def jobs(database: str) -> Iterator[Jobs]:
    with opened(database) as found:
        yield found


@pytest.fixture
def light(tmp_path: Path) -> Iterator[Jobs]:
    """Where the kind of the database makes no difference."""
    with opened(sqlite_url(tmp_path)) as found:
        yield found


def entered(jobs: Jobs, name: str, **changes: object) -> str:
    """A worker of another machine, or wherever the changes say."""
    row = {
        "id": name,
        "host": "elsewhere",
        "pid": 1,
        "born": "1",
        "group": OWN,
        "beat": 0,
        "since": 0.0,
        **changes,
    }
    with jobs.engine.begin() as connection:
        connection.execute(sa.insert(database_module.workers).values(row))
    return name


def held(jobs: Jobs, worker: str, *names: str, **changes: object) -> list[str]:
    """Jobs that a worker has."""
    found = [imagined(name, **changes) for name in names]
    jobs.submit(found)
    for job_id, _ in found:
        hold(jobs, job_id, worker)
    return [job_id for job_id, _ in found]


def state(jobs: Jobs, job_id: str) -> str:
    return jobs.find(job_id).state


def ended_process() -> tuple[int, str]:
    """Id and birth of a process that is no more."""
    command = [sys.executable, "-S", "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as child:
        born = birth_of(child.pid)
    assert born
    return child.pid, born


# --- processes ---------------------------------------------------------------------------------


def test_birth_of_a_living_process_never_changes() -> None:
    born = birth_of(os.getpid())
    assert born
    assert birth_of(os.getpid()) == born


def test_process_that_has_ended_was_never_born() -> None:
    pid, _ = ended_process()
    assert birth_of(pid) is None


def test_process_that_nobody_has_buried_is_dead() -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", ""])
    wait_for(lambda: birth_of(child.pid) is None)  # not waited for: a zombie
    assert Path(f"/proc/{child.pid}").exists()
    child.wait()


def test_name_of_a_process_may_hold_anything(tmp_path: Path) -> None:
    link = tmp_path / "a) R 1 (b"
    link.symlink_to("/bin/sleep")
    with subprocess.Popen([link, "60"]) as child:
        wait_for(lambda: b"60" in Path(f"/proc/{child.pid}/cmdline").read_bytes())
        born = birth_of(child.pid)
        assert born
        assert born.isdecimal()
        child.kill()


# --- the register ------------------------------------------------------------------------------


def test_worker_that_enters_is_this_process(jobs: Jobs) -> None:
    register = Register(jobs.engine)
    name = register.enter(OWN)
    (row,) = register.all()
    assert (row.id, row.host, row.pid, row.group) == (name, host_name(), os.getpid(), OWN)
    assert row.born == birth_of(os.getpid())


def test_no_two_workers_have_the_same_id(jobs: Jobs) -> None:
    register = Register(jobs.engine)
    assert len({register.enter(OWN) for _ in range(5)}) == 5


def test_worker_beats_until_it_is_taken_for_dead(jobs: Jobs) -> None:
    register = Register(jobs.engine)
    name, other = register.enter(OWN), register.enter(OWN)
    assert register.beat(name)
    assert register.beat(name)
    assert {row.id: row.beat for row in register.all()} == {name: 2, other: 0}
    register.remove(name)
    assert not register.beat(name)
    assert register.beat(other)
    assert [row.id for row in register.all()] == [other]


# --- who is dead -------------------------------------------------------------------------------


def test_dead_process_of_this_machine_is_seen_once_its_parent_had_its_time(
    jobs: Jobs, clock: Clock
) -> None:
    pid, born = ended_process()
    worker = entered(jobs, "dead", host=host_name(), pid=pid, born=born)
    first, second = held(jobs, worker, "a", "b")
    janitor = Janitor(jobs)
    assert janitor.sweep() == []
    assert (state(jobs, first), state(jobs, second)) == ("running", "running")
    clock.now += PARENT_SECONDS
    assert janitor.sweep() == [worker]
    assert Register(jobs.engine).all() == []
    assert (state(jobs, first), state(jobs, second)) == ("waiting", "waiting")


def test_id_of_a_process_that_was_used_again_does_not_keep_the_dead_alive(
    light: Jobs, clock: Clock
) -> None:
    worker = entered(light, "dead", host=host_name(), pid=os.getpid(), born="1")
    janitor = Janitor(light)
    janitor.sweep()
    clock.now += PARENT_SECONDS
    assert janitor.sweep() == [worker]


def test_own_processes_are_left_to_whoever_knows_how_they_ended(jobs: Jobs, clock: Clock) -> None:
    pid, born = ended_process()
    worker = entered(jobs, "dead", host=host_name(), pid=pid, born=born)
    (job_id,) = held(jobs, worker, "a")
    janitor = Janitor(jobs)
    for _ in range(3):
        assert janitor.sweep(own={worker}) == []
        clock.now += PARENT_SECONDS
    assert jobs.is_held(job_id, worker)


def test_living_process_keeps_its_work(jobs: Jobs, clock: Clock) -> None:
    worker = Register(jobs.engine).enter(OWN)
    (job_id,) = held(jobs, worker, "a")
    janitor = Janitor(jobs)
    assert janitor.sweep() == []
    clock.now += PARENT_SECONDS
    assert janitor.sweep() == []
    assert jobs.is_held(job_id, worker)


def test_silent_worker_of_another_machine_is_dead_after_a_while(jobs: Jobs, clock: Clock) -> None:
    worker = entered(jobs, "silent")
    (job_id,) = held(jobs, worker, "a")
    janitor = Janitor(jobs)
    begun = clock.now
    while clock.now < begun + DEAD_SECONDS:
        assert janitor.sweep() == []
        clock.now += 5
    assert jobs.is_held(job_id, worker)
    assert janitor.sweep() == [worker]
    assert state(jobs, job_id) == "waiting"


def test_process_of_this_machine_that_does_not_beat_is_dead_too(light: Jobs, clock: Clock) -> None:
    worker = Register(light.engine).enter(OWN)
    janitor = Janitor(light)
    for _ in range(int(DEAD_SECONDS / 5)):
        assert janitor.sweep() == []
        clock.now += 5
    assert janitor.sweep() == [worker]


def test_worker_that_beats_lives_for_ever(light: Jobs, clock: Clock) -> None:
    worker = entered(light, "alive")
    janitor, register = Janitor(light), Register(light.engine)
    for second in range(0, 500, 5):
        if second % 30 == 0:
            assert register.beat(worker)
        assert janitor.sweep() == []
        clock.now += 5


def test_watcher_that_has_not_looked_for_a_while_does_not_judge(light: Jobs, clock: Clock) -> None:
    """Its machine slept, or the database was away: then nobody could beat either."""
    worker = entered(light, "silent")
    janitor = Janitor(light)
    janitor.sweep()
    clock.now += DEAD_SECONDS + BLIND_SECONDS
    begun = clock.now
    while clock.now < begun + DEAD_SECONDS:
        assert janitor.sweep() == []
        clock.now += 5
    assert janitor.sweep() == [worker]


def test_new_watcher_waits_as_long_as_any(light: Jobs, clock: Clock) -> None:
    entered(light, "silent", since=0.0)
    for _ in range(3):
        assert Janitor(light).sweep() == []
        clock.now += DEAD_SECONDS


def test_worker_that_is_wrongly_taken_for_dead_finds_out(light: Jobs, clock: Clock) -> None:
    register = Register(light.engine)
    worker = register.enter(OWN)
    (job_id,) = held(light, worker, "a")
    janitor = Janitor(light)
    for _ in range(int(DEAD_SECONDS / 5) + 1):
        janitor.sweep()
        clock.now += 5
    assert not register.beat(worker)
    assert not light.is_held(job_id, worker)


def test_work_of_a_worker_that_nobody_knows_is_released(jobs: Jobs) -> None:
    living = Register(jobs.engine).enter(OWN)
    (orphan,) = held(jobs, "nobody", "a")
    (kept,) = held(jobs, living, "b")
    waiting, _ = imagined("c")
    jobs.submit([imagined("c")])
    assert Janitor(jobs).sweep() == []
    assert [state(jobs, one) for one in (orphan, kept, waiting)] == [
        "waiting",
        "running",
        "waiting",
    ]
    assert notes_of(jobs, orphan)["died"] == {"lost": 1}
    assert notes_of(jobs, waiting) == {}


@pytest.mark.parametrize("late", [False, True])
def test_job_that_is_cancelled_while_it_is_released_stays_so(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    (job_id,) = held(jobs, "nobody", "a")
    resume = jobs.client.resume_workflows

    def cancelled_at_this_moment(ids: list[str], **more: Any) -> None:
        if late:
            resume(ids, **more)
        jobs.cancel(job_id)
        if not late:
            resume(ids, **more)

    monkeypatch.setattr(jobs.client, "resume_workflows", cancelled_at_this_moment)
    Janitor(jobs).sweep()
    assert state(jobs, job_id) == "cancelled"


def test_worker_that_comes_up_during_a_sweep_keeps_its_work(
    light: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    register, (job_id,) = Register(light.engine), held(light, "nobody", "a")
    change(light, job_id, status="ENQUEUED", executor_id=None)
    everybody = Register.all
    newcomers: list[str] = []

    def all_and_one_more(self: Register) -> list[liveness.WorkerRow]:
        rows = everybody(self)
        newcomers.append(register.enter(OWN))
        hold(light, job_id, newcomers[0])
        return rows

    monkeypatch.setattr(Register, "all", all_and_one_more)
    Janitor(light).sweep()
    assert light.is_held(job_id, newcomers[0])


def test_work_of_another_protocol_is_left_to_its_own(
    light: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job_id,) = held(light, "nobody", "a")
    monkeypatch.setattr("stenopool.pipeline.job.PROTOCOL", "2")
    Janitor(light).sweep()
    assert light.is_held(job_id, "nobody")


# --- what becomes of its work ------------------------------------------------------------------


def test_worker_that_was_stopped_in_good_order_leaves_no_trace(jobs: Jobs) -> None:
    ids = held(jobs, "worker", "a", "b")
    others = held(jobs, "another", "c")
    assert sorted(release(jobs, "worker", None, {ids[0]})) == sorted(ids)
    assert [state(jobs, one) for one in [*ids, *others]] == ["waiting", "waiting", "running"]
    assert [queue_of(jobs, one) for one in ids] == [OWN, OWN]
    assert [notes_of(jobs, one) for one in ids] == [{}, {}]


@pytest.mark.parametrize("death", ["crashed", "stalled", "memory", "lost"])
def test_what_was_being_computed_is_tried_again_alone(light: Jobs, death: Death) -> None:
    guilty, innocent = held(light, "worker", "a", "b")
    release(light, "worker", death, {guilty})
    assert (queue_of(light, guilty), queue_of(light, innocent)) == (ALONE, OWN)
    found = light.find(guilty)
    assert (found.state, found.deaths) == ("waiting", 1)
    assert "verdict" not in notes_of(light, guilty)
    assert notes_of(light, innocent) == {}


def test_alone_it_stays_with_its_batch_and_its_device(jobs: Jobs) -> None:
    group = Group("/srv/a model", "openvino", "cpu")
    changes = {"group": group, "batch": "night", "child": 3, "outside": True}
    (job_id,) = held(jobs, "worker", "a", **changes)
    release(jobs, "worker", "crashed", {job_id})
    assert queue_of(jobs, job_id) == group.queue(FILES, alone=True, reserved="night.3")


def test_span_is_tried_again_alone_as_well(jobs: Jobs) -> None:
    (job_id,) = held(jobs, "file worker", "a")
    span = f"{span_prefix(job_id)}0"
    jobs.submit_span(span, job_id, imagined("a")[1], {})
    hold(jobs, span, "span worker")
    assert release(jobs, "span worker", "crashed", {span}) == [span]
    assert queue_of(jobs, span) == GROUP.queue(SPANS, alone=True)
    assert jobs.is_held(job_id, "file worker")


@pytest.mark.parametrize(
    ("death", "most"),
    [("crashed", CRASHES), ("stalled", CRASHES), ("memory", CRASHES), ("lost", LOSSES)],
)
def test_recording_that_ends_processes_again_and_again_is_given_up(
    light: Jobs, death: Death, most: int
) -> None:
    (job_id,) = held(light, "worker", "a")
    for times in range(1, most + 1):
        assert "verdict" not in notes_of(light, job_id)
        hold(light, job_id, "worker")
        release(light, "worker", death, {job_id})
        assert light.find(job_id).deaths == times
        assert queue_of(light, job_id) == ALONE
    verdict = notes_of(light, job_id)["verdict"]
    assert verdict["death"] == death
    assert str(most) in verdict["message"]


def test_different_deaths_do_not_add_up(light: Jobs) -> None:
    (job_id,) = held(light, "worker", "a")
    deaths: list[Death] = ["crashed", "stalled", "memory", "lost"]
    for death in deaths:
        hold(light, job_id, "worker")
        release(light, "worker", death, {job_id})
    assert light.find(job_id).deaths == 4
    assert "verdict" not in notes_of(light, job_id)


def test_recording_that_gets_on_is_not_given_up(jobs: Jobs) -> None:
    (job_id,) = held(jobs, "worker", "a")
    for done in (10.0, 20.0, 30.0, 40.0):
        jobs.client.update_workflow_attributes(job_id, {"done": done}, merge=True)
        hold(jobs, job_id, "worker")
        release(jobs, "worker", "crashed", {job_id})
    assert "verdict" not in notes_of(jobs, job_id)
    assert jobs.find(job_id).deaths == 4
    hold(jobs, job_id, "worker")
    release(jobs, "worker", "crashed", {job_id})  # no further than the time before
    assert "verdict" in notes_of(jobs, job_id)


def test_where_nobody_knows_who_it_was_they_are_tried_alone_only_when_it_comes_again_and_again(
    jobs: Jobs,
) -> None:
    ids = held(jobs, "worker", "a", "b")
    for count in range(1, SUSPICIOUS + 1):
        release(jobs, "worker", "lost", None)
        assert [queue_of(jobs, one) for one in ids] == [OWN, OWN]
        assert [jobs.find(one).deaths for one in ids] == [count, count]
        for job_id in ids:
            hold(jobs, job_id, "worker")
    release(jobs, "worker", "lost", None)
    assert [queue_of(jobs, one) for one in ids] == [ALONE, ALONE]


def test_what_has_ended_meanwhile_stays_so(jobs: Jobs) -> None:
    done, cancelled, running = held(jobs, "worker", "a", "b", "c")
    end(jobs, done)
    jobs.cancel(cancelled)
    assert release(jobs, "worker", "crashed", {done, cancelled}) == [running]
    assert [state(jobs, one) for one in (done, cancelled)] == ["done", "cancelled"]


def test_what_another_has_taken_meanwhile_is_left_to_it(
    light: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two watchers release the work of the same worker."""
    first, second = held(light, "worker", "a", "b")
    resume = light.client.resume_workflows

    def resume_and_take(ids: list[str], *, queue_name: str | None = None) -> None:
        resume(ids, queue_name=queue_name)
        hold(light, second, "another")

    monkeypatch.setattr(light.client, "resume_workflows", resume_and_take)
    assert release(light, "worker", "crashed", {first, second}) == [first]
    assert light.is_held(second, "another")
    assert light.find(second).deaths == 0


def test_released_job_is_the_same_job(jobs: Jobs) -> None:
    job_id, job = imagined("a", options={"language": "de"})
    job = replace(job, formats=("srt", "json"))
    jobs.submit([(job_id, job)])
    hold(jobs, job_id, "worker")
    release(jobs, "worker", "crashed", {job_id})
    assert jobs.find(job_id).job == job
