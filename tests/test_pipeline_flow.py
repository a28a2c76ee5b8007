"""Recordings through real processes: supervisor, DBOS, database and bucket; scripted models."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from commands import tree
from pipelines import (
    PATIENCE,
    SCRIPTED,
    Postgres,
    Seen,
    Stage,
    hold,
    is_gone,
    notes_of,
    opened,
    queue_of,
    wait_for,
)
from scripted_worker import UNKNOWN
from stenopool.bucket import FolderBucket
from stenopool.pipeline import keys, liveness, pool, queue, supervisor
from stenopool.pipeline.database import workers
from stenopool.pipeline.job import FILES, Group
from stenopool.pipeline.liveness import Register, release
from stenopool.pipeline.supervisor import tidy

SMALL_BYTES = 400 * 2**20  # several times what a scripted worker takes
NOT_UTF8 = "broken caf\udce9.wav"
REFUSED = {"code": "usage", "message": "`x` is no option", "hint": "Correct it", "transient": False}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits because a supervisor takes its time."""
    monkeypatch.setattr(supervisor, "TICK_SECONDS", 0.05)
    monkeypatch.setattr(supervisor, "SWEEP_SECONDS", 0.2)
    monkeypatch.setattr(supervisor, "TELL_SECONDS", 0.1)
    monkeypatch.setattr(liveness, "PARENT_SECONDS", 0.5)


def outputs(*names: str) -> list[str]:
    return sorted(f"{name}.{format}" for name in names for format in ("json", "txt"))


def text_of_seconds(count: int) -> str:
    return " ".join(f"s{second}" for second in range(count))


def reads(stage: Stage, name: str) -> Counter[int]:
    """How often each window of a recording was read."""
    return Counter(event.second for event in stage.log if event[:2] == ("read", name))


def worker_of(stage: Stage, name: str) -> int:
    """The process that has a recording."""
    return next(event.pid for event in reversed(stage.log) if event.name == name)


# --- all that can become of a recording --------------------------------------------------------


def test_each_recording_becomes_what_it_is(stage: Stage, database: str) -> None:
    """Twelve at once, of two models, with one process at a time."""
    with opened(database) as jobs:
        stage = stage.at(database, jobs)
        _each_becomes_what_it_is(stage)


def _each_becomes_what_it_is(stage: Stage) -> None:
    stage.submit("fine.wav", "deep/a b.c.wav", "engine.wav", "silent.wav", "defect.wav", "dead.wav")
    stage.submit("fine long.wav", seconds=20.0)
    stage.submit("fine other.wav", group=Group("other"))
    stage.submit("refused.wav", refused=REFUSED)
    for name in ("broken.wav", NOT_UTF8):
        (stage.folder / "input" / name).write_bytes(b"no sound at all")
        stage.submit_key(f"input/{name}")
    stage.bucket.write("input/fine.wav.steno.json", "{}")
    seen = stage.run_once(most=1, idle_seconds=0.0)
    done = ["deep/a b.c.wav", "engine.wav", "fine long.wav", "fine other.wav", "fine.wav"]
    codes = {
        "silent.wav": "no_samples",
        "defect.wav": "defect",
        "dead.wav": "engine_failed",
        "refused.wav": "usage",
        "broken.wav": "not_media",
        NOT_UTF8: "not_media",
    }
    assert seen.states == dict.fromkeys(done, "done") | dict.fromkeys(codes, "failed")
    assert len(seen.jobs) == len(seen.states)
    assert tree(stage.folder / "output") == outputs(*done)
    assert tree(stage.folder / "processed") == sorted([*done, "fine.wav.steno.json"])
    assert tree(stage.folder / "failed") == sorted(
        [*codes, *(f"{name}.error.json" for name in codes)]
    )
    assert tree(stage.folder / "input") == tree(stage.folder / "work") == []
    assert {name: stage.record(name)["code"] for name in codes} == codes
    assert stage.text("fine.wav") == "s0"
    _long_one_is_complete(stage, seen.view("fine long.wav").id)
    _numbers_are_right(stage)
    assert Register(stage.jobs.engine).all() == []


