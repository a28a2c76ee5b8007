from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stenopool.bucket import Bucket
from stenopool.errors import EngineFailed, NotMedia, StorageFull
from stenopool.pipeline import Summary, run_once
from stenopool.pipeline.keys import work_folder
from stenopool.pipeline.markers import Attempts, Done, read_attempts, read_done, write_attempts
from test_pipeline_once import Fake, Watcher, run, text_of, tree

LETHAL = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from test_pipeline_once import FORMATS, Fake, Watcher
from stenopool.bucket import Bucket
from stenopool.pipeline import run_once

class Lethal(Fake):
    def __call__(self, path, progress):
        if path.stem.startswith("lethal"):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(path, progress)

print(run_once(Bucket.open(sys.argv[1]), Lethal(), FORMATS, Watcher()))
"""


def run_lethal(bucket: Bucket) -> int:
    """The exit status of a run that any recording named `lethal…` kills."""
    command = [sys.executable, "-c", LETHAL, str(bucket.root), str(Path(__file__).parent)]
    return subprocess.run(command, capture_output=True, check=False).returncode


def mark(bucket: Bucket, key: str, count: int) -> None:
    stamp = bucket.stamp(key)
    assert stamp
    write_attempts(bucket, Attempts(key, stamp, count))


def record_of(bucket: Bucket, name: str) -> dict[str, Any]:
    content = bucket.read(f"failed/{name}.error.json")
    assert content is not None
    record = json.loads(content)
    assert isinstance(record, dict)
    return record


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    (tmp_path / "input").mkdir()
    return Bucket.open(str(tmp_path))


def test_recording_that_kills_the_process_blocks_no_other_and_fails_in_the_end(
    bucket: Bucket,
) -> None:
    bucket.write("input/lethal.wav", "x")
    bucket.write("input/z.wav", "z")
    assert run_lethal(bucket) == -signal.SIGKILL
    assert bucket.read("processed/z.wav") is None
    bucket.write("input/later.wav", "later")
    assert run_lethal(bucket) == -signal.SIGKILL
    assert (text_of(bucket, "z.wav"), text_of(bucket, "later.wav")) == ("z", "later")
    assert run_lethal(bucket) == -signal.SIGKILL
    assert run_lethal(bucket) == 0
    assert bucket.read("failed/lethal.wav") == b"x"
    record = record_of(bucket, "lethal.wav")
    assert (record["code"], record["attempts"]) == ("input_crashed", 3)
    assert record["message"] == "transcribing `input/lethal.wav` has ended the process 3 times"
    assert not record["transient"]
    assert list((bucket.root / "work").iterdir()) == []


def test_crashed_recording_that_is_put_back_is_tried_again(bucket: Bucket) -> None:
    bucket.write("input/a", "x")
    mark(bucket, "input/a", 3)
    fake = Fake()
    summary, results = run(bucket, fake)
    assert summary == Summary(failed=1, exit_status=3)
    assert fake.paths == []
    error = results["input/a"].error
    assert error
    assert "steno transcribe" in error.do
    bucket.move("failed/a", "input/a")
    assert run(bucket)[0] == Summary(transcribed=1)


@pytest.mark.parametrize("deaths", [1, 2])
def test_success_after_deaths_leaves_no_mark(bucket: Bucket, deaths: int) -> None:
    bucket.write("input/a", "x")
    mark(bucket, "input/a", deaths)
    assert run(bucket)[0] == Summary(transcribed=1)
    assert list((bucket.root / "work").iterdir()) == []


def test_mark_counts_the_attempt_while_it_lasts(bucket: Bucket) -> None:
    bucket.write("input/a", "x")
    mark(bucket, "input/a", 1)
    counts: list[int] = []

    def transcribe(path: Path, progress: Any) -> Any:
        attempts = read_attempts(bucket, work_folder("input/a"))
        counts.append(attempts.count if attempts else 0)
        return Fake()(path, progress)

    run(bucket, transcribe)
    assert counts == [2]


@pytest.mark.parametrize("deaths", [0, 1, 2])
def test_record_of_an_ordinary_failure_counts_the_deaths_too(bucket: Bucket, deaths: int) -> None:
    bucket.write("input/a", "x")
    if deaths:
        mark(bucket, "input/a", deaths)
    run(bucket, Fake(a=NotMedia("bad", do="x")))
    assert record_of(bucket, "a")["attempts"] == deaths + 1


@pytest.mark.parametrize("error", [EngineFailed("x", do="x"), StorageFull("x", do="x")])
def test_recording_that_is_left_has_no_mark(bucket: Bucket, error: Exception) -> None:
    bucket.write("input/a", "x")
    assert run(bucket, Fake(a=error))[0].left == 1
    assert list((bucket.root / "work").iterdir()) == []


def test_interrupt_takes_only_the_mark_of_the_recording_it_met(bucket: Bucket) -> None:
    for name in ("a", "b"):
        bucket.write(f"input/{name}", "x")
    mark(bucket, "input/b", 2)
    with pytest.raises(KeyboardInterrupt):
        run_once(bucket, Fake(a=KeyboardInterrupt()), ["json"], Watcher())
    assert tree(bucket) == ["input/a", "input/b", f"{work_folder('input/b')}/attempts.json"]


def test_recordings_with_fewer_deaths_come_first(bucket: Bucket) -> None:
    for name in "abc":
        bucket.write(f"input/{name}", "x")
    mark(bucket, "input/a", 2)
    mark(bucket, "input/b", 1)
    fake = Fake()
    run(bucket, fake)
    assert [path.name for path in fake.paths] == ["c", "b", "a"]


def test_deaths_do_not_count_for_a_new_recording_of_the_name(bucket: Bucket) -> None:
    bucket.write("input/a", "old")
    mark(bucket, "input/a", 3)
    bucket.write("input/a", "other")
    assert run(bucket)[0] == Summary(transcribed=1)


def test_mark_of_a_recording_that_was_taken_away_goes(bucket: Bucket) -> None:
    bucket.write("input/a", "x")
    mark(bucket, "input/a", 1)
    bucket.delete("input/a")
    assert run(bucket) == (Summary(), {})
    assert list((bucket.root / "work").iterdir()) == []


def test_crashed_recording_that_cannot_be_moved_is_not_transcribed_again(bucket: Bucket) -> None:
    bucket.write("input/d/a", "x")
    bucket.write("failed/d", "a file where a folder must be")
    mark(bucket, "input/d/a", 3)
    fake = Fake()
    for _ in range(2):
        assert run_once(bucket, fake, ["json"], Watcher()) == Summary(left=1, exit_status=6)
    assert fake.paths == []
    bucket.delete("failed/d")
    assert run(bucket, fake)[0].failed == 1
    assert record_of(bucket, "d/a")["attempts"] == 3


STAMP = [1, 2, 3]
DAMAGED = [
    '{"key":5,"stamp":[1,2,3],"formats":[]}',
    json.dumps({"key": "input/a", "stamp": STAMP, "formats": "json"}),
    json.dumps({"key": "input/a", "stamp": STAMP, "formats": [["json"], "json"]}),
    json.dumps({"key": "input/a", "stamp": STAMP, "formats": ["../../x", "json"]}),
    json.dumps({"key": "input/a", "stamp": STAMP, "formats": ["txt"]}),
    json.dumps({"key": "input/a", "stamp": [1, 2], "formats": ["json"]}),
    json.dumps({"key": "input/a", "stamp": [1, 2, "3"], "formats": ["json"]}),
    json.dumps({"key": "input/a", "stamp": 5, "formats": ["json"]}),
    json.dumps({"key": "input/\ud800", "stamp": STAMP, "formats": ["json"]}),
    "null",
    "[" * 200_000,
    '{"key":' * 200_000,
    "9" * 10_000,
    "\0",
]


@pytest.mark.parametrize("marker", DAMAGED, ids=range(len(DAMAGED)))
@pytest.mark.parametrize("name", ["done.json", "attempts.json"])
def test_damaged_marker_counts_as_none(bucket: Bucket, name: str, marker: str) -> None:
    bucket.write("input/a", "x")
    for folder in (work_folder("input/a"), f"work/{'0' * 64}"):
        bucket.write(f"{folder}/{name}", marker)
        bucket.write(f"{folder}/json", "{}")
    fake = Fake()
    assert run(bucket, fake)[0] == Summary(transcribed=1)
    assert len(fake.paths) == 1
    assert list((bucket.root / "work").iterdir()) == []


@pytest.mark.parametrize("name", ["done.json", "attempts.json"])
def test_folder_in_the_place_of_a_marker_is_discarded(bucket: Bucket, name: str) -> None:
    bucket.write("input/a", "x")
    bucket.make_folder(f"{work_folder('input/a')}/{name}/empty")
    bucket.write(f"work/{'0' * 64}/{name}/file", "x")
    assert run(bucket)[0] == Summary(transcribed=1)
    assert list((bucket.root / "work").iterdir()) == []


def test_marker_that_names_a_place_outside_the_bucket_is_none(bucket: Bucket) -> None:
    for key in ("input/../../x", "/etc/passwd", "input/.hidden", "input/a\0", "processed/a"):
        marker = {"key": key, "stamp": STAMP, "formats": ["json"], "count": 1}
        for name in ("done", "attempts"):
            bucket.write(f"{work_folder(key)}/{name}.json", json.dumps(marker))
        assert read_done(bucket, work_folder(key)) is None
        assert read_attempts(bucket, work_folder(key)) is None
    assert run(bucket) == (Summary(), {})


def test_link_in_one_work_folder_leaves_only_that_recording(bucket: Bucket) -> None:
    for name in ("a", "b"):
        bucket.write(f"input/{name}", name)
    bucket.make_folder(work_folder("input/a"))
    bucket.path(f"{work_folder('input/a')}/done.json").symlink_to("/etc/passwd")
    watcher = Watcher()
    assert run_once(bucket, Fake(), ["json"], watcher) == Summary(1, 0, 1, 6)
    error = watcher.results["input/a"].error
    assert error
    assert "done.json` is a symbolic link" in error.what
    bucket.root.joinpath(work_folder("input/a"), "done.json").unlink()
    assert run(bucket)[0] == Summary(transcribed=1)


def test_work_folder_that_may_not_be_touched_stops_no_other(plain_user: Path) -> None:
    bucket = Bucket(plain_user)
    for name in ("a", "b"):
        bucket.write(f"input/{name}", name)
    folder = bucket.make_folder(work_folder("input/a"))
    folder.chmod(0)
    try:
        assert run_once(bucket, Fake(), ["json"], Watcher()) == Summary(1, 0, 1, 6)
    finally:
        folder.chmod(0o700)
    assert run(bucket)[0] == Summary(transcribed=1)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
NEAR = st.fixed_dictionaries(
    {},
    optional={
        "key": st.just("input/a") | JSON,
        "stamp": st.just(STAMP) | st.lists(st.integers(), max_size=4) | JSON,
        "formats": st.lists(st.sampled_from(["txt", "json", "x"]), max_size=3) | JSON,
        "count": st.integers() | JSON,
    },
)


@settings(max_examples=150)
@given(content=st.binary(max_size=40) | (JSON | NEAR).map(lambda data: json.dumps(data).encode()))
def test_any_content_of_a_marker_is_taken_or_passed_over(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    bucket = Bucket.open(str(tmp_path_factory.getbasetemp()))
    folder = work_folder("input/a")
    (bucket.root / folder).mkdir(parents=True, exist_ok=True)
    for name in ("done.json", "attempts.json"):
        (bucket.root / folder / name).write_bytes(content)
    done, attempts = read_done(bucket, folder), read_attempts(bucket, folder)
    for marker in (done, attempts):
        assert marker is None or (marker.key == "input/a" and len(marker.stamp) == 3)
    assert not isinstance(done, Done) or done.formats[-1] == "json"
    assert attempts is None or attempts.count >= 0
