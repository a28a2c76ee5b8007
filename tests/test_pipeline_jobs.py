from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from pipelines import (
    SCRIPTED,
    Stage,
    change,
    end,
    hold,
    imagined,
    opened,
)
from stenopool.bucket import FolderBucket, Stamp
from stenopool.errors import InputNotFound, UnknownName, UsageError
from stenopool.pipeline import again, database, keys
from stenopool.pipeline import jobs as jobs_module
from stenopool.pipeline.database import default_database, open_database
from stenopool.pipeline.job import FILES, SPANS, Group, Job, generation_of, numbered, span_prefix
from stenopool.pipeline.jobs import (
    ACTIVE,
    AT_ONCE,
    CALM_SECONDS,
    POLL_SECONDS,
    STATES,
    Jobs,
    JobView,
    State,
)

NOT_UTF8 = "input/caf\udce9 \udcff.wav"
ERROR = {"code": "not_media", "message": "no media", "hint": "Look", "transient": False}


@pytest.fixture
def jobs(database: str) -> Iterator[Jobs]:
    with opened(database) as found:
        yield found


def submitted(jobs: Jobs, *names: str, **changes: object) -> list[str]:
    found = [imagined(name, **changes) for name in names]
    jobs.submit(found)
    return [job_id for job_id, _ in found]


def listed(jobs: Jobs, *states: State, batch: str = "", limit: int = 10_000) -> list[str]:
    found = jobs.listed(states=states or STATES, batch=batch, limit=limit)
    return [one.job.key.removeprefix("input/") for one in found]


def in_state(jobs: Jobs, state: State) -> str:
    """A job in this state."""
    (job_id,) = submitted(jobs, f"{state}.wav")
    if state == "running":
        hold(jobs, job_id, "worker")
    elif state == "cancelled":
        jobs.cancel(job_id)
    elif state == "failed":
        end(jobs, job_id, "failed", error=ERROR)
    elif state == "broken":
        end(jobs, job_id, "failed", error=None)
    elif state != "waiting":
        end(jobs, job_id, state, error=ERROR if state in {"left", "gone"} else None)
    return job_id


# --- what a job is -----------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["base", "/srv/models/my model", "C:/a/b//c", "ünï"])
@pytest.mark.parametrize("kind", [FILES, SPANS])
@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("reserved", ["", "night-20260101T0000Z.3"])
def test_queue_says_which_process_it_is_for(
    model: str, kind: str, alone: bool, reserved: str
) -> None:
    group = Group(model, "openvino", "cpu")
    name = group.queue(kind, alone=alone, reserved=reserved)
    assert Group.of_queue(name) == (group, alone, reserved)


def test_queues_differ_in_everything() -> None:
    groups = [Group("a"), Group("a", "openvino"), Group("a", device="cpu"), Group("b")]
    names = {
        group.queue(kind, alone=alone, reserved=reserved)
        for group in groups
        for kind in (FILES, SPANS)
        for alone in (False, True)
        for reserved in ("", "x")
    }
    assert len(names) == 4 * 2 * 2 * 2


@pytest.mark.parametrize("kind", [FILES, SPANS])
@pytest.mark.parametrize("alone", [False, True])
def test_queue_for_one_at_a_time_gives_one_at_a_time(jobs: Jobs, kind: str, alone: bool) -> None:
    name = Group("a").queue(kind, alone=alone)
    jobs.register(name, kind, alone=alone)
    found = jobs.client.retrieve_queue(name)
    assert found is not None
    assert found.worker_concurrency == (1 if alone else AT_ONCE[kind])
    assert found.polling_interval_sec == POLL_SECONDS[kind]


@pytest.mark.parametrize("name", ["", "_dbos_internal_queue", "0/auto/auto/files///base", "1/a/b"])
def test_queue_of_somebody_else_is_none_of_ours(name: str) -> None:
    assert Group.of_queue(name) is None