def _long_one_is_complete(stage: Stage, job_id: str) -> None:
    assert stage.text("fine long.wav") == text_of_seconds(20)
    assert reads(stage, "fine long.wav") == Counter(range(20))
    assert stage.jobs.spans(job_id) == {}  # nobody else could have read any
    steps = stage.jobs.timeline(job_id)
    assert [step["name"] for step in steps] == ["transcribe", "publish", "settle"]
    assert all(step["seconds"] >= 0 for step in steps)


def _numbers_are_right(stage: Stage) -> None:
    found = {view.job.key: view for view in stage.jobs.listed()}
    long = found["input/fine long.wav"]
    assert (long.deaths, long.error) == (0, None)
    assert long.attempts in {1, 2}  # an idle process may be told to end just as it takes a job
    assert (long.done_seconds, long.total_seconds) == (20.0, 20.0)
    assert long.compute_seconds > 0
    assert long.finished
    assert long.started
    assert found["input/engine.wav"].error is None
    dead = found["input/dead.wav"]
    assert dead.error
    assert dead.error["message"] == "the engine stumbled"
    # In company, then alone; once more if a process was told to end when the record was written,
    # but the job's end not yet.
    assert 2 <= stage.record("dead.wav")["attempts"] <= dead.attempts
    assert dead.deaths == 1  # of the process that others used; then it failed alone


