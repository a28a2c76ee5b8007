from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from listeners import Mortal
from pipelines import age, end, hold, opened, queue_of
from stenopool import Options
from stenopool.bucket import FolderBucket, Key, Refused, Stamp
from stenopool.errors import UnknownName, UsageError
from stenopool.pipeline import keys, watch
from stenopool.pipeline.again import retry
from stenopool.pipeline.job import Group, Job, numbered
from stenopool.pipeline.jobs import Jobs
from stenopool.pipeline.watch import PAGE, Defaults, Watcher, parsed_sidecar

GROUP = Group("tiny")
DEFAULTS = Defaults(GROUP, ("txt", "json"), {"beam_size": 2})
SIDECAR = ".steno.json"


@pytest.fixture
def bucket(tmp_path: Path) -> FolderBucket:
    folder = tmp_path / "bucket"
    folder.mkdir()
    return FolderBucket(folder)


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    with opened(f"sqlite:///{tmp_path / 'jobs.sqlite'}") as found:
        yield found


@pytest.fixture
def watcher(bucket: FolderBucket, jobs: Jobs) -> Watcher:
    return Watcher(bucket, jobs, DEFAULTS)


def lay(bucket: FolderBucket, *names: str, text: str = "x") -> None:
    """Recordings that were complete some time ago."""
    for name in names:
        bucket.write(f"input/{name}", text)
        age(bucket.root / "input" / name)


def say(bucket: FolderBucket, name: str, said: object) -> None:
    """A sidecar."""
    text = said if isinstance(said, str) else json.dumps(said)
    bucket.write(f"input/{name}{SIDECAR}", text)


def all_jobs(jobs: Jobs) -> dict[str, Job]:
    return {view.id: view.job for view in jobs.listed(limit=100_000)}


def keys_of(jobs: Jobs) -> list[str]:
    return sorted(job.key.removeprefix("input/") for job in all_jobs(jobs).values())


def job_of(jobs: Jobs, name: str) -> Job:
    (found,) = [job for job in all_jobs(jobs).values() if job.key == f"input/{name}"]
    return found


def generations(jobs: Jobs) -> list[int]:
    return sorted(int(job_id.rpartition("-")[2]) for job_id in all_jobs(jobs))


# --- once ---------------------------------------------------------------------------------------


def test_new_recording_becomes_a_job_once(
    bucket: FolderBucket, jobs: Jobs, watcher: Watcher
) -> None:
    lay(bucket, "a.wav", "b/c.wav")
    assert watcher.look() == (2, 0)
    assert watcher.look() == (0, 0)
    lay(bucket, "d.wav")
    assert watcher.look() == (1, 0)
    assert keys_of(jobs) == ["a.wav", "b/c.wav", "d.wav"]
    job = job_of(jobs, "b/c.wav")
    expected = Job(
        bucket.url,
        "input/b/c.wav",
        bucket.stamp("input/b/c.wav") or Stamp(0, 0, ""),
        GROUP,
        ("txt", "json"),
        {"beam_size": 2},
    )
    assert job == expected


def test_nothing_there_is_nothing_to_do(watcher: Watcher) -> None:
    assert watcher.look() == (0, 0)
    assert watcher.collect() == []


def test_two_watchers_submit_it_once(bucket: FolderBucket, jobs: Jobs, tmp_path: Path) -> None:
    lay(bucket, *(f"{number}.wav" for number in range(50)))
    barrier = threading.Barrier(4)

    def look(_: int) -> tuple[int, int]:
        with opened(str(jobs.engine.url)) as own:
            watcher = Watcher(bucket, own, DEFAULTS)
            barrier.wait()
            return watcher.look()

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(look, range(4)))
    assert sum(submitted for submitted, _ in found) >= 50
    assert len(all_jobs(jobs)) == 50
    assert generations(jobs) == [1] * 50


