from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from listeners import Death
from pipelines import age, end, hold, opened, queue_of
from sounds import tone, write_wav
from stenopool.bucket import FolderBucket, Key
from stenopool.errors import UnknownName, UsageError
from stenopool.pipeline import batch as module
from stenopool.pipeline.batch import (
    BYTES_PER_SECOND,
    INDEX_VARIABLES,
    Batch,
    Child,
    all_batches,
    balanced,
    cancel,
    checked_name,
    child_index,
    child_jobs,
    find,
    finish_batches,
    finish_child,
    progress,
    seconds,
    submit,
)
from stenopool.pipeline.job import Group, Job
from stenopool.pipeline.jobs import Jobs
from stenopool.pipeline.watch import Defaults, Watcher

GROUP = Group("tiny")
DEFAULTS = Defaults(GROUP, ("txt", "json"), {})
RATE = 8000


@pytest.fixture
def bucket(tmp_path: Path) -> FolderBucket:
    (tmp_path / "bucket/input").mkdir(parents=True)
    return FolderBucket(tmp_path / "bucket")


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    with opened(f"sqlite:///{tmp_path / 'jobs.sqlite'}") as found:
        yield found


def lay(bucket: FolderBucket, **lengths: float) -> None:
    """Recordings of so many seconds."""
    for name, length in lengths.items():
        path = write_wav(bucket.root / f"input/{name}.wav", tone(length, rate=RATE), rate=RATE)
        age(path)


def submitted(jobs: Jobs, bucket: FolderBucket, children: int, **more: Any) -> Batch:
    made = submit(jobs, bucket, DEFAULTS, children, **more)
    assert made is not None
    return made


def by_child(jobs: Jobs) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for view in jobs.listed(limit=1000):
        found.setdefault(view.job.child, []).append(view.job.key.removeprefix("input/"))
    return {child: sorted(names) for child, names in found.items()}


# --- lists --------------------------------------------------------------------------------------


def test_longest_come_first_each_to_the_shortest_list() -> None:
    items = [("a", 2.0), ("b", 5.0), ("c", 3.0), ("d", 4.0), ("e", 1.0)]
    assert balanced(items, 2) == [[("b", 5.0), ("a", 2.0), ("e", 1.0)], [("d", 4.0), ("c", 3.0)]]


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=60), st.integers(1, 80))
def test_lists_are_about_equally_long_and_none_is_empty(lengths: list[int], parts: int) -> None:
    items = [(number, float(length)) for number, length in enumerate(lengths)]
    lists = balanced(items, parts)
    assert len(lists) == min(parts, len(items))
    assert all(lists)
    assert sorted(item for one in lists for item in one) == items
    sums = [sum(length for _, length in one) for one in lists]
    assert max(sums) - min(sums) <= max(lengths)


def test_length_is_what_the_recording_says(bucket: FolderBucket, jobs: Jobs) -> None:
    lay(bucket, short=0.5, long=2.0)
    bucket.write("input/strange.wav", "x" * 8000)
    bucket.write("input/empty.wav", "")
    for path in bucket.root.joinpath("input").iterdir():
        age(path)
    found = {job.key: seconds(bucket, job) for _, job in Watcher(bucket, jobs, DEFAULTS).collect()}
    assert found["input/short.wav"] == pytest.approx(0.5)
    assert found["input/long.wav"] == pytest.approx(2.0)
    assert found["input/strange.wav"] == 8000 / BYTES_PER_SECOND
    assert found["input/empty.wav"] == 0.0


def test_length_of_objects_is_guessed_without_fetching_them(
    bucket: FolderBucket, jobs: Jobs
) -> None:
    lay(bucket, a=1.0)
    ((_, job),) = Watcher(bucket, jobs, DEFAULTS).collect()

    class Objects(FolderBucket):
        @property
        def url(self) -> str:
            return "s3://bucket"

        def local(self, key: Key, stamp: object = None) -> Any:
            raise AssertionError("it was fetched")

    assert seconds(Objects(bucket.root), job) == job.stamp.size / BYTES_PER_SECOND