def test_end_of_a_job_is_seen_at_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervisor whose processes work looks seldom, but hears what happens to them."""
    monkeypatch.setattr(supervisor, "WORKING_SECONDS", 3 * PATIENCE)
    begun = time.monotonic()
    stage.submit("slow.wav", seconds=20.0)
    assert stage.run_once().states == {"slow.wav": "done"}
    assert time.monotonic() - begun < PATIENCE


def test_long_recording_is_parted_where_there_may_be_more_processes(stage: Stage) -> None:
    (job_id,) = stage.submit("slow long.wav", seconds=20.0)
    assert stage.run_once(most=2).states == {"slow long.wav": "done"}
    assert len(stage.jobs.spans(job_id)) == 2
    assert stage.text("slow long.wav") == text_of_seconds(20)
    assert reads(stage, "slow long.wav") == Counter(range(20))
    found = stage.jobs.find(job_id)
    assert (found.done_seconds, found.total_seconds) == (20.0, 20.0)
    assert tree(stage.folder / "work") == []


@pytest.mark.slow
@pytest.mark.parametrize("most", [1, 2])
def test_what_ends_processes_fails_with_a_reason_and_the_others_go_on(
    stage: Stage, most: int
) -> None:
    guilty = {"abort.wav": "ended the process", "hang.wav": "standstill", "greedy.wav": "memory"}
    stage.submit("fine 1.wav", *guilty, "fine 2.wav")
    stage.submit("crash-10 long.wav", "fine long.wav", seconds=12.0)
    seen = stage.run_once(most=most, stall_seconds=2.0, memory_bytes=SMALL_BYTES)
    guilty["crash-10 long.wav"] = "ended the process"
    innocent = ["fine 1.wav", "fine 2.wav", "fine long.wav"]
    assert seen.states == dict.fromkeys(innocent, "done") | dict.fromkeys(guilty, "failed")
    for name, reason in guilty.items():
        record = stage.record(name)
        assert record["code"] == "input_crashed"
        assert reason in record["message"], name
        assert name in record["message"]
    assert stage.text("fine long.wav") == text_of_seconds(12)
    assert tree(stage.folder / "input") == tree(stage.folder / "work") == []
    # Each death costs no more than what was being read.
    assert reads(stage, "fine long.wav").total() <= 12 + 4


def test_frozen_process_is_ended_though_everybody_waits_for_the_lock_that_it_holds(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "SILENT_SECONDS", 3.0)
    guilty, _ = stage.submit("freeze.wav", "fine.wav")
    counts, register = stage.jobs.counts, Register(stage.jobs.engine)

    def written_counts() -> dict[str, dict[str, int]]:
        register.beat("nobody")  # as a round may have to: it waits for the lock
        return counts()

    monkeypatch.setattr(stage.jobs, "counts", written_counts)
    assert stage.run_once(most=1).states == {"freeze.wav": "failed", "fine.wav": "done"}
    assert stage.record("freeze.wav")["code"] == "input_crashed"
    assert stage.jobs.find(guilty).deaths == 2


def test_those_that_are_tried_alone_are_read_one_after_the_other(stage: Stage) -> None:
    names = ["slow 1.wav", "slow 2.wav", "slow 3.wav"]
    ids = stage.submit(*names, seconds=3.0)
    for job_id in ids:
        hold(stage.jobs, job_id, "ghost")
    release(stage.jobs, "ghost", "crashed", set(ids))
    assert set(stage.run_once().states.values()) == {"done"}
    order = [event.name for event in stage.log]
    assert [name for at, name in enumerate(order) if at == 0 or order[at - 1] != name] == sorted(
        names, key=order.index
    )


# --- killed, stopped, cancelled ----------------------------------------------------------------


def test_killed_process_costs_no_more_than_the_window_that_it_read(stage: Stage) -> None:
    ids = stage.submit("wait-10 long.wav", "wait-5 short.wav", seconds=12.0)
    with stage.running(idle_seconds=0.1) as running:
        wait_for(lambda: stage.happened("begun", "wait-10 long.wav", 10))
        wait_for(lambda: stage.happened("begun", "wait-5 short.wav", 5))
        first = worker_of(stage, "wait-10 long.wav")
        os.kill(first, signal.SIGKILL)
        stage.open()
        wait_for(lambda: [stage.state(one) for one in ids] == ["done", "done"])
        wait_for(lambda: not running.pool.children)
    assert worker_of(stage, "wait-10 long.wav") != first
    for name, job_id in zip(("wait-10 long.wav", "wait-5 short.wav"), ids, strict=True):
        assert stage.text(name) == text_of_seconds(12)
        assert reads(stage, name) == Counter(range(12))
        found = stage.jobs.find(job_id)
        assert (found.attempts, found.total_seconds) == (2, 12.0)
    assert tree(stage.folder / "processed") == ["wait-10 long.wav", "wait-5 short.wav"]
    assert tree(stage.folder / "work") == []


def test_process_that_is_told_to_end_finishes_what_it_reads_and_blames_nobody(
    stage: Stage,
) -> None:
    (job_id,) = stage.submit("slow.wav", seconds=16.0)
    with stage.running():
        wait_for(lambda: stage.happened("read", "slow.wav", 3))
    assert stage.state(job_id) == "waiting"
    assert Register(stage.jobs.engine).all() == []
    begun = {event.second for event in stage.log if event.what == "begun"}
    assert begun == set(reads(stage, "slow.wav"))
    assert max(begun) < 15
    assert stage.run_once().states == {"slow.wav": "done"}
    assert reads(stage, "slow.wav") == Counter(range(16))
    found = stage.jobs.find(job_id)
    assert (found.attempts, found.deaths) == (2, 0)
    assert "died" not in notes_of(stage.jobs, job_id)


def test_cancelled_taken_away_and_replaced_recordings_are_let_go(stage: Stage) -> None:
    """All three in the same process, which lives on."""
    (cancelled,) = stage.submit("slow cancelled.wav", seconds=60.0)
    (gone,) = stage.submit("wait gone.wav")
    (changed,) = stage.submit("wait changed.wav")
    with stage.running():
        wait_for(lambda: stage.happened("read", "slow cancelled.wav", 2))
        wait_for(lambda: stage.happened("begun", "wait gone.wav"))
        wait_for(lambda: stage.happened("begun", "wait changed.wav"))
        stage.jobs.cancel(cancelled)
        (stage.folder / "input" / "wait gone.wav").unlink()
        stage.lay("wait changed.wav", 2.0)
        stage.open()
        wait_for(lambda: (stage.state(gone), stage.state(changed)) == ("gone", "gone"))
        (after,) = stage.submit("fine.wav")
        wait_for(lambda: stage.state(after) == "done")
        tidy(stage.jobs, FolderBucket(stage.folder))
    assert len({event.pid for event in stage.log}) == 1
    assert stage.state(cancelled) == "cancelled"
    assert max(reads(stage, "slow cancelled.wav")) < 50
    assert tree(stage.folder / "input") == ["slow cancelled.wav", "wait changed.wav"]
    assert tree(stage.folder / "work") == tree(stage.folder / "failed") == []
    assert tree(stage.folder / "output") == outputs("fine.wav")


def test_worker_that_was_wrongly_taken_for_dead_ends(stage: Stage) -> None:
    (job_id,) = stage.submit("wait.wav")
    with stage.running():
        wait_for(lambda: stage.happened("begun", "wait.wav"))
        first = worker_of(stage, "wait.wav")
        with stage.jobs.engine.begin() as connection:
            connection.execute(workers.delete())
        wait_for(lambda: is_gone(first))
        stage.open()
        wait_for(lambda: stage.state(job_id) == "done")
    assert reads(stage, "wait.wav") == Counter([0])


SUPERVISE = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from pipelines import Stage, opened
with opened({url!r}) as jobs:
    Stage(Path({folder!r}), {url!r}, jobs).run_once()
"""