def test_buckets_that_share_a_database_have_their_own_jobs(
    bucket: FolderBucket, jobs: Jobs, watcher: Watcher, tmp_path: Path
) -> None:
    other = FolderBucket(tmp_path / "other")
    for one in (bucket, other):
        lay(one, "a.wav")
    assert watcher.look() == (1, 0)
    assert Watcher(other, jobs, DEFAULTS).look() == (1, 0)
    assert {job.bucket for job in all_jobs(jobs).values()} == {bucket.url, other.url}


@pytest.mark.parametrize(
    "name",
    [
        ".part.wav",
        ".folder/a.wav",
        "a.wav.steno.json",
        "folder/.steno.json",
        "b.wav.error.json",
        f"api/{'0' * 32}-upload.wav",
    ],
)
def test_other_files_are_no_recordings(
    bucket: FolderBucket, jobs: Jobs, watcher: Watcher, name: str
) -> None:
    lay(bucket, name)
    assert watcher.look() == (0, 0)
    assert watcher.collect() == []
    assert watcher.refused == {}


NAMES = ["a b.wav", "line\nbreak", "q\"'`$;%20.mp3", "-rf", "🎙.ogg", "n" * 255, "caf\udce9.wav"]


@pytest.mark.parametrize("name", NAMES)
def test_recordings_of_any_name_become_jobs(
    bucket: FolderBucket, jobs: Jobs, watcher: Watcher, name: str
) -> None:
    lay(bucket, name, "sub/" + name)
    assert watcher.look() == (2, 0)
    assert keys_of(jobs) == sorted([name, "sub/" + name])
    assert watcher.look() == (0, 0)


# --- files that are written to ------------------------------------------------------------------


def test_growing_file_is_left_until_it_is_still(
    bucket: FolderBucket, jobs: Jobs, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "STILL_SECONDS", 0.2)
    path = bucket.root / "input/a.wav"
    bucket.write("input/a.wav", "")
    for _ in range(3):
        assert watcher.look() == (0, 1)
        time.sleep(0.12)  # with the time until the next look more than it has to be still
        with path.open("a") as file:
            file.write("more")
    assert watcher.look() == (0, 1)
    time.sleep(0.25)
    assert watcher.look() == (1, 0)
    assert job_of(jobs, "a.wav").stamp.size == 12


def test_file_that_was_just_copied_is_not_submitted_at_first_sight(
    bucket: FolderBucket, watcher: Watcher
) -> None:
    bucket.write("input/a.wav", "x")
    assert watcher.look() == (0, 1)
    assert watcher.look() == (0, 1)


def test_file_from_the_future_is_submitted_when_it_is_still(
    bucket: FolderBucket, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "STILL_SECONDS", 0.0)
    bucket.write("input/a.wav", "x")
    os.utime(bucket.root / "input/a.wav", (time.time() + 1e6,) * 2)
    assert watcher.look() == (1, 0)


def test_file_that_was_taken_away_is_not_waited_for(bucket: FolderBucket, watcher: Watcher) -> None:
    bucket.write("input/a.wav", "x")
    assert watcher.look() == (0, 1)
    bucket.delete("input/a.wav")
    assert watcher.look() == (0, 0)


def test_collection_waits_until_young_files_are_still(
    bucket: FolderBucket, jobs: Jobs, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "STILL_SECONDS", 0.2)
    lay(bucket, "old.wav")
    for name in ("young.wav", "growing.wav", "gone.wav"):
        bucket.write(f"input/{name}", "x")

    def disturb() -> None:
        with (bucket.root / "input/growing.wav").open("a") as file:
            file.write("more")
        bucket.delete("input/gone.wav")

    timer = threading.Timer(0.05, disturb)
    timer.start()
    found = watcher.collect()
    timer.join()
    assert [job.key for _, job in found] == ["input/old.wav", "input/young.wav"]
    assert all_jobs(jobs) == {}  # they are for somebody else to submit
    jobs.submit(found)
    assert watcher.look() == (0, 1)


# --- again --------------------------------------------------------------------------------------