@pytest.mark.parametrize("key", ["input/a.wav", "input/ä b/c.d.mp3", NOT_UTF8])
def test_job_survives_json(key: str) -> None:
    job = Job(
        "s3://bucket/prefix",
        key,
        Stamp(1, 2**60, "tag"),
        Group("/srv/model", "openvino", "cpu"),
        ("txt", "json"),
        {"temperatures": [0.0, 0.2], "language": "de"},
        batch="night",
        child=3,
        outside=True,
        refused=ERROR,
        patience=1.5,
    )
    assert Job.from_dict(json.loads(json.dumps(job.to_dict()))) == job


def test_each_state_of_each_recording_is_a_job_of_its_own() -> None:
    _, job = imagined("a.wav")
    others = [
        replace(job, key="input/b.wav"),
        replace(job, bucket="file:///elsewhere"),
        replace(job, stamp=Stamp(2, 1, "1")),
        replace(job, stamp=Stamp(1, 2, "1")),
        replace(job, stamp=Stamp(1, 1, "2")),
    ]
    assert len({one.digest for one in [job, *others]}) == 6


def test_the_same_recording_is_the_same_job_whatever_is_to_be_done_with_it() -> None:
    _, job = imagined("a.wav")
    changed = replace(job, group=Group("other"), formats=("srt", "json"), options={"task": "x"})
    assert changed.digest == job.digest


def test_id_names_a_folder_in_work() -> None:
    job_id, _ = imagined("a.wav")
    assert keys.is_job_id(job_id)
    assert generation_of(job_id) == 1
    assert not keys.is_job_id(f"{span_prefix(job_id)}0")


# --- submit and list ---------------------------------------------------------------------------


def test_submitted_job_waits_as_it_was_given(jobs: Jobs) -> None:
    before = time.time()
    given = {"options": {"language": "de"}, "formats": ("srt", "json"), "patience": 3.0}
    ((job_id, job),) = [imagined("a.wav", **given)]
    jobs.submit([(job_id, job)])
    found = jobs.find(job_id)
    assert found.job == job
    assert (found.state, found.attempts, found.deaths, found.worker) == ("waiting", 0, 0, "")
    assert (found.error, found.started, found.finished) == (None, None, None)
    assert before - 1 <= found.created <= time.time() + 1


def test_job_that_is_there_already_stays(jobs: Jobs) -> None:
    job_id, job = imagined("a.wav")
    jobs.submit([(job_id, job)])
    hold(jobs, job_id, "worker")
    jobs.submit([(job_id, replace(job, formats=("srt", "json"))), imagined("b.wav")])
    assert jobs.find(job_id).job == job
    assert jobs.find(job_id).state == "running"
    assert len(listed(jobs)) == 2


def test_all_jobs_are_submitted_or_none(jobs: Jobs) -> None:
    def fail(connection: sa.Connection) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        jobs.submit([imagined("a.wav")], also=fail)
    assert listed(jobs) == []


def test_job_is_listed_in_its_state_and_no_other(jobs: Jobs) -> None:
    ids = {state: in_state(jobs, state) for state in STATES}
    assert {state: jobs.find(ids[state]).state for state in STATES} == {one: one for one in STATES}
    assert {state: listed(jobs, state) for state in STATES} == {
        state: [f"{state}.wav"] for state in STATES
    }


def test_error_says_why(jobs: Jobs) -> None:
    states: list[State] = ["failed", "left", "gone"]
    assert [jobs.find(in_state(jobs, state)).error for state in states] == [ERROR] * 3


def test_error_of_the_pipeline_itself_is_a_defect(jobs: Jobs) -> None:
    error = jobs.find(in_state(jobs, "broken")).error
    assert error
    assert error["code"] == "defect"


def test_newest_come_first_up_to_a_limit(jobs: Jobs) -> None:
    for moment, job_id in zip((2_000, 1_000, 3_000), submitted(jobs, "b", "a", "c"), strict=True):
        change(jobs, job_id, created_at=moment)
    assert listed(jobs) == ["c", "b", "a"]
    assert listed(jobs, limit=2) == ["c", "b"]


def test_limit_counts_for_each_state(jobs: Jobs) -> None:
    ids = submitted(jobs, "a", "b", "c", "d")
    hold(jobs, ids[0], "worker")
    hold(jobs, ids[1], "worker")
    assert len(listed(jobs, limit=1)) == 2