def test_workers_of_a_supervisor_that_was_killed_end_by_themselves(stage: Stage) -> None:
    (job_id,) = stage.submit("wait.wav")
    given = {"tests": str(Path(__file__).parent), "url": stage.url, "folder": str(stage.folder)}
    parent = subprocess.Popen([sys.executable, "-c", SUPERVISE.format(**given)])
    wait_for(lambda: stage.happened("begun", "wait.wav"))
    worker = worker_of(stage, "wait.wav")
    parent.kill()
    parent.wait()
    wait_for(lambda: is_gone(worker))
    assert stage.state(job_id) == "waiting"
    assert Register(stage.jobs.engine).all() == []
    stage.open()
    assert stage.run_once().states == {"wait.wav": "done"}
    found = stage.jobs.find(job_id)
    assert (found.attempts, found.deaths) == (2, 0)


def test_jobs_at_work_when_their_supervisor_is_killed_are_handed_back_once(stage: Stage) -> None:
    """Nobody hears any more what the worker tells, and it takes up nothing that it has let go."""
    names = [f"slow {number}.wav" for number in range(10)]
    ids = stage.submit(*names, seconds=30.0)
    given = {"tests": str(Path(__file__).parent), "url": stage.url, "folder": str(stage.folder)}
    parent = subprocess.Popen([sys.executable, "-c", SUPERVISE.format(**given)])
    for name in names:
        wait_for(lambda name=name: stage.happened("read", name, 2))  # type: ignore[misc]
    worker = worker_of(stage, names[0])
    parent.kill()
    parent.wait()
    wait_for(lambda: is_gone(worker))
    assert [stage.state(job_id) for job_id in ids] == ["waiting"] * 10
    assert Register(stage.jobs.engine).all() == []
    found = [stage.jobs.find(job_id) for job_id in ids]
    assert [(one.attempts, one.deaths) for one in found] == [(1, 0)] * 10


# --- trouble that passes -----------------------------------------------------------------------


def test_job_is_not_to_blame_for_its_database(stage: Stage) -> None:
    """The process gives it up, and takes it up again: once for each window that it strikes."""
    names = ["database-4 once.wav", "database-2 thrice.wav"]
    ids = stage.submit(*names, seconds=5.0)
    assert stage.run_once().states == dict.fromkeys(names, "done")
    assert [stage.text(name) for name in names] == [text_of_seconds(5)] * 2
    found = [stage.jobs.find(job_id) for job_id in ids]
    assert [(one.attempts, one.deaths, one.error) for one in found] == [(2, 0, None), (4, 0, None)]
    assert len({event.pid for event in stage.log}) == 1