def test_replaced_upload_is_a_new_job(bucket: FolderBucket, jobs: Jobs, watcher: Watcher) -> None:
    lay(bucket, "a.wav", text="first")
    assert watcher.look() == (1, 0)
    lay(bucket, "a.wav", text="second")
    assert watcher.look() == (1, 0)
    assert generations(jobs) == [1, 1]
    assert {job.stamp.size for job in all_jobs(jobs).values()} == {5, 6}


def outcome(jobs: Jobs, job_id: str, how: str) -> None:
    if how == "failed":
        end(jobs, job_id, how, error={"code": "not_media", "message": "x", "hint": "x"})
    else:
        end(jobs, job_id, how)


@pytest.mark.parametrize("how", ["done", "failed", "gone"])
def test_recording_put_back_unchanged_is_a_job_of_the_next_generation(
    bucket: FolderBucket, jobs: Jobs, watcher: Watcher, how: str
) -> None:
    lay(bucket, "a.wav")
    for number in range(1, 13):  # two digits too
        assert watcher.look() == (1, 0)
        assert watcher.look() == (0, 0)  # it is a job now
        newest = max(all_jobs(jobs), key=lambda one: int(one.rpartition("-")[2]))
        assert newest.endswith(f"-{number}")
        outcome(jobs, newest, how)
        assert bucket.move("input/a.wav", "processed/a.wav")
        assert watcher.look() == (0, 0)
        assert bucket.move("processed/a.wav", "input/a.wav")
    assert generations(jobs) == list(range(1, 13))


def test_two_watchers_find_the_same_next_generation(bucket: FolderBucket, jobs: Jobs) -> None:
    lay(bucket, "a.wav")
    first, second = (Watcher(bucket, jobs, DEFAULTS) for _ in range(2))
    first.look()
    (job_id,) = all_jobs(jobs)
    end(jobs, job_id)
    found = [*first.collect(), *second.collect()]
    assert [one[0] for one in found] == [job_id.replace("-1", "-2")] * 2
    jobs.submit(found)
    assert generations(jobs) == [1, 2]


def test_job_that_waits_or_runs_is_left_alone(
    bucket: FolderBucket, jobs: Jobs, watcher: Watcher
) -> None:
    lay(bucket, "a.wav")
    watcher.look()
    (job_id,) = all_jobs(jobs)
    for state in ("waiting", "running"):
        if state == "running":
            hold(jobs, job_id, "worker")
        assert jobs.find(job_id).state == state
        assert watcher.look() == (0, 0)
        assert Watcher(bucket, jobs, DEFAULTS).look() == (0, 0)


def test_cancelled_job_is_left_alone_until_its_recording_is_another(
    bucket: FolderBucket, jobs: Jobs, watcher: Watcher
) -> None:
    lay(bucket, "a.wav")
    watcher.look()
    (job_id,) = all_jobs(jobs)
    jobs.cancel(job_id)
    assert watcher.look() == (0, 0)
    assert Watcher(bucket, jobs, DEFAULTS).look() == (0, 0)
    lay(bucket, "a.wav", text="another")
    assert watcher.look() == (1, 0)


@pytest.mark.parametrize("how", ["left", "broken"])
def test_job_given_up_is_tried_again_by_the_next_watcher(
    bucket: FolderBucket, jobs: Jobs, watcher: Watcher, how: str
) -> None:
    lay(bucket, "a.wav")
    watcher.look()
    (job_id,) = all_jobs(jobs)
    if how == "left":
        end(jobs, job_id, "left", at=time.time() + 1)
    else:
        end(jobs, job_id, "failed", at=time.time() + 1, error=None)
    assert jobs.find(job_id).state == how
    assert watcher.look() == (0, 0)
    watcher._begun = time.time() + 2
    assert watcher.look() == (1, 0)
    assert generations(jobs) == [1, 2]