# --- submit -------------------------------------------------------------------------------------


def test_recordings_are_parted_among_children(bucket: FolderBucket, jobs: Jobs) -> None:
    lay(bucket, a=0.5, b=2.0, c=0.75, d=1.0)
    batch = submitted(jobs, bucket, 2)
    assert by_child(jobs) == {0: ["b.wav"], 1: ["a.wav", "c.wav", "d.wav"]}
    assert [child.recordings for child in batch.children] == [1, 3]
    assert [child.seconds for child in batch.children] == pytest.approx([2.0, 2.25])
    assert (batch.bucket, batch.schedule) == (bucket.url, "")
    assert find(jobs, batch.id) == batch
    assert all_batches(jobs) == [batch]
    assert all(queue_of(jobs, view.id) == GROUP.queue("files") for view in jobs.listed())
    for index in range(2):
        found = child_jobs(bucket, batch.id, index)
        assert all(job.batch == batch.id and job.child == index for _, job in found)
        assert dict(found) == {
            view.id: view.job for view in jobs.listed() if view.job.child == index
        }
    assert child_jobs(bucket, batch.id, 2) == []


def test_more_children_than_recordings_are_not_made(bucket: FolderBucket, jobs: Jobs) -> None:
    lay(bucket, a=0.5, b=0.5)
    assert submitted(jobs, bucket, 10).children == (Child(1, 0.5), Child(1, 0.5))


def test_empty_files_fill_lists_of_their_own(bucket: FolderBucket, jobs: Jobs) -> None:
    for name in "abc":
        bucket.write(f"input/{name}.wav", "")
        age(bucket.root / f"input/{name}.wav")
    assert submitted(jobs, bucket, 3).children == (Child(1, 0.0),) * 3


def test_nothing_to_do_leaves_no_trace(bucket: FolderBucket, jobs: Jobs) -> None:
    assert submit(jobs, bucket, DEFAULTS, 4) is None
    lay(bucket, a=0.5)
    submitted(jobs, bucket, 4)
    before = list(bucket.keys("work/"))
    assert submit(jobs, bucket, DEFAULTS, 4) is None  # they are jobs already
    assert list(bucket.keys("work/")) == before
    assert len(all_batches(jobs)) == 1


def test_batch_has_only_what_is_new(bucket: FolderBucket, jobs: Jobs) -> None:
    lay(bucket, a=0.5)
    first = submitted(jobs, bucket, 2)
    lay(bucket, b=0.5)
    second = submitted(jobs, bucket, 2)
    assert [job.key for _, job in child_jobs(bucket, second.id, 0)] == ["input/b.wav"]
    assert [one.id for one in all_batches(jobs)] == [second.id, first.id]


def test_watcher_leaves_what_is_in_a_batch(bucket: FolderBucket, jobs: Jobs) -> None:
    lay(bucket, a=0.5)
    submitted(jobs, bucket, 1)
    assert Watcher(bucket, jobs, DEFAULTS).look() == (0, 0)


def test_names_of_any_kind_are_in_the_lists(bucket: FolderBucket, jobs: Jobs) -> None:
    names = ["a b.wav", "🎙.wav", "caf\udce9.wav", "n" * 255]
    for name in names:
        bucket.write(f"input/{name}", "x")
        age(bucket.root / "input" / name)
    batch = submitted(jobs, bucket, 1)
    found = [job.key for _, job in child_jobs(bucket, batch.id, 0)]
    assert sorted(found) == sorted(f"input/{name}" for name in names)
    assert by_child(jobs)[0] == sorted(names)


def test_taken_name_submits_nothing(bucket: FolderBucket, jobs: Jobs) -> None:
    lay(bucket, a=0.5)
    submitted(jobs, bucket, 1, batch_id="night")
    lay(bucket, b=0.5)
    with pytest.raises(sa.exc.IntegrityError):
        submit(jobs, bucket, DEFAULTS, 1, batch_id="night")
    assert by_child(jobs) == {0: ["a.wav"]}