def test_model_that_fails_in_one_process_costs_no_recording(stage: Stage) -> None:
    """Such as one on a GPU that was lost: every recording of the queue would fail in turn."""
    names = ["sickens.wav", *(f"fine {number}.wav" for number in range(4))]
    stage.submit(*names, seconds=3.0)
    assert stage.run_once(most=1).states == dict.fromkeys(names, "done")
    assert tree(stage.folder / "failed") == []
    assert (stage.folder.parent / "sick").exists()


@pytest.mark.parametrize("name", ["stale.wav", "cause.wav"])
def test_folder_that_cannot_be_read_for_a_while_is_waited_for(stage: Stage, name: str) -> None:
    stage.submit(name)
    assert stage.run_once().states == {name: "done"}
    assert tree(stage.folder / "failed") == []


def test_recording_that_may_not_be_read_fails(stage: Stage) -> None:
    (job_id,) = stage.submit("forbidden.wav")
    assert stage.run_once().states == {"forbidden.wav": "failed"}
    error = stage.jobs.find(job_id).error
    assert error
    assert error["code"] == "input_unreadable"


def test_bucket_that_is_not_there_is_waited_for(stage: Stage) -> None:
    (job_id,) = stage.submit("fine.wav")
    away = stage.folder.with_name("away")
    stage.folder.rename(away)
    with stage.running():
        wait_for(lambda: stage.jobs.find(job_id).phase == "retrying")
        away.rename(stage.folder)
        wait_for(lambda: stage.state(job_id) == "done")
    assert tree(stage.folder / "processed") == ["fine.wav"]


def test_storage_in_trouble_is_waited_for_as_long_as_the_job_has_patience(stage: Stage) -> None:
    (patient,) = stage.submit("fine patient.wav")
    (impatient,) = stage.submit("fine impatient.wav", patience=0.2)
    in_the_way = stage.folder / "output"
    in_the_way.write_text("no folder")
    with stage.running():
        wait_for(lambda: stage.state(impatient) == "left")
        wait_for(lambda: stage.jobs.find(patient).phase == "retrying")
        assert stage.jobs.find(patient).error
        in_the_way.unlink()
        wait_for(lambda: stage.state(patient) == "done")
    assert stage.jobs.find(patient).error is None
    error = stage.jobs.find(impatient).error
    assert error
    assert error["code"] == "output_unwritable"
    assert tree(stage.folder / "input") == ["fine impatient.wav"]
    assert tree(stage.folder / "output") == outputs("fine patient.wav")
    assert tree(stage.folder / "work") == []
    assert max(reads(stage, "fine patient.wav").values()) == 1


def test_storage_in_trouble_for_a_span_is_no_fault_of_the_recording(stage: Stage) -> None:
    (job_id,) = stage.submit("wait-9 long.wav", seconds=12.0, patience=0.2)
    readings = stage.folder / keys.job_folder(job_id) / "readings"
    with stage.running(most=2):
        wait_for(lambda: stage.happened("begun", "wait-9 long.wav", 9))
        readings.rename(readings.with_name("away"))
        readings.write_text("no folder")
        stage.open()
        wait_for(lambda: stage.state(job_id) not in {"running", "waiting"})
    assert stage.state(job_id) == "left"
    assert tree(stage.folder / "input") == ["wait-9 long.wav"]
    assert tree(stage.folder / "failed") == []


def test_model_that_cannot_be_loaded_is_told_and_its_jobs_wait(stage: Stage) -> None:
    (job_id,) = stage.submit("fine.wav", group=Group(UNKNOWN))
    failures = stage.supervisor(Seen()).run(once=True)
    assert {group.model: error["code"] for group, error in failures.items()} == {
        UNKNOWN: "model_not_pulled"
    }
    assert [error["exit_status"] for error in failures.values()] == [4]
    assert stage.state(job_id) == "waiting"
    assert tree(stage.folder / "input") == ["fine.wav"]
    assert Register(stage.jobs.engine).all() == []