def test_limit_counts_those_of_the_state_only(jobs: Jobs) -> None:
    """Those that are done, gone or left look the same to the database."""
    (old,) = submitted(jobs, "old")
    end(jobs, old, "gone")
    for job_id in submitted(jobs, "a", "b", "c"):
        end(jobs, job_id)
    assert listed(jobs, "gone", limit=1) == ["old"]


def test_every_job_is_listed_once_however_many_pages_there_are(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "PAGE", 10)
    names = [f"{number}" for number in range(95)]
    submitted(jobs, *names)  # at the same moment, so that time puts them in no order
    assert sorted(listed(jobs)) == sorted(names)
    assert len(listed(jobs, limit=25)) == 25


def test_more_than_a_page_can_be_submitted_listed_and_forgotten(jobs: Jobs) -> None:
    names = [f"{number}" for number in range(jobs_module.PAGE + 7)]
    submitted(jobs, *names)
    assert sorted(listed(jobs)) == sorted(names)


def test_jobs_of_a_batch_are_found_by_it(jobs: Jobs) -> None:
    submitted(jobs, "a")
    submitted(jobs, "b", batch="night", child=0)
    submitted(jobs, "c", batch="night", child=11)
    submitted(jobs, "d", batch="night2", child=1)
    assert listed(jobs, batch="night.11") == ["c"]
    assert listed(jobs, batch="night.1") == []
    assert sorted(listed(jobs, batch="night")) == ["b", "c"]
    assert jobs.has_active("file:///nowhere", "night.0")
    assert not jobs.has_active("file:///nowhere", "night.1")


@pytest.mark.parametrize("state", ACTIVE)
def test_bucket_has_active_jobs_while_they_wait_or_run(jobs: Jobs, state: State) -> None:
    for over in set(STATES).difference(ACTIVE):
        in_state(jobs, over)
    assert not jobs.has_active("file:///nowhere")
    in_state(jobs, state)
    assert jobs.has_active("file:///nowhere")
    assert not jobs.has_active("file:///elsewhere")


def test_those_that_ended_after_a_moment_are_found(jobs: Jobs) -> None:
    early, late, failed, _ = submitted(jobs, "early", "late", "failed", "waiting")
    end(jobs, early, at=1_000.0)
    end(jobs, late, at=2_000.0)
    end(jobs, failed, "failed", at=3_000.0, error=ERROR)
    found = {one.id: one.finished for one in jobs.ended(1_500.0)}
    assert found == {late: 2_000.0, failed: 3_000.0}


def test_keys_that_are_not_utf8_are_kept(jobs: Jobs) -> None:
    job_id, job = imagined("a")
    job = replace(job, key=NOT_UTF8)
    jobs.submit([(job_id, job)])
    end(jobs, job_id, "failed", error={**ERROR, "message": f"`{NOT_UTF8}` is no media"})
    found = jobs.find(job_id)
    assert found.job.key == NOT_UTF8
    assert found.error
    assert NOT_UTF8 in found.error["message"]
    json.dumps(found.to_dict()).encode()


def test_counts_say_what_waits_and_runs_in_each_queue(jobs: Jobs) -> None:
    ids = submitted(jobs, "a", "b", "c", group=Group("one"))
    submitted(jobs, "d", group=Group("two"))
    hold(jobs, ids[0], "worker")
    jobs.cancel(ids[1])
    assert jobs.counts() == {
        Group("one").queue(FILES): {"ENQUEUED": 1, "PENDING": 1},
        Group("two").queue(FILES): {"ENQUEUED": 1},
    }


