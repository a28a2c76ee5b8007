from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from commands import InProcess, Ran, tree
from pipelines import Stage, change, end, hold, imagined
from stenopool.bucket import FolderBucket
from stenopool.pipeline import keys
from stenopool.pipeline.job import Group, span_prefix
from stenopool.pipeline.liveness import Register
from stenopool.settings import settings

ERROR = {
    "code": "no_samples",
    "message": "there is nothing in it",
    "hint": "Record it again",
    "transient": False,
}


class Jobs:
    """`steno jobs` and `steno queue` with the database of a stage."""

    def __init__(self, run: InProcess, stage: Stage) -> None:
        self.run = run
        self.stage = stage

    def __call__(self, *arguments: str) -> Ran:
        command = ["jobs", *arguments] if arguments[0] != "queue" else [*arguments]
        return self.run(*command, "--database", self.stage.url)

    def data(self, *arguments: str) -> list[dict[str, Any]]:
        ran = self(*arguments, "--json")
        assert (ran.status, ran.stderr) == (0, "")
        return ran.lines

    def fails(self, *arguments: str) -> str:
        """What the error of a wrong request is, after its code."""
        ran = self(*arguments)
        assert (ran.status, ran.text) == (2, "")
        assert ran.stderr.count("error[") == ran.stderr.count("\nhint: ") == 1
        return ran.stderr