def test_recording_that_its_job_has_moved_meanwhile_is_no_new_job(
    bucket: FolderBucket, jobs: Jobs, watcher: Watcher
) -> None:
    lay(bucket, "a.wav")
    watcher.look()
    (job_id,) = all_jobs(jobs)

    class Late(FolderBucket):
        """The job ends between the listing and the question what became of it."""

        def entries(
            self, prefix: str, refused: Refused | None = None
        ) -> Iterator[tuple[Key, Stamp]]:
            yield from list(super().entries(prefix, refused))
            self.move("input/a.wav", "processed/a.wav")
            end(jobs, job_id)

    assert Watcher(Late(bucket.root), jobs, DEFAULTS).look() == (0, 0)
    assert generations(jobs) == [1]


# --- sidecars -----------------------------------------------------------------------------------


def test_options_of_a_recording_change_the_defaults(
    bucket: FolderBucket, jobs: Jobs, watcher: Watcher
) -> None:
    lay(bucket, "a.wav", "b.wav")
    say(bucket, "a.wav", {"language": "de", "formats": ["json", "srt", "srt"], "hotwords": "x"})
    assert watcher.look() == (2, 0)
    job = job_of(jobs, "a.wav")
    assert job.options == {"beam_size": 2, "language": "de", "hotwords": "x"}
    assert job.formats == ("srt", "json")
    assert job.group == GROUP
    assert job.refused is None
    assert job_of(jobs, "b.wav").options == {"beam_size": 2}


def test_nearest_options_win(bucket: FolderBucket, jobs: Jobs, watcher: Watcher) -> None:
    lay(bucket, "top.wav", "a/one.wav", "a/b/two.wav", "a/b/three.wav", "c/four.wav")
    say(bucket, "", {"language": "en", "beam_size": 1, "formats": ["txt"]})
    say(bucket, "a/", {"language": "de", "hotwords": "a"})
    say(bucket, "a/b/", {"language": "fr"})
    say(bucket, "a/b/two.wav", {"language": "it", "model": "base"})
    watcher.look()
    base: dict[str, Any] = {"beam_size": 1, "language": "en"}
    assert job_of(jobs, "top.wav").options == base
    assert job_of(jobs, "c/four.wav").options == base
    assert job_of(jobs, "a/one.wav").options == {**base, "language": "de", "hotwords": "a"}
    assert job_of(jobs, "a/b/three.wav").options == {**base, "language": "fr", "hotwords": "a"}
    two = job_of(jobs, "a/b/two.wav")
    assert (two.options["language"], two.group.model) == ("it", "base")
    assert all(job.formats == ("txt", "json") for job in all_jobs(jobs).values())


def test_another_model_is_another_queue(bucket: FolderBucket, jobs: Jobs, watcher: Watcher) -> None:
    lay(bucket, "a.wav", "b.wav")
    say(bucket, "a.wav", {"model": "large-v3", "device": "cuda"})
    watcher.look()
    queues = {job.key: queue_of(jobs, job_id) for job_id, job in all_jobs(jobs).items()}
    assert Group.of_queue(queues["input/a.wav"]) == (Group("large-v3", "auto", "cuda"), False, "")
    assert Group.of_queue(queues["input/b.wav"]) == (GROUP, False, "")


BAD = {
    "{": "not JSON",
    "": "not JSON",
    "\udcff": "not JSON",
    "[" * 100_000: "not JSON",
    "9" * 10_000: "not JSON",
    "[]": "not a JSON object",
    "null": "not a JSON object",
    '"de"': "not a JSON object",
    '{"langage": "de"}': "unknown option: `langage`",
    '{"language": "klingon"}': "klingon",
    '{"beam_size": "5"}': "`beam_size` is `5`, not a whole number",
    '{"beam_size": 0}': "outside 1 to 32",
    '{"vad_threshold": NaN}': "outside",
    '{"word_timestamps": 1}': "neither true nor false",
    '{"temperatures": [[]]}': "`temperatures`",
    '{"initial_prompt": 5}': "`initial_prompt` is not text",
    '{"model": 5}': "`model` is not text",
    '{"model": null}': "`model` is not text",
    '{"device": []}': "`device` is not text",
    '{"model": "bsae"}': "no such model: `bsae`",
    '{"model": ""}': "no such model: ``",
    '{"device": "gpu"}': "no such device: `gpu`",
    '{"formats": "txt"}': "`formats` is not a list of names",
    '{"formats": [1]}': "`formats` is not a list of names",
    '{"formats": ["docx"]}': "no such output format: `docx`",
    '{"": 1}': "unknown option",
}