def test_queues_in_which_nothing_waits_are_seldom_looked_into(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job_id,) = submitted(jobs, "a")
    queue, alone = imagined("a")[1].queue(FILES), imagined("a")[1].queue(FILES, alone=True)

    def pace(name: str) -> tuple[float, int]:
        jobs.pace(jobs.counts())
        found = jobs.client.retrieve_queue(name)
        assert found
        return found.polling_interval_sec, found.worker_concurrency or 0

    often, seldom = POLL_SECONDS[FILES], CALM_SECONDS
    assert often < seldom
    assert pace(queue) == (often, AT_ONCE[FILES])
    hold(jobs, job_id, "worker")
    assert pace(queue) == (often, AT_ONCE[FILES])  # for some seconds more
    monkeypatch.setattr(jobs_module, "CALM_AFTER_SECONDS", 0.0)
    assert pace(queue) == (seldom, AT_ONCE[FILES])
    Jobs(jobs.engine).register(queue, FILES)  # as a worker that begins does
    assert pace(queue) == (seldom, AT_ONCE[FILES])
    monkeypatch.setattr(jobs_module, "CALM_AFTER_SECONDS", 60.0)
    submitted(jobs, "b")
    assert pace(queue) == (often, AT_ONCE[FILES])
    jobs.register(alone, FILES, alone=True)
    jobs.client.resume_workflows([job_id], queue_name=alone)
    assert pace(alone) == (often, 1)
    hold(jobs, job_id, "worker")
    monkeypatch.setattr(jobs_module, "CALM_AFTER_SECONDS", 0.0)
    assert pace(alone) == (seldom, 1)
    jobs.pace({"of another program": {"PENDING": 1}})


# --- find --------------------------------------------------------------------------------------


def test_job_is_found_by_the_beginning_of_its_id(jobs: Jobs) -> None:
    job_id, *_ = submitted(jobs, "a", "b")
    assert jobs.find(job_id[:20]).id == job_id


def test_beginning_that_several_have_is_refused(jobs: Jobs) -> None:
    submitted(jobs, "a", "b")  # of one bucket, by which ids begin
    with pytest.raises(UnknownName, match="several"):
        jobs.find(imagined("a")[0][:8])


def test_whole_id_is_found_although_others_begin_with_it(jobs: Jobs) -> None:
    job_id, job = imagined("a")
    jobs.submit([(numbered(job.digest, number), job) for number in (10, 1, 11, 12, 13)])
    assert jobs.find(job_id).id == job_id


def test_newest_job_of_a_key_is_found(jobs: Jobs) -> None:
    job_id, job = imagined("a b.wav")
    jobs.submit([(job_id, job)])
    end(jobs, job_id)
    second = jobs.again(job, Stamp(5, 5, "5"))  # in the same second
    assert jobs.find("input/a b.wav", job.bucket).id == second
    with pytest.raises(UnknownName, match="no job"):
        jobs.find("input/a b.wav", "file:///elsewhere")


def test_what_is_no_job_is_not_found(jobs: Jobs) -> None:
    submitted(jobs, "a")
    for name in ("", "x", "input/b", "%", "_"):
        with pytest.raises(UnknownName):
            jobs.find(name, "file:///nowhere")
    with pytest.raises(UnknownName):
        jobs.find("input/a")  # in which bucket?


def test_span_is_no_job(jobs: Jobs) -> None:
    job_id, job = imagined("a")
    jobs.submit([(job_id, job)])
    jobs.submit_span(f"{span_prefix(job_id)}0-x", job_id, job, {})
    assert jobs.find(job_id).id == job_id
    assert listed(jobs) == ["a"]
    assert [*jobs.spans(job_id)] == [f"{span_prefix(job_id)}0-x"]


# --- cancel, delete, forget, again -------------------------------------------------------------


@pytest.mark.parametrize("held", [False, True])
def test_cancelled_job_takes_its_spans_along(jobs: Jobs, held: bool) -> None:
    job_id, job = imagined("a")
    jobs.submit([(job_id, job), imagined("b")])
    spans = [f"{span_prefix(job_id)}{name}" for name in ("0", "1")]
    for span in spans:
        jobs.submit_span(span, job_id, job, {})
    end(jobs, spans[0])
    if held:
        hold(jobs, job_id, "worker")
        hold(jobs, spans[1], "worker")
    jobs.cancel(job_id)
    assert jobs.find(job_id).state == "cancelled"
    assert {name: row.status for name, row in jobs.spans(job_id).items()} == {
        spans[0]: "SUCCESS",
        spans[1]: "CANCELLED",
    }
    assert listed(jobs, "waiting") == ["b"]