def test_model_that_cannot_be_loaded_keeps_no_other_waiting(stage: Stage) -> None:
    (waits,) = stage.submit("a.wav", group=Group(UNKNOWN))
    stage.submit("slow b.wav", seconds=12.0)
    seen = Seen()
    failures = stage.supervisor(seen).run(once=True)
    assert seen.states == {"slow b.wav": "done"}
    assert [group.model for group in failures] == [UNKNOWN]
    assert stage.state(waits) == "waiting"


def test_once_ends_when_what_is_left_is_for_others(stage: Stage) -> None:
    """Another model, a child of a batch, another protocol: nobody here will ever do it."""
    stage.submit("a.wav", group=Group("other"))
    stage.submit("b.wav", batch="night", child=1, outside=True)
    for changes in ({}, {"bucket": None}):
        assert stage.run_once(models=("scripted",), **changes).jobs == []
    stage.submit("c.wav")
    assert stage.run_once(most=0).jobs == []
    assert stage.log == []


# --- several of everything ---------------------------------------------------------------------


def test_two_machines_do_everything_once(stage: Stage, postgres: Postgres) -> None:
    """Each with its own connections and processes, and a long recording that they share."""
    names = [f"slow {number}.wav" for number in range(6)]
    with opened(postgres.url) as first, opened(postgres.url) as second:
        one, other = stage.at(postgres.url, first), stage.at(postgres.url, second)
        ids = [*one.submit("slow long.wav", seconds=40.0), *one.submit(*names, seconds=4.0)]
        with one.running(), other.running():
            wait_for(lambda: {one.state(job_id) for job_id in ids} == {"done"})
    postgres.clear()
    assert reads(stage, "slow long.wav") == Counter(range(40))
    assert stage.text("slow long.wav") == text_of_seconds(40)
    assert len({event.pid for event in stage.log if event.name == "slow long.wav"}) == 2
    for name in names:
        assert reads(stage, name) == Counter(range(4))
    assert tree(stage.folder / "processed") == sorted([*names, "slow long.wav"])
    assert tree(stage.folder / "work") == []


def test_machine_with_nothing_to_do_helps_with_a_long_recording(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "PART_SECONDS", 8.0)
    (job_id,) = stage.submit("slow long.wav", seconds=120.0)
    with stage.running():
        wait_for(lambda: stage.happened("read", "slow long.wav", 8))
        with stage.running():
            wait_for(lambda: stage.state(job_id) == "done")
    assert len({event.pid for event in stage.log}) == 2
    assert stage.jobs.spans(job_id)
    assert reads(stage, "slow long.wav") == Counter(range(120))
    assert stage.text("slow long.wav") == text_of_seconds(120)


def test_processes_of_another_protocol_leave_these_jobs_alone(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    (old,) = stage.submit("fine old.wav")
    with monkeypatch.context() as patch:
        patch.setattr("stenopool.pipeline.job.PROTOCOL", "2")
        (new,) = stage.submit("fine new.wav")
        with stage.running(command=[*stage.command, "2"]):
            wait_for(lambda: stage.state(new) == "done")
            time.sleep(0.5)  # some more polls
        assert stage.state(old) == "waiting"
        (new,) = stage.submit("fine newer.wav")
    assert queue_of(stage.jobs, old) == SCRIPTED.queue(FILES)
    with stage.running():
        wait_for(lambda: stage.state(old) == "done")
        time.sleep(0.5)
    assert stage.state(new) == "waiting"


def test_what_is_told_is_json_and_holds_no_text(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "stenopool.events"):
        stage.submit("fine.wav")
        stage.run_once()
    names = [record.getMessage() for record in caplog.records]
    assert {"worker_started", "worker_ended", "job_ended"} <= set(names)
    fields = [vars(record)["fields"] for record in caplog.records]
    assert "s0" not in json.dumps(fields, default=str)
