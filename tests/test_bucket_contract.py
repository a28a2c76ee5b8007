"""What holds for every bucket, whatever it is in."""

from __future__ import annotations

import os
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from buckets import S3Server, s3_server
from stenopool.bucket import Bucket, FolderBucket, Key, open_bucket
from stenopool.bucket.objects import PIECE
from stenopool.errors import InputChanged, InputNotFound, UsageError


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


@pytest.fixture(params=["folder", "bucket", "bucket below a prefix"])
def bucket(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> Bucket:
    if request.param == "folder":
        return open_bucket(str(tmp_path))
    server.use(monkeypatch)
    url = server.with_bucket().url
    return open_bucket(url if request.param == "bucket" else f"{url}/some/pre fix%20")


def fill(bucket: Bucket, *keys: Key) -> None:
    for key in keys:
        bucket.write(key, key)


def test_written_file_is_read_back(bucket: Bucket) -> None:
    bucket.write("a/b.txt", "Grüße")
    assert bucket.read("a/b.txt") == "Grüße".encode()
    bucket.write("a/b.txt", b"\x00\xff")
    assert bucket.read("a/b.txt") == b"\x00\xff"
    assert bucket.read("a/missing") is None


def test_empty_file_is_a_file(bucket: Bucket) -> None:
    bucket.write("input/a", b"")
    assert bucket.read("input/a") == b""
    assert list(bucket.keys("input")) == ["input/a"]
    with bucket.local("input/a") as path:
        assert path.read_bytes() == b""


def test_entries_have_the_stamps_that_files_have(bucket: Bucket) -> None:
    fill(bucket, "input/a", "input/b/c", "other/d", "inputs/e")
    entries = dict(bucket.entries("input/"))
    assert sorted(entries) == ["input/a", "input/b/c"]
    assert entries == {key: bucket.stamp(key) for key in entries}
    assert entries["input/b/c"].size == 9
    assert list(bucket.keys("missing")) == []


def test_stamp_changes_with_the_content(bucket: Bucket) -> None:
    bucket.write("a", "one")
    first = bucket.stamp("a")
    assert first is not None
    assert bucket.stamp("a") == first
    bucket.write("a", "two")
    assert bucket.stamp("a") not in {first, None}
    assert bucket.stamp("missing") is None


@pytest.mark.parametrize(
    "name",
    [
        "a b.wav",
        "é.wav",
        "e\u0301.wav",
        "🎙",
        "100% + 50%2F.wav",
        "%41",
        "q?x=1#y&z",
        "back\\slash",
        "*[a-z]{1,2}~|^<>`'\"",
        ".hidden",
        "..b",
        "trailing.",
        " spaces ",
        "-rf",
        "\u2028\u200b\x85",
        "&amp;",
    ],
)
def test_odd_names_make_every_round_trip(bucket: Bucket, name: str) -> None:
    key = f"input/{name}/{name}"
    bucket.write(key, "x")
    assert list(bucket.keys("input/")) == [key]
    assert bucket.move(key, f"processed/{name}", bucket.stamp(key))
    assert list(bucket.keys("processed")) == [f"processed/{name}"]
    assert bucket.read(f"processed/{name}") == b"x"
    with bucket.local(f"processed/{name}") as path:
        assert path.read_bytes() == b"x"
    bucket.delete(f"processed/{name}")
    assert bucket.stamp(f"processed/{name}") is None


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "..", "a/../../b", "a/./b", "a//b", "a/", "a\0b"]
)
def test_keys_that_could_leave_the_bucket_are_refused(bucket: Bucket, key: Key) -> None:
    acts: list[Callable[[], object]] = [
        lambda: bucket.stamp(key),
        lambda: bucket.read(key),
        lambda: bucket.create(key, "x"),
        lambda: bucket.write(key, "x"),
        lambda: bucket.put_file(key, Path(__file__)),
        lambda: bucket.move(key, "b"),
        lambda: bucket.move("b", key),
        lambda: bucket.delete(key),
        lambda: bucket.local(key).__enter__(),
    ]
    bucket.write("b", "x")
    for act in acts:
        with pytest.raises(UsageError, match="not a key"):
            act()
    if not key.endswith("/"):
        for below in (bucket.keys, bucket.entries, bucket.delete_below):
            with pytest.raises(UsageError, match="not a key"):
                list(below(key) or ())


def test_created_file_is_not_created_again(bucket: Bucket) -> None:
    assert bucket.create("work/a/b", "first")
    assert not bucket.create("work/a/b", "second")
    assert bucket.read("work/a/b") == b"first"
    bucket.delete("work/a/b")
    assert bucket.create("work/a/b", b"third")
    assert list(bucket.keys("work")) == ["work/a/b"]


def test_one_of_those_who_create_at_once_is_told_so(bucket: Bucket) -> None:
    for turn in range(20):
        told = at_once(partial(bucket.create, f"work/{turn}"), "abc")
        (winner,) = [name for name, won in told.items() if won]
        assert len(told) == 3
        assert bucket.read(f"work/{turn}") == winner.encode()


def at_once(act: Callable[[str], bool], names: str) -> dict[str, bool]:
    """What each of several threads is told."""
    together = threading.Barrier(len(names))

    def run(name: str) -> bool:
        together.wait()
        return act(name)

    with ThreadPoolExecutor(len(names)) as pool:
        return dict(zip(names, pool.map(run, names), strict=True))