def test_only_what_waits_or_runs_can_be_cancelled_and_only_the_rest_deleted(jobs: Jobs) -> None:
    for state in STATES:
        job_id = in_state(jobs, state)
        active = state in ACTIVE
        with pytest.raises(UsageError, match="has not ended" if active else "has ended"):
            (jobs.delete if active else jobs.cancel)(job_id)
        assert jobs.find(job_id).state == state
        (jobs.cancel if active else jobs.delete)(job_id)
    assert sorted(listed(jobs, "cancelled")) == ["running.wav", "waiting.wav"]
    assert len(listed(jobs)) == 2


def test_deleted_job_takes_its_spans_along(jobs: Jobs) -> None:
    job_id, job = imagined("a")
    jobs.submit([(job_id, job)])
    jobs.submit_span(f"{span_prefix(job_id)}0", job_id, job, {})
    end(jobs, f"{span_prefix(job_id)}0")
    end(jobs, job_id)
    jobs.delete(job_id)
    assert jobs.spans(job_id) == {}


def test_what_ended_long_ago_is_forgotten(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "PAGE", 2)
    ids = submitted(jobs, *"abcdefg")
    jobs.submit_span(f"{span_prefix(ids[0])}0", ids[0], imagined("a")[1], {})
    end(jobs, f"{span_prefix(ids[0])}0", at=1_000.0)
    for job_id in ids[:5]:
        end(jobs, job_id, at=1_000.0)
    end(jobs, ids[5], at=3_000.0)
    assert jobs.forget(2_000.0) == 5
    assert sorted(listed(jobs)) == ["f", "g"]
    assert jobs.forget(2_000.0) == 0


def test_what_was_cancelled_is_not_forgotten(jobs: Jobs) -> None:
    """Its recording is in `input/`, and would be done after all."""
    (job_id,) = submitted(jobs, "a")
    jobs.submit_span(f"{span_prefix(job_id)}0", job_id, imagined("a")[1], {})
    jobs.cancel(job_id)
    assert jobs.forget(time.time() + 60) == 0
    assert jobs.find(job_id).state == "cancelled"
    assert jobs.spans(job_id) == {}


def test_again_makes_a_later_generation_of_the_same_job(jobs: Jobs) -> None:
    job_id, job = imagined("a", options={"language": "de"})
    jobs.submit([(job_id, job)])
    end(jobs, job_id, "failed", error=ERROR)
    second = jobs.again(job, job.stamp)
    third = jobs.again(job, job.stamp)
    assert [generation_of(one) for one in (second, third)] == [2, 3]
    assert jobs.find(second).job == job
    latest = jobs.latest(job.digest)
    assert latest
    assert latest.workflow_id == third


def test_recording_of_a_batch_is_tried_again_by_any_worker(jobs: Jobs) -> None:
    """The process of its child has ended."""
    job_id, job = imagined("a", batch="night", child=3, outside=True)
    jobs.submit([(job_id, job)])
    end(jobs, job_id, "failed", error=ERROR)
    second = jobs.find(jobs.again(job, job.stamp)).job
    assert second.queue(FILES) == SCRIPTED.queue(FILES)
    assert (second.batch, second.child) == ("night", 3)


def test_tenth_generation_is_later_than_the_ninth(jobs: Jobs) -> None:
    _, job = imagined("a")
    jobs.submit([(numbered(job.digest, number), job) for number in range(1, 11)])
    assert generation_of(jobs.again(job, job.stamp)) == 11


def test_job_is_held_by_the_worker_that_took_it(jobs: Jobs) -> None:
    (job_id,) = submitted(jobs, "a")
    assert not jobs.is_held(job_id, "")
    hold(jobs, job_id, "one")
    assert jobs.is_held(job_id, "one")
    assert not jobs.is_held(job_id, "two")
    end(jobs, job_id)
    assert not jobs.is_held(job_id, "one")
    assert not jobs.is_held("nothing", "one")


# --- retry, and delete with everything ---------------------------------------------------------