def test_options_that_cannot_be_used_go_with_the_job_that_says_why(
    bucket: FolderBucket, jobs: Jobs, watcher: Watcher
) -> None:
    for number, text in enumerate(BAD):
        lay(bucket, f"{number}.wav")
        bucket.write(f"input/{number}.wav{SIDECAR}", text.encode("utf-8", "surrogateescape"))
    lay(bucket, "good.wav")
    assert watcher.look() == (len(BAD) + 1, 0)
    refused = {job.key: job.refused for job in all_jobs(jobs).values()}
    assert refused.pop("input/good.wav") is None
    for number, why in enumerate(BAD.values()):
        record = refused[f"input/{number}.wav"]
        assert record is not None, why
        assert record["code"] == "usage"
        assert record["message"].startswith(f"`input/{number}.wav{SIDECAR}`: ")
        assert why in record["message"]
        assert record["hint"]


def test_bad_options_of_a_folder_concern_all_below_it(
    bucket: FolderBucket, jobs: Jobs, watcher: Watcher
) -> None:
    lay(bucket, "a/b.wav", "a/c/d.wav", "e.wav")
    say(bucket, "a/", "{")
    say(bucket, "a/c/d.wav", {"language": "de"})
    assert watcher.look() == (3, 0)
    refused = {job.key for job in all_jobs(jobs).values() if job.refused}
    assert refused == {"input/a/b.wav", "input/a/c/d.wav"}


def test_corrected_options_are_read_again(
    bucket: FolderBucket, jobs: Jobs, watcher: Watcher
) -> None:
    lay(bucket, "a.wav")
    say(bucket, "", {"language": "de"})
    watcher.look()
    say(bucket, "", {"language": "fr", "hotwords": "x"})
    lay(bucket, "b.wav")
    watcher.look()
    bucket.delete(f"input/{SIDECAR}")
    lay(bucket, "c.wav")
    watcher.look()
    languages = {job.key: job.options.get("language") for job in all_jobs(jobs).values()}
    assert languages == {"input/a.wav": "de", "input/b.wav": "fr", "input/c.wav": None}


