"""What goes on in a worker process beside the recordings."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from pipelines import SCRIPTED, end, hold, imagined, notes_of, opened, sqlite_url
from stenopool.audio import SAMPLE_RATE
from stenopool.audio.windows import Piece, Window
from stenopool.pipeline import flow
from stenopool.pipeline.job import FILES, Group, span_prefix
from stenopool.pipeline.jobs import Jobs
from stenopool.pipeline.liveness import Register
from stenopool.pipeline.process import Spec
from stenopool.pipeline.worker import Worker, _Line


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    with opened(sqlite_url(tmp_path)) as found:
        yield found


@pytest.fixture
def worker(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> Worker:
    """One that has not begun to work."""
    monkeypatch.setattr(flow, "_process", None)
    listener = cast(Any, None)
    return Worker(Spec(SCRIPTED), listener, jobs.engine, _Line(io.StringIO()))


ON_CPU = Group(SCRIPTED.model, device="cpu")


@pytest.mark.parametrize(
    ("queue", "changes", "helps"),
    [
        (SCRIPTED.queue(FILES), {}, True),
        (SCRIPTED.queue(FILES), {"group": ON_CPU}, False),
        (ON_CPU.queue(FILES), {}, True),
        (ON_CPU.queue(FILES), {"group": ON_CPU}, True),
        (Group("other").queue(FILES), {}, False),
        (SCRIPTED.queue(FILES, alone=True), {}, False),
        (SCRIPTED.queue(FILES, reserved="night.1"), {}, False),
        (SCRIPTED.queue(FILES), {"batch": "night", "child": 1, "outside": True}, False),
        (
            SCRIPTED.queue(FILES, reserved="night.1"),
            {"batch": "night", "child": 1, "outside": True},
            True,
        ),
        ("of another protocol", {}, False),
    ],
)
def test_others_help_that_serve_the_queue_of_a_jobs_spans(
    worker: Worker, jobs: Jobs, queue: str, changes: dict[str, Any], helps: bool
) -> None:
    job = imagined("a", **changes)[1]
    assert not worker._has_helpers(job)  # it has entered itself, too
    other = Register(jobs.engine).enter(queue)
    assert worker._has_helpers(job) is helps
    Register(jobs.engine).remove(other)
    assert not worker._has_helpers(job)


def test_those_that_the_pool_may_start_help_as_well(jobs: Jobs, worker: Worker) -> None:
    worker._spec = replace(worker._spec, in_company=True)
    assert worker._has_helpers(imagined("a")[1])


def test_spans_of_an_earlier_life_are_waited_for(worker: Worker, jobs: Jobs) -> None:
    job_id, job = imagined("a")
    jobs.submit([(job_id, job)])
    spans = flow._Spans(cast(Any, SimpleNamespace(id=job_id, job=job)))
    assert not spans.has_helpers()
    span_id = f"{span_prefix(job_id)}0"
    jobs.submit_span(span_id, job_id, job, {})
    assert spans.has_helpers()
    end(jobs, span_id)
    assert not spans.has_helpers()


def second() -> Window:
    samples = np.zeros(SAMPLE_RATE, dtype=np.float32)
    return Window((Piece(samples, 0, len(samples), 0, len(samples)),))


def test_process_does_not_end_before_what_it_has_read_is_kept(worker: Worker) -> None:
    activity = worker._begin("job", {})
    assert not worker._is_computing()
    with activity.computing():
        for _ in range(2):
            activity.begun(second())
            assert worker._is_computing()
            activity.read(second())
            assert worker._is_computing()  # the window is about to be kept
            activity.progress(1.0, 2.0)
            assert not worker._is_computing()
        activity.begun(second())
        activity.read(second())
    assert not worker._is_computing()


def test_what_is_noted_last_is_what_the_database_has_at_the_end(
    worker: Worker, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The notes that the process sends now and then may be on their way when a job ends."""
    job_id, job = imagined("a.wav", bucket=Path.cwd().as_uri())
    jobs.submit([(job_id, job)])
    hold(jobs, job_id, worker.id)
    begun, go_on = threading.Event(), threading.Event()
    update = worker._jobs.client.update_workflow_attributes

    def slowly(id: str, notes: dict[str, Any], *, merge: bool) -> None:
        if "total" in notes and threading.current_thread() is sender:
            begun.set()
            go_on.wait(30)
        update(id, notes, merge=merge)

    with flow._Hand(job_id, job) as hand:
        monkeypatch.setattr(worker._jobs.client, "update_workflow_attributes", slowly)
        hand.activity.progress(12.0, 20.0)
        sender = threading.Thread(target=worker._write_notes)
        sender.start()
        begun.wait(30)
        hand.activity.progress(20.0, 20.0)
        hand.outcome = {"outcome": "done"}
        threading.Timer(0.2, go_on.set).start()
    sender.join()
    assert notes_of(jobs, job_id)["done"] == 20.0
    assert notes_of(jobs, job_id)["phase"] == ""