@pytest.mark.parametrize("size", [0, 3, 2 * PIECE + 1])
def test_put_file_is_read_back_and_stays_where_it_was(
    bucket: Bucket, tmp_path_factory: pytest.TempPathFactory, size: int
) -> None:
    path = tmp_path_factory.mktemp("elsewhere") / "file"
    content = os.urandom(size)
    path.write_bytes(content)
    bucket.write("input/a/b", "older")
    bucket.put_file("input/a/b", path)
    assert bucket.read("input/a/b") == path.read_bytes() == content
    assert list(bucket.keys("input")) == ["input/a/b"]


def test_put_file_takes_little_memory(
    bucket: Bucket, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("elsewhere") / "file"
    with path.open("wb") as file:
        file.truncate(16 * PIECE)
    tracemalloc.start()
    try:
        bucket.put_file("a", path)
        if isinstance(bucket, FolderBucket):  # the store of the tests is in this process too
            # Other threads of this process, such as that store, take some memory as well.
            assert tracemalloc.get_traced_memory()[1] < 4 * PIECE
    finally:
        tracemalloc.stop()
    stamp = bucket.stamp("a")
    assert stamp is not None
    assert stamp.size == 16 * PIECE


def test_file_that_is_missing_is_not_put(bucket: Bucket, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        bucket.put_file("a/b", tmp_path / "missing")
    assert bucket.stamp("a/b") is None


def test_move_replaces(bucket: Bucket) -> None:
    fill(bucket, "input/a", "processed/a")
    assert bucket.move("input/a", "processed/a")
    assert bucket.read("processed/a") == b"input/a"
    assert bucket.stamp("input/a") is None


def test_what_is_not_there_is_not_moved(bucket: Bucket) -> None:
    fill(bucket, "processed/a")
    assert not bucket.move("input/a", "processed/a")
    assert bucket.read("processed/a") == b"processed/a"
    assert not bucket.move("input/a/b", "new/b")


def test_file_in_another_state_is_not_moved(bucket: Bucket) -> None:
    fill(bucket, "input/a")
    stamp = bucket.stamp("input/a")
    bucket.write("input/a", "new")
    assert not bucket.move("input/a", "processed/a", stamp)
    assert bucket.stamp("processed/a") is None
    assert bucket.read("input/a") == b"new"
    assert bucket.move("input/a", "processed/a", bucket.stamp("input/a"))


def test_move_onto_itself_keeps_the_file(bucket: Bucket) -> None:
    fill(bucket, "a")
    assert bucket.move("a", "a", bucket.stamp("a"))
    assert bucket.read("a") == b"a"


def test_files_may_be_moved_away_while_keys_are_walked(bucket: Bucket) -> None:
    fill(bucket, *(f"input/{folder}/{name}" for folder in "ab" for name in "xyz"))
    for key, stamp in bucket.entries("input/"):
        assert bucket.move(key, f"processed/{key}", stamp)
    assert list(bucket.keys("input/")) == []
    assert len(list(bucket.keys("processed/"))) == 6


def test_delete_accepts_what_is_not_there(bucket: Bucket) -> None:
    fill(bucket, "a/b")
    bucket.delete("a/b")
    bucket.delete("a/b")
    bucket.delete("c/d")
    assert list(bucket.keys("a")) == []


def test_everything_below_a_prefix_is_deleted_and_nothing_beside_it(bucket: Bucket) -> None:
    fill(bucket, "work/1/a", "work/1/b/c", "work/10", "work/1.json")
    bucket.delete_below("work/1")
    assert sorted(bucket.keys("work")) == ["work/1.json", "work/10"]
    bucket.delete_below("work/1/")
    bucket.delete_below("missing")
    bucket.delete_below("work/10")
    assert sorted(bucket.keys("work")) == ["work/1.json", "work/10"]


def test_local_file_has_the_content_and_the_suffix(bucket: Bucket) -> None:
    bucket.write("input/a b/talk.tar.MP3", b"data")
    with bucket.local("input/a b/talk.tar.MP3", bucket.stamp("input/a b/talk.tar.MP3")) as path:
        assert path.read_bytes() == b"data"
        assert path.suffix == ".MP3"
    assert bucket.read("input/a b/talk.tar.MP3") == b"data"


def test_local_file_of_a_missing_or_changed_one_is_refused(bucket: Bucket) -> None:
    with pytest.raises(InputNotFound, match="`input/a`"), bucket.local("input/a"):
        pytest.fail("there is none")
    fill(bucket, "input/a")
    stamp = bucket.stamp("input/a")
    bucket.write("input/a", "other")
    with pytest.raises(InputChanged, match="`input/a`"), bucket.local("input/a", stamp):
        pytest.fail("it is another one")


def test_errors_of_who_uses_a_local_file_pass(bucket: Bucket) -> None:
    fill(bucket, "input/a")
    with pytest.raises(ValueError, match="mine"), bucket.local("input/a"):
        raise ValueError("mine")
    with pytest.raises(FileNotFoundError, match="mine"), bucket.local("input/a"):
        raise FileNotFoundError("mine")


def test_url_opens_the_same_bucket(bucket: Bucket) -> None:
    fill(bucket, "a")
    again = open_bucket(bucket.url)
    assert again.read("a") == b"a"
    assert again.url == bucket.url
    assert open_bucket(f"{bucket.url}/").url == bucket.url
    assert not bucket.url.endswith("/")


def test_bucket_that_is_there_is_ready(bucket: Bucket) -> None:
    bucket.prepare()
    bucket.prepare()
    assert list(bucket.keys("work")) == []