def test_batch_is_submitted_whole_or_not_at_all(
    bucket: FolderBucket, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(bucket, a=0.5, b=0.5, c=0.5)
    enqueue, calls = jobs.client.enqueue_in_transaction, []

    def dying(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise Death
        return enqueue(*arguments)

    with monkeypatch.context() as patch, pytest.raises(Death):
        patch.setattr(jobs.client, "enqueue_in_transaction", dying)
        submit(jobs, bucket, DEFAULTS, 2)
    assert (by_child(jobs), all_batches(jobs)) == ({}, [])
    assert sum(child.recordings for child in submitted(jobs, bucket, 2).children) == 3


# --- children that something outside runs -------------------------------------------------------


def test_outside_lists_wait_for_their_own_processes(bucket: FolderBucket, jobs: Jobs) -> None:
    lay(bucket, a=0.5, b=2.0, c=0.75)
    batch = submitted(jobs, bucket, 2, outside=True)
    assert by_child(jobs) == {}
    assert find(jobs, batch.id) == batch
    for index in range(2):
        found = child_jobs(bucket, batch.id, index)
        assert len(found) == batch.children[index].recordings
        jobs.submit(found)
        jobs.submit(found)  # a child that is started again
        for job_id, job in found:
            assert job.reserved == f"{batch.id}.{index}"
            assert Group.of_queue(queue_of(jobs, job_id)) == (GROUP, False, job.reserved)
    assert by_child(jobs) == {0: ["b.wav"], 1: ["a.wav", "c.wav"]}


def test_list_goes_when_its_child_is_done_and_the_folder_with_the_last(
    bucket: FolderBucket, jobs: Jobs
) -> None:
    lay(bucket, a=0.5, b=0.5)
    batch = submitted(jobs, bucket, 2, outside=True)
    finish_child(bucket, batch.id, 0)
    assert child_jobs(bucket, batch.id, 0) == []
    assert len(child_jobs(bucket, batch.id, 1)) == 1
    finish_child(bucket, batch.id, 1)
    finish_child(bucket, batch.id, 1)
    assert not bucket.root.joinpath("work/batches", batch.id).exists()


DAMAGED = [
    "",
    "{",
    "null",
    "5",
    '"text"',
    "[5]",
    '[["id"]]',
    '[["id", null]]',
    '[["id", []]]',
    '[["id", {}]]',
    '[["id", {"key": 5}]]',
    '[["id", {"stamp": 5, "key": "input/a"}]]',
    "[" * 200_000,
]


@pytest.mark.parametrize("text", DAMAGED, ids=range(len(DAMAGED)))
def test_damaged_list_is_refused_by_name(bucket: FolderBucket, text: str) -> None:
    bucket.write("work/batches/night/00003.json", text)
    with pytest.raises(UsageError, match="the list 3 of batch `night` is damaged"):
        child_jobs(bucket, "night", 3)


def test_cut_off_list_is_refused(bucket: FolderBucket, jobs: Jobs) -> None:
    lay(bucket, a=0.5, b=0.5)
    batch = submitted(jobs, bucket, 1, outside=True)
    key = f"work/batches/{batch.id}/00000.json"
    whole = bucket.read(key) or b""
    for length in range(0, len(whole), 7):
        bucket.write(key, whole[:length])
        with pytest.raises(UsageError, match="damaged"):
            child_jobs(bucket, batch.id, 0)


NO_NAMES = ["", "a b", "../x", "a/b", ".hidden", "-x", "_x", "é", "a\n", "n" * 81, "a\0"]


def test_names_that_are_none_are_refused(bucket: FolderBucket, jobs: Jobs) -> None:
    lay(bucket, a=0.5)
    for name in NO_NAMES:
        with pytest.raises(UsageError, match="not a name"):
            checked_name(name)
        with pytest.raises(UsageError, match="not a name"):
            child_jobs(bucket, name, 0)
        with pytest.raises(UsageError, match="not a name"):
            finish_child(bucket, name, 0)
        with pytest.raises(UsageError, match="not a name"):
            submit(jobs, bucket, DEFAULTS, 1, batch_id=name or " ")
    assert all_batches(jobs) == []
    assert not list(bucket.keys("work/"))


@pytest.mark.parametrize("name", ["a", "0", "night-2", "A_b", "n" * 80])
def test_other_names_are_taken(name: str) -> None:
    assert checked_name(name) == name


@pytest.mark.parametrize("name", INDEX_VARIABLES)
def test_child_is_told_which_it_is(name: str) -> None:
    assert child_index({name: "7", "OTHER": "8"}) == 7
    assert child_index({name: "0"}) == 0


@pytest.mark.parametrize("value", ["", "x", "-1", "1.5", " 1"])
def test_child_that_does_not_know_which_it_is_asks(value: str) -> None:
    with pytest.raises(UsageError, match="which child") as caught:
        child_index(dict.fromkeys(INDEX_VARIABLES, value) if value else {})
    assert all(name in caught.value.do for name in ("--index", *INDEX_VARIABLES))


# --- how far it is ------------------------------------------------------------------------------


def test_progress_of_each_child_is_told(bucket: FolderBucket, jobs: Jobs) -> None:
    lay(bucket, a=0.5, b=2.0, c=0.75)
    batch = submitted(jobs, bucket, 2)
    ids = {view.job.key: view.id for view in jobs.listed()}
    assert [dict(one.states) for one in progress(jobs, batch)] == [{"waiting": 1}, {"waiting": 2}]
    jobs.client.update_workflow_attributes(ids["input/b.wav"], {"compute": 2.5}, merge=True)
    end(jobs, ids["input/b.wav"])
    hold(jobs, ids["input/a.wav"], "worker")
    first, second = progress(jobs, batch)
    assert (first.states, first.compute_seconds, first.is_done) == ({"done": 1}, 2.5, True)
    assert (second.states, second.is_done) == ({"running": 1, "waiting": 1}, False)


def test_cancelled_batch_stops_what_has_not_ended(bucket: FolderBucket, jobs: Jobs) -> None:
    lay(bucket, a=0.5, b=0.5, c=0.5)
    batch = submitted(jobs, bucket, 2)
    lay(bucket, other=0.5)
    submitted(jobs, bucket, 1)
    first = next(view for view in jobs.listed() if view.job.batch == batch.id)
    end(jobs, first.id)
    assert cancel(jobs, batch) == 2
    assert cancel(jobs, batch) == 0
    states = sorted(view.state for view in jobs.listed())
    assert states == ["cancelled", "cancelled", "done", "waiting"]


def test_lists_of_a_batch_that_is_done_are_removed(bucket: FolderBucket, jobs: Jobs) -> None:
    lay(bucket, a=0.5, b=0.5)
    batch = submitted(jobs, bucket, 2)
    lay(bucket, c=0.5)
    waiting = submitted(jobs, bucket, 1, outside=True)
    bucket.write("work/batches/of-somebody-else/00000.json", "[]")
    for view in list(jobs.listed()):
        finish_batches(jobs, bucket)
        assert bucket.read(f"work/batches/{batch.id}/00000.json")
        end(jobs, view.id)
    finish_batches(jobs, bucket)
    lists = sorted(key.split("/")[2] for key in bucket.keys("work/"))
    assert lists == sorted([waiting.id, "of-somebody-else"])
    assert [one.id for one in all_batches(jobs)] == [waiting.id, batch.id]


def test_unknown_batch_is_refused(jobs: Jobs) -> None:
    with pytest.raises(UnknownName, match="no batch `night`"):
        find(jobs, "night")


def test_list_is_plain_json(bucket: FolderBucket, jobs: Jobs) -> None:
    lay(bucket, a=0.5)
    batch = submitted(jobs, bucket, 1)
    ((job_id, data),) = json.loads(bucket.read(f"{module._folder(batch.id)}/00000.json") or b"")
    assert Job.from_dict(data).key == "input/a.wav"
    assert jobs.find(job_id).job == Job.from_dict(data)