@pytest.fixture
def jobs(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Iterator[Jobs]:
    settings.cache_clear()
    yield Jobs(InProcess(monkeypatch, capfdbinary), stage)
    settings.cache_clear()


def all_kinds(stage: Stage) -> dict[str, str]:
    """A job of each kind that people see, by its state."""
    waiting, running, done, failed, cancelled = stage.submit(
        "waiting.wav", "running.wav", "done.wav", "failed.wav", "cancelled.wav"
    )
    hold(stage.jobs, running, "worker")
    change(stage.jobs, running, started_at_epoch_ms=round((time.time() - 30) * 1000))
    notes = {"phase": "transcribing", "done": 60.0, "total": 240.0, "attempts": 2}
    stage.jobs.client.update_workflow_attributes(running, notes, merge=True)
    notes = {"phase": "", "done": 3600.0, "total": 3600.0, "compute": 36.0, "attempts": 1}
    stage.jobs.client.update_workflow_attributes(done, notes, merge=True)
    end(stage.jobs, done)
    end(stage.jobs, failed, "failed", error=ERROR)
    stage.jobs.cancel(cancelled)
    return {
        "waiting": waiting,
        "running": running,
        "done": done,
        "failed": failed,
        "cancelled": cancelled,
    }


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


# --- list --------------------------------------------------------------------------------------


def test_all_jobs_are_listed_in_a_table(jobs: Jobs, stage: Stage) -> None:
    ids = all_kinds(stage)
    ran = jobs("list")
    assert (ran.status, ran.stderr) == (0, "")
    header, *rows = ran.text.splitlines()
    assert cells(header)[:3] == ["id", "state", "key"]
    found = {row[0]: row[1:] for row in map(cells, rows)}
    assert found[ids["waiting"]] == ["waiting", "input/waiting.wav"]
    assert found[ids["done"]] == ["done", "input/done.wav", "1:00:00", "1", "0.010"]
    assert found[ids["failed"]] == ["failed (no_samples)", "input/failed.wav"]
    state, key, audio, progress, left, tries = found[ids["running"]]
    assert (state, key) == ("running: transcribing", "input/running.wav")
    assert (audio, progress, tries) == ("4:00", "25 %", "2")
    assert left in {"1:29", "1:30", "1:31", "1:32", "1:33"}  # three times as long as so far


def test_nothing_is_an_empty_table(jobs: Jobs) -> None:
    assert len(jobs("list").text.splitlines()) == 1
    assert jobs.data("list") == []


def test_states_can_be_chosen(jobs: Jobs, stage: Stage) -> None:
    all_kinds(stage)
    found = jobs.data("list", "--state", "failed", "--state", "waiting")
    assert sorted(line["state"] for line in found) == ["failed", "waiting"]


def test_limit_is_for_each_state(jobs: Jobs, stage: Stage) -> None:
    stage.jobs.submit([imagined(str(number)) for number in range(5)])
    assert len(jobs.data("list", "--limit", "3")) == 3


def test_jobs_of_a_batch_are_listed(jobs: Jobs, stage: Stage) -> None:
    stage.jobs.submit([imagined("a"), imagined("b", batch="night", child=2)])
    assert [line["child"] for line in jobs.data("list", "--batch", "night")] == [2]
    assert jobs.data("list", "--batch", "other") == []


def test_lines_of_json_have_everything(
    jobs: Jobs, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = all_kinds(stage)
    monkeypatch.setenv("STENO_PRICE_PER_HOUR", "2.5")
    settings.cache_clear()
    found = {line["id"]: line for line in jobs.data("list")}
    done = found[ids["done"]]
    assert (done["bucket"], done["model"]) == (stage.bucket.url, "scripted")
    assert done["cost"] == pytest.approx(36.0 / 3600 * 2.5)
    assert done["real_time_factor"] == pytest.approx(0.01)
    assert found[ids["failed"]]["error"] == ERROR
    assert 80 < found[ids["running"]]["eta_seconds"] < 100


def test_name_that_is_not_utf8_can_be_shown(jobs: Jobs, stage: Stage) -> None:
    (job_id,) = stage.submit("caf\udce9\n.wav")
    assert "caf\N{REPLACEMENT CHARACTER}\\n.wav" in jobs("list").text
    (line,) = jobs.data("show", job_id)
    assert line["key"] == "input/caf\N{REPLACEMENT CHARACTER}\n.wav"


# --- show --------------------------------------------------------------------------------------


def test_one_job_is_shown(jobs: Jobs, stage: Stage) -> None:
    ids = all_kinds(stage)
    shown = dict(line.split(maxsplit=1) for line in jobs("show", ids["failed"]).text.splitlines())
    assert shown["id"] == ids["failed"]
    assert shown["state"] == "failed"
    assert shown["error"] == "no_samples: there is nothing in it (Record it again)"
    assert shown["created"].startswith("20")
    assert "eta_seconds" not in shown


def test_job_is_found_by_the_beginning_of_its_id_and_by_its_key(jobs: Jobs, stage: Stage) -> None:
    ids = all_kinds(stage)
    (by_id,) = jobs.data("show", ids["done"][:18])
    (by_key,) = jobs.data("show", "input/done.wav", "--bucket", str(stage.folder))
    assert by_id["id"] == by_key["id"] == ids["done"]


def test_timeline_says_how_long_each_step_took(jobs: Jobs, stage: Stage) -> None:
    stage.submit("fine.wav")
    (job,) = stage.run_once().jobs
    (line,) = jobs.data("show", job.id, "--timeline")
    assert [step["name"] for step in line["timeline"]] == ["transcribe", "publish", "settle"]
    rows = jobs("show", job.id, "--timeline").text.splitlines()[-3:]
    assert [row.split()[-1] for row in rows] == ["transcribe", "publish", "settle"]


@pytest.mark.parametrize("command", ["show", "cancel", "retry", "delete"])
def test_job_that_is_none_is_refused(jobs: Jobs, command: str) -> None:
    assert "error[unknown_name]: no job `input/none.wav`" in jobs.fails(command, "input/none.wav")


# --- cancel, retry, delete ---------------------------------------------------------------------


def test_job_is_cancelled_and_retried(jobs: Jobs, stage: Stage) -> None:
    (job_id,) = stage.submit("a.wav")
    ran = jobs("cancel", job_id)
    assert (ran.status, ran.stderr) == (0, f"cancelled: {job_id}\n")
    assert "nothing to cancel" in jobs.fails("cancel", job_id)
    second = job_id.replace("-1", "-2")
    assert jobs("retry", job_id).stderr == f"submitted: {second}\n"
    assert {line["id"]: line["state"] for line in jobs.data("list")} == {
        job_id: "cancelled",
        second: "waiting",
    }
    assert "is waiting" in jobs.fails("retry", second)


def test_failed_recording_is_retried_from_failed(jobs: Jobs, stage: Stage) -> None:
    stage.submit("silent.wav")
    (job,) = stage.run_once().jobs
    assert tree(stage.folder / "failed") == ["silent.wav", "silent.wav.error.json"]
    assert jobs("retry", job.id).status == 0
    assert tree(stage.folder / "input") == ["silent.wav"]


def test_retry_of_a_recording_that_is_gone_says_so(jobs: Jobs, stage: Stage) -> None:
    ids = all_kinds(stage)
    (stage.folder / "input" / "failed.wav").unlink()
    ran = jobs("retry", ids["failed"])
    assert ran.status == 3
    assert ran.stderr.startswith("error[input_not_found]")


def test_deleted_job_leaves_its_documents_unless_data_is_asked_for(
    jobs: Jobs, stage: Stage
) -> None:
    for name in ("a.wav", "b.wav"):
        (job_id,) = stage.submit(name)
        end(stage.jobs, job_id)
        bucket = FolderBucket(stage.folder)
        bucket.move(f"input/{name}", f"processed/{name}")
        bucket.write(keys.output_key(f"input/{name}", "txt"), "text")
        arguments = ["--data"] if name == "b.wav" else []
        assert jobs("delete", job_id, *arguments).stderr == f"deleted: {job_id}\n"
    assert jobs.data("list") == []
    assert tree(stage.folder) == ["output/a.wav.txt", "processed/a.wav"]


def test_job_that_has_not_ended_is_not_deleted(jobs: Jobs, stage: Stage) -> None:
    ids = all_kinds(stage)
    for state in ("waiting", "running"):
        said = jobs.fails("delete", ids[state], "--data")
        assert f"steno jobs cancel {ids[state]}" in said
    assert "running.wav" in tree(stage.folder / "input")


# --- queue -------------------------------------------------------------------------------------


def busy(stage: Stage) -> None:
    """Two models: one with a long recording, whose name needs care."""
    awkward = Group('/srv/a "b"\\c', device="cpu")
    found = [imagined(str(number), group=awkward) for number in range(3)]
    stage.jobs.submit([*found, imagined("x", group=Group("base"))])
    job_id, job = found[0]
    hold(stage.jobs, job_id, "worker")
    stage.jobs.submit_span(f"{span_prefix(job_id)}0", job_id, job, {})
    Register(stage.jobs.engine).enter(awkward.queue("files"))


def test_queue_says_what_waits_for_each_model(jobs: Jobs, stage: Stage) -> None:
    busy(stage)
    (line,) = jobs.data("queue")
    by_model = {one["model"]: one for one in line["queues"]}
    assert by_model["base"] == {
        "model": "base",
        "device": "auto",
        "waiting": 1,
        "running": 0,
        "spans_waiting": 0,
        "spans_running": 0,
        "workers": 0,
    }
    other = by_model['/srv/a "b"\\c']
    assert (other["waiting"], other["running"], other["workers"]) == (2, 1, 1)
    assert (other["spans_waiting"], other["device"]) == (1, "cpu")
    header, *rows = jobs("queue").text.splitlines()
    assert cells(header)[0] == "model"
    assert ["base", "auto", "1", "0", "0", "0"] in [cells(row) for row in rows]


def test_parts_that_are_still_to_be_cut_wait_too(jobs: Jobs, stage: Stage) -> None:
    """Ten hours that one process has begun to read are work for others."""
    (long, job), (short, _), (unknown, _) = found = [imagined(name) for name in ("a", "b", "c")]
    stage.jobs.submit(found)
    for job_id, notes in ((long, {"total": 36_000.0, "done": 1_200.0}), (short, {"total": 90.0})):
        stage.jobs.client.update_workflow_attributes(job_id, notes, merge=True)
    for job_id in (long, short, unknown):
        hold(stage.jobs, job_id, "worker")
    assert depth(jobs) == {"running": 3, "spans_waiting": 145, "spans_running": 0}
    note = partial(stage.jobs.client.update_workflow_attributes, long, merge=True)
    note({"total": 1e9})  # as a file may claim
    assert depth(jobs)["spans_waiting"] == (48 * 3600 - 1_200) // 240
    note({"total": 36_000.0, "phase": "spans"})  # all of it is cut
    assert depth(jobs)["spans_waiting"] == 0
    note({"phase": "transcribing"})
    for number in range(3):
        span_id = f"{span_prefix(long)}{number}"
        stage.jobs.submit_span(span_id, long, job, {})
    hold(stage.jobs, span_id, "worker")
    assert depth(jobs) == {"running": 3, "spans_waiting": 144, "spans_running": 1}


def test_what_can_only_be_read_in_one_go_does_not_wait_for_others(jobs: Jobs, stage: Stage) -> None:
    job_id, job = imagined("a", options={"algorithm": "sequential"})
    stage.jobs.submit([(job_id, job)])
    stage.jobs.client.update_workflow_attributes(job_id, {"total": 36_000.0}, merge=True)
    hold(stage.jobs, job_id, "worker")
    assert depth(jobs) == {"running": 1, "spans_waiting": 0, "spans_running": 0}


def depth(jobs: Jobs) -> dict[str, int]:
    (line,) = jobs.data("queue")
    (one,) = line["queues"]
    return {name: one[name] for name in ("running", "spans_waiting", "spans_running")}


def test_those_that_are_tried_alone_count_with_the_others(jobs: Jobs, stage: Stage) -> None:
    job_id, job = imagined("a")
    stage.jobs.submit([(job_id, job), imagined("b")])
    stage.jobs.client.resume_workflows([job_id], queue_name=job.queue("files", alone=True))
    (line,) = jobs.data("queue")
    assert [one["waiting"] for one in line["queues"]] == [2]


def test_metrics_are_those_of_prometheus(jobs: Jobs, stage: Stage) -> None:
    busy(stage)
    lines = jobs("queue", "--metrics").text.splitlines()
    assert "# TYPE steno_queue_waiting gauge" in lines
    assert 'steno_queue_waiting{model="base",device="auto"} 1' in lines
    assert 'steno_queue_spans_waiting{model="/srv/a \\"b\\"\\\\c",device="cpu"} 1' in lines


def test_empty_queue_is_no_error(jobs: Jobs) -> None:
    assert jobs.data("queue") == [{"queues": []}]
    assert len(jobs("queue").text.splitlines()) == 1
    assert "# HELP steno_queue_workers" in jobs("queue", "--metrics").text


# --- wrong requests ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list", "--state", "finished"], "no such state: `finished`"),
        (["queue", "--json", "--metrics"], "exclude each other"),
    ],
)
def test_wrong_request_says_what_is_wrong(jobs: Jobs, arguments: list[str], said: str) -> None:
    assert said in jobs.fails(*arguments)


def test_database_must_be_named(jobs: Jobs) -> None:
    for command in (["jobs", "list"], ["queue"]):
        ran = jobs.run(*command)
        assert ran.status == 2
        assert "which database?" in ran.stderr


def test_bucket_of_a_folder_has_its_own_database(jobs: Jobs, stage: Stage) -> None:
    assert jobs.run("jobs", "list", "--bucket", stage.folder).status == 0
    assert (stage.folder / ".stenopool" / "jobs.sqlite").is_file()