def test_options_that_are_a_link_concern_only_their_recording(
    bucket: FolderBucket, jobs: Jobs, watcher: Watcher, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").write_text('{"language": "de"}')
    lay(bucket, "a.wav", "b.wav")
    (bucket.root / f"input/a.wav{SIDECAR}").symlink_to(tmp_path / "elsewhere")
    assert watcher.look() == (2, 0)
    refused = job_of(jobs, "a.wav").refused
    assert refused
    assert "symbolic link" in refused["message"]
    assert job_of(jobs, "b.wav").refused is None
    assert watcher.look() == (0, 0)


def test_options_that_may_not_be_read_concern_only_their_recording(plain_user: Path) -> None:
    bucket = FolderBucket(plain_user)
    lay(bucket, "a.wav", "b.wav")
    say(bucket, "a.wav", {})
    (plain_user / f"input/a.wav{SIDECAR}").chmod(0)
    with opened(f"sqlite:///{plain_user / 'jobs.sqlite'}") as jobs:
        found = Watcher(bucket, jobs, DEFAULTS).collect()
    refused = {job.key: job.refused for _, job in found}
    assert refused["input/b.wav"] is None
    assert "cannot read" in (refused["input/a.wav"] or {})["message"]


def test_options_that_vanish_while_they_are_read_are_none(bucket: FolderBucket, jobs: Jobs) -> None:
    class Vanishing(FolderBucket):
        def read(self, key: Key) -> bytes | None:
            self.delete(key)
            return super().read(key)

    lay(bucket, "a.wav")
    say(bucket, "a.wav", "{")
    assert Watcher(Vanishing(bucket.root), jobs, DEFAULTS).look() == (1, 0)
    assert job_of(jobs, "a.wav").refused is None


def test_options_are_checked_like_those_of_a_command() -> None:
    said = {"language": "German", "temperatures": [0, 0.5], "formats": ["json"]}
    for more in ({}, {"model": "small"}, {"model": "/models/ours"}, {"device": "auto"}):
        document = json.dumps({**said, **more}).encode()
        assert parsed_sidecar(document) == {**said, **more, "formats": ("json",)}
    assert parsed_sidecar(b'{"model": "turbo"}') == {"model": "large-v3-turbo"}
    with pytest.raises(UsageError, match="not a JSON object") as caught:
        parsed_sidecar(b"[]")
    assert "language" in caught.value.do


# --- what is refused ----------------------------------------------------------------------------


def test_links_are_told_and_others_are_done(
    bucket: FolderBucket, jobs: Jobs, watcher: Watcher, tmp_path: Path
) -> None:
    lay(bucket, "a.wav", "z.wav")
    (bucket.root / "input/link.wav").symlink_to(bucket.root / "input/a.wav")
    (bucket.root / "input/folder").symlink_to(tmp_path)
    (bucket.root / "input/.hidden").symlink_to(tmp_path)
    os.mkfifo(bucket.root / "input/pipe")
    assert watcher.look() == (2, 0)
    refused = ["input/folder", "input/link.wav", "input/pipe"]
    assert sorted(watcher.refused) == refused
    assert watcher.look() == (0, 0)
    assert sorted(watcher.refused) == refused
    for name in ("folder", "link.wav", "pipe"):
        (bucket.root / "input" / name).unlink()
    watcher.look()
    assert watcher.refused == {}


def test_folder_that_may_not_be_entered_is_told(plain_user: Path) -> None:
    bucket = FolderBucket(plain_user)
    lay(bucket, "a.wav", "secret/b.wav")
    (plain_user / "input/secret").chmod(0)
    with opened(f"sqlite:///{plain_user / 'jobs.sqlite'}") as jobs:
        watcher = Watcher(bucket, jobs, DEFAULTS)
        assert watcher.look() == (1, 0)
    assert list(watcher.refused) == ["input/secret"]


# --- many ---------------------------------------------------------------------------------------


@contextmanager
def statements(jobs: Jobs) -> Iterator[Counter[str]]:
    """How many of each kind the database is asked."""
    counted: Counter[str] = Counter()

    def count(_c: object, _k: object, statement: str, *_rest: object) -> None:
        counted[statement.split(maxsplit=1)[0]] += 1

    sa.event.listen(jobs.engine, "before_cursor_execute", count)
    try:
        yield counted
    finally:
        sa.event.remove(jobs.engine, "before_cursor_execute", count)


def test_thousands_of_recordings_are_submitted_in_pages(
    bucket: FolderBucket, jobs: Jobs, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    count, pages = 3000, 3000 // PAGE
    (bucket.root / "input").mkdir()
    for number in range(count):
        path = bucket.root / f"input/{number:04d}.wav"
        path.touch()
        age(path)
    submit, sizes = Jobs.submit, []

    def counted(own: Jobs, found: list[tuple[str, Job]]) -> None:
        sizes.append(len(found))
        submit(own, found)

    monkeypatch.setattr(Jobs, "submit", counted)
    assert watcher.look() == (count, 0)
    assert sizes == [PAGE] * pages
    assert jobs.counts() == {GROUP.queue("files"): {"ENQUEUED": count}}
    with statements(jobs) as asked:
        assert watcher.look() == (0, 0)
    assert set(asked) == {"SELECT"}
    assert asked["SELECT"] <= 2 * pages


class Objects(Mortal):
    """A folder that says that it is an object store: its listing is sorted, requests cost."""

    asked: list[Key]

    @property
    def url(self) -> str:
        return "s3://bucket"

    def entries(self, prefix: str, refused: Refused | None = None) -> Iterator[tuple[Key, Stamp]]:
        return iter(sorted(super().entries(prefix, refused)))

    def stamp(self, key: Key) -> Stamp | None:
        self.asked.append(key)
        return super().stamp(key)


def objects(bucket: FolderBucket) -> Objects:
    made = Objects(bucket)
    made.asked = []
    return made


def test_objects_are_complete_at_once(bucket: FolderBucket, jobs: Jobs) -> None:
    bucket.write("input/a.wav", "x")
    assert Watcher(objects(bucket), jobs, DEFAULTS).look() == (1, 0)


def test_options_of_objects_are_found_in_the_listing(
    bucket: FolderBucket, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "PAGE", 7)
    names = [f"{folder}/{number:02d}.wav" for folder in ("a", "a.b", "c") for number in range(10)]
    for number, name in enumerate(names):
        bucket.write(f"input/{name}", "x")
        if number % 3 == 0:
            say(bucket, name, {"hotwords": name})
    say(bucket, "a/", {"language": "de"})
    store = objects(bucket)
    watcher = Watcher(store, jobs, DEFAULTS)
    assert watcher.look() == (len(names), 0)
    for number, name in enumerate(names):
        options = job_of(jobs, name).options
        assert options.get("hotwords") == (name if number % 3 == 0 else None)
        assert options.get("language") == ("de" if name.startswith("a/") else None)
    # Of folders, once a look; of recordings only the last ones of their pages.
    assert len(store.asked) < 15
    store.asked.clear()
    assert watcher.look() == (0, 0)
    assert store.asked == []


# --- defaults -----------------------------------------------------------------------------------


def test_defaults_are_what_a_command_was_told() -> None:
    made = Defaults.of(GROUP, ["json", "txt", "txt"], Options(language="de"), 60.0)
    assert made == Defaults(GROUP, ("txt", "json"), {"language": "de"}, 60.0)
    assert Defaults.of(GROUP, [], Options()).formats == ("json",)
    with pytest.raises(UnknownName, match="docx"):
        Defaults.of(GROUP, ["docx"], Options())


def test_defaults_come_back_from_the_database() -> None:
    made = Defaults.of(GROUP, ["srt"], Options(temperatures=(0.0, 0.5)), 60.0)
    found = Defaults.from_dict(json.loads(json.dumps(made.to_dict())))
    assert replace(found, options={}) == replace(made, options={})
    assert Options.of(**found.options) == Options.of(**made.options)


def test_patience_goes_with_the_jobs(bucket: FolderBucket, jobs: Jobs) -> None:
    lay(bucket, "a.wav")
    Watcher(bucket, jobs, replace(DEFAULTS, patience=5.0)).look()
    assert job_of(jobs, "a.wav").patience == 5.0


def test_job_refused_for_its_sidecar_is_done_when_that_was_corrected(
    bucket: FolderBucket, jobs: Jobs
) -> None:
    key = "input/a.wav"
    bucket.write(keys.failed_key(key), "sound")
    bucket.write(keys.sidecar_key(keys.failed_key(key)), '{"language": "de"}')
    stamp = bucket.stamp(keys.failed_key(key))
    assert stamp is not None
    record = UsageError("not JSON", do="Correct it").record()
    job = Job(bucket.url, key, stamp, Group("base"), ("json",), refused=record)
    jobs.submit([(numbered(job.digest, 1), job)])
    end(jobs, numbered(job.digest, 1), "failed", error=record)
    again = jobs.find(retry(jobs, jobs.find(numbered(job.digest, 1)))).job
    assert again.refused is None
    assert again.options == {"language": "de"}