def test_retried_recording_comes_back_from_failed_with_its_sidecar(stage: Stage) -> None:
    (job_id,) = stage.submit("deep/a b.wav", options={"language": "de"})
    key = "input/deep/a b.wav"
    bucket = stage.bucket
    bucket.write(keys.sidecar_key(keys.failed_key(key)), "{}")
    bucket.move(key, keys.failed_key(key))
    end(stage.jobs, job_id, "failed", error=ERROR)
    second = again.retry(stage.jobs, stage.jobs.find(job_id))
    view = stage.jobs.find(second)
    assert view.job.stamp == bucket.stamp(key)
    assert view.job.options == {"language": "de"}
    assert bucket.stamp(keys.sidecar_key(key))
    assert [*bucket.keys("failed/")] == []


def test_cancelled_recording_is_retried_where_it_is(stage: Stage) -> None:
    (job_id,) = stage.submit("a.wav")
    stage.jobs.cancel(job_id)
    second = again.retry(stage.jobs, stage.jobs.find(job_id))
    assert generation_of(second) == 2
    assert stage.state(second) == "waiting"


@pytest.mark.parametrize("state", ["waiting", "done"])
def test_what_runs_or_is_done_is_not_retried(stage: Stage, state: State) -> None:
    job_id = in_state(stage.jobs, state)
    with pytest.raises(UsageError, match=state):
        again.retry(stage.jobs, stage.jobs.find(job_id))


def test_recording_that_is_gone_is_not_retried(stage: Stage) -> None:
    (job_id,) = stage.submit("a.wav")
    stage.jobs.cancel(job_id)
    stage.bucket.delete("input/a.wav")
    with pytest.raises(InputNotFound):
        again.retry(stage.jobs, stage.jobs.find(job_id))


def test_deleting_data_leaves_nothing_of_the_recording(stage: Stage) -> None:
    first, second = stage.submit("a.wav", "b.wav")
    bucket = stage.bucket
    for name in ("a.wav", "b.wav"):
        bucket.move(f"input/{name}", f"processed/{name}")
        for place in (
            f"processed/{name}.steno.json",
            f"failed/{name}",
            f"failed/{name}.error.json",
            f"failed/{name}.steno.json",
            f"output/{name}.json",
            f"output/{name}.txt",
            f"output/{name}.tsv",
        ):
            bucket.write(place, "x")
    everything = {*bucket.keys("processed/"), *bucket.keys("failed/"), *bucket.keys("output/")}
    end(stage.jobs, first)
    again.delete_data(stage.jobs.find(first))
    left = {*bucket.keys("processed/"), *bucket.keys("failed/"), *bucket.keys("output/")}
    assert left == {key for key in everything if "b.wav" in key}
    assert second


def test_deleting_data_of_a_cancelled_job_takes_its_recording_and_no_later_one(
    stage: Stage,
) -> None:
    first, second = stage.submit("a.wav", "b.wav")
    stage.bucket.write("input/a.wav.steno.json", "{}")
    stage.lay("b.wav", 2.0)
    for job_id in (first, second):
        stage.jobs.cancel(job_id)
        again.delete_data(stage.jobs.find(job_id))
    assert [*stage.bucket.keys("input/")] == ["input/b.wav"]


# --- as people see it --------------------------------------------------------------------------


def seen(**changes: object) -> JobView:
    _, job = imagined("a.wav")
    usual = JobView(
        id="x-1",
        job=job,
        state="running",
        phase="transcribing",
        done_seconds=25.0,
        total_seconds=100.0,
        attempts=1,
        deaths=0,
        worker="w",
        compute_seconds=10.0,
        error=None,
        created=900.0,
        started=1_000.0,
        finished=None,
    )
    return replace(usual, **changes)  # type: ignore[arg-type]


def test_rest_takes_as_long_as_what_is_done_has_taken() -> None:
    assert seen().eta_seconds(1_010.0) == pytest.approx(30.0)
    assert seen(done_seconds=100.0).eta_seconds(1_010.0) == 0.0
    assert seen(done_seconds=101.0).eta_seconds(1_010.0) == 0.0


@pytest.mark.parametrize(
    "changes",
    [{"state": "waiting"}, {"state": "done"}, {"started": None}, {"total_seconds": None},
     {"done_seconds": 0.0}],
)  # fmt: skip
def test_nobody_knows_how_long_it_takes(changes: dict[str, object]) -> None:
    assert seen(**changes).eta_seconds(1_010.0) is None


def test_cost_is_that_of_the_workers_time() -> None:
    data = seen(compute_seconds=1_800.0).to_dict(3.0)
    assert data["cost"] == pytest.approx(1.5)
    assert data["real_time_factor"] == pytest.approx(18.0)
    assert seen(total_seconds=None).to_dict()["real_time_factor"] is None


def test_notes_of_workers_are_what_is_seen(jobs: Jobs) -> None:
    (job_id,) = submitted(jobs, "a")
    hold(jobs, job_id, "worker")
    notes = {"phase": "spans", "done": 3.0, "total": 9.0, "attempts": 2, "compute": 1.5}
    jobs.client.update_workflow_attributes(job_id, notes, merge=True)
    jobs.client.update_workflow_attributes(job_id, {"deaths": 1, "error": ERROR}, merge=True)
    found = jobs.find(job_id)
    assert (found.state, found.phase, found.worker) == ("running", "spans", "worker")
    assert (found.done_seconds, found.total_seconds, found.compute_seconds) == (3.0, 9.0, 1.5)
    assert (found.attempts, found.deaths, found.error) == (2, 1, ERROR)
    assert found.started == pytest.approx(time.time(), abs=5)


# --- the database ------------------------------------------------------------------------------


def test_folder_has_its_database_in_itself_and_other_buckets_have_it_elsewhere(
    tmp_path: Path,
) -> None:
    url = FolderBucket(tmp_path).url
    assert default_database(url) == f"sqlite:///{tmp_path}/.stenopool/jobs.sqlite"
    elsewhere = {default_database(url) for url in ("s3://a", "s3://a/b", "gs://a")}
    assert len(elsewhere) == 3
    assert all(one.startswith("sqlite:////") for one in elsewhere)


@pytest.mark.parametrize("name", ["a b ä", "50%25 off, what? #1"])
def test_folder_of_any_name_has_a_database(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    with opened(default_database(FolderBucket(folder).url)) as jobs:
        submitted(jobs, "a")
    assert (folder / ".stenopool" / "jobs.sqlite").is_file()


def test_folder_whose_name_is_not_utf8_needs_a_database_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="UTF-8"):
        open_database(default_database(FolderBucket(tmp_path / "caf\udce9").url))


@pytest.mark.parametrize(
    "url", ["", "mysql://a/b", "jobs.sqlite", "/srv/jobs.sqlite", "postgresql+psycopg://a/b"]
)
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(UsageError, match="not a database"):
        open_database(url)


def test_password_is_not_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        open_database("mysql://me:secret@host/name")
    assert "secret" not in caught.value.what
    with pytest.raises(UsageError) as caught:
        open_database("postgresql://me:secret@127.0.0.1:1/name")
    assert "secret" not in caught.value.what
    assert "cannot open the database" in caught.value.what


def test_file_that_is_no_database_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    path.write_bytes(b"text that is no database at all\n" * 100)
    with pytest.raises(UsageError, match=r"jobs\.sqlite"):
        open_database(f"sqlite:///{path}")


@pytest.mark.parametrize("url", ["postgresql://a:b:c@/x", "postgresql://host:port/x"])
def test_malformed_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        open_database(url)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_several_processes_may_make_the_tables_at_the_same_time(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'new' / 'jobs.sqlite'}"
    if kind == "postgresql":
        url = request.getfixturevalue("postgres").new()
    theirs_are_made = threading.Barrier(4, timeout=60)
    migrate = database._migrate

    def migrate_and_wait(engine: sa.Engine) -> None:
        migrate(engine)
        theirs_are_made.wait()

    def count_jobs() -> dict[str, dict[str, int]]:
        with opened(url) as jobs:
            return jobs.counts()

    monkeypatch.setattr(database, "_migrate", migrate_and_wait)
    with ThreadPoolExecutor(4) as threads:
        assert [one.result() for one in [threads.submit(count_jobs) for _ in range(4)]] == [{}] * 4
