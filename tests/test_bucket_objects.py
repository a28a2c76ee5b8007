from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.message import Message
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError

import obstore
import pytest

from buckets import S3Server, opened, s3_server
from stenopool.bucket import Key, listing, objects
from stenopool.bucket.objects import ObjectBucket
from stenopool.errors import (
    InputChanged,
    InputNotFound,
    InputUnreadable,
    OutputUnwritable,
    StenoError,
    StorageError,
    StorageFull,
    StorageRefused,
    StorageUnavailable,
    UsageError,
)
from stenopool.files import TEMPORARY_PREFIX

HOSTILE = [
    "input/../x",
    "input/..",
    "input/./x",
    "input//x",
    "input/a//b",
    "input/a//",
    "input/z/../../y",
    "input/new\nline",
    "input/return\rx",
    "input/tab\tx",
    "input/\x01",
    "input/\x7f",
    "input/50% +\n",
]
TWO_PIECES = objects.PIECE + 1000  # bytes


@pytest.fixture(scope="module")
def running() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def server(running: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """With an empty bucket, and found by clients of this process."""
    running.use(monkeypatch)
    return running.with_bucket()


@pytest.fixture
def bucket(server: S3Server) -> ObjectBucket:
    return opened(server.url)


def listed(bucket: ObjectBucket, prefix: str = "input/") -> tuple[list[Key], list[Key]]:
    """The keys that a listing gives, and those that it refuses."""
    refused: list[Key] = []

    def refuse(key: Key, error: StenoError) -> None:
        assert isinstance(error, InputUnreadable)
        refused.append(key)

    return list(bucket.keys(prefix, refuse)), refused


# --- listing -----------------------------------------------------------------------------------


def test_listing_goes_on_after_a_thousand_keys(server: S3Server, bucket: ObjectBucket) -> None:
    names = [f"input/{number:04}" for number in range(2345)]
    for name in names:
        server.put(name)
    entries = list(bucket.entries("input"))
    assert [key for key, _ in entries] == names
    assert entries[-1][1] == bucket.stamp(names[-1])
    bucket.delete_below("input")
    assert server.keys() == []


def test_listing_asks_nothing_about_each_key(
    server: S3Server, bucket: ObjectBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(50):
        server.put(f"input/{number}")
    monkeypatch.delattr(obstore, "head")
    assert len(list(bucket.entries("input"))) == 50


@pytest.mark.parametrize("key", HOSTILE, ids=ascii)
def test_name_that_cannot_be_addressed_hides_no_other(
    server: S3Server, bucket: ObjectBucket, key: Key
) -> None:
    others = ["input/!", "input/..b/c", "input/a/b", "input/b", "input/~", "input/é +%2F"]
    for one in (key, *others):
        server.put(one)
    assert listed(bucket) == (others, [key])
    assert list(bucket.keys("input/")) == others
    for act in (bucket.stamp, bucket.read, bucket.delete):
        with pytest.raises(UsageError, match="not a key"):
            act(key)
    bucket.delete_below("input")
    assert server.keys() == [key]


@pytest.mark.parametrize("prefix", ["", "/some/pre fix+%20é"])
def test_hostile_names_among_thousands_hide_none(
    server: S3Server, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.endpoint)
    bucket = opened(server.url + prefix)
    good = [f"input/{number:04}" for number in range(2100)]
    bad = [f"input/{number:04}//x" for number in range(0, 2100, 150)]
    for key in (*good, *bad, "input/0000/", "input/1999/", "input/full/"):
        server.put(f"{prefix}/{key}".lstrip("/"), b"" if key.endswith("9/") else b"x")
    keys, refused = listed(bucket)
    assert sorted(keys) == good
    assert sorted(refused) == sorted([*bad, "input/0000/", "input/full/"])
    assert dict(bucket.entries("input"))["input/2099"] == bucket.stamp("input/2099")


def test_signs_that_tools_make_for_folders_are_no_files(
    server: S3Server, bucket: ObjectBucket
) -> None:
    for key in ("input/", "input/a/", "input/b/"):
        server.put(key, b"")
    server.put("input/a/x", b"")
    assert listed(bucket) == (["input/a/x"], [])
    server.put("input//")
    assert listed(bucket) == (["input/a/x"], ["input//"])


def test_listing_of_hostile_names_that_fails_says_so(
    server: S3Server, bucket: ObjectBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put("input//")
    failures: list[tuple[Exception, type[StorageError]]] = [
        (HTTPError("https://secret", 503, "", Message(), None), StorageUnavailable),
        (HTTPError("https://secret", 403, "", Message(), None), StorageRefused),
        (URLError("no route"), StorageUnavailable),
        (TimeoutError(), StorageUnavailable),
    ]
    for failure, expected in failures:

        def fail(url: str, timeout: float, failure: Exception = failure) -> None:
            raise failure

        monkeypatch.setattr(listing, "urlopen", fail)
        with pytest.raises(expected, match=f"`{server.url}`") as caught:
            list(bucket.keys("input"))
        assert type(caught.value) is expected
        assert "secret" not in str(caught.value)


def test_longest_name_can_be_used_and_a_longer_one_is_refused(bucket: ObjectBucket) -> None:
    key = "input/" + "é" * 509
    bucket.write(key, "x")
    assert list(bucket.keys("input")) == [key]
    with pytest.raises(OutputUnwritable, match="1024 bytes"):
        bucket.write(key + "e", "x")
    with pytest.raises(OutputUnwritable, match="1024 bytes"):
        bucket.move(key, f"processed/{key}")
    assert bucket.read(key) == b"x"


def test_name_that_is_not_utf8_is_refused(bucket: ObjectBucket) -> None:
    with pytest.raises(UsageError, match="not a key"):
        bucket.write("input/" + os.fsdecode(b"caf\xe9.wav"), "x")


def test_buckets_below_prefixes_see_nothing_of_each_other(server: S3Server) -> None:
    one, other = opened(f"{server.url}/one"), opened(f"{server.url}/one-more")
    one.write("input/a", "x")
    other.write("input/b", "x")
    assert list(one.keys("input")) == ["input/a"]
    assert list(other.keys("input")) == ["input/b"]
    one.delete_below("input")
    assert server.keys() == ["one-more/input/b"]


# --- moving ------------------------------------------------------------------------------------


def test_interrupted_move_is_done_again(server: S3Server, bucket: ObjectBucket) -> None:
    bucket.write("input/a", "data")
    stamp = bucket.stamp("input/a")
    obstore.copy(bucket.store, "input/a", "processed/a")  # and here the process dies
    assert bucket.move("input/a", "processed/a", stamp)
    assert server.keys() == ["processed/a"]
    assert not bucket.move("input/a", "processed/a", stamp)
    assert bucket.read("processed/a") == b"data"


@pytest.fixture(params=["in the store", "in parts"])
def mover(request: pytest.FixtureRequest, bucket: ObjectBucket) -> ObjectBucket:
    """A bucket that moves by a copy of the store, and one for which all objects are too large."""
    return bucket if request.param == "in the store" else replace(bucket, largest_copy=0)


def after(
    name: str, act: Callable[[], object], monkeypatch: pytest.MonkeyPatch, *, when: int = 0
) -> None:
    """Let something happen right after a call of obstore, counted from 0."""
    original = getattr(obstore, name)
    calls: list[int] = []

    def call(*arguments: object, **named: object) -> object:
        result = original(*arguments, **named)
        calls.append(1)
        if len(calls) == when + 1:
            act()
        return result

    monkeypatch.setattr(obstore, name, call)


def copying(bucket: ObjectBucket) -> str:
    return "copy" if bucket.largest_copy else "put"


def test_object_put_in_place_of_a_moving_one_stays(
    mover: ObjectBucket, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    mover.write("input/a", "old")
    stamp = mover.stamp("input/a")
    after(copying(mover), lambda: server.put("input/a", b"new"), monkeypatch)
    assert not mover.move("input/a", "processed/a", stamp)
    assert mover.read("input/a") == b"new"


def test_move_of_whatever_is_there_tells_of_a_change(
    mover: ObjectBucket, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    mover.write("input/a", "old")
    after(copying(mover), lambda: server.put("input/a", b"new"), monkeypatch)
    with pytest.raises(InputChanged, match="`input/a`"):
        mover.move("input/a", "processed/a")
    assert mover.read("input/a") == b"new"


def test_object_taken_away_by_another_mover_counts_as_moved(
    mover: ObjectBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    mover.write("input/a", "data")
    stamp = mover.stamp("input/a")
    after(copying(mover), lambda: mover.delete("input/a"), monkeypatch)
    assert mover.move("input/a", "processed/a", stamp)
    assert mover.read("processed/a") == b"data"


def test_object_taken_away_before_it_is_copied_is_not_moved(
    mover: ObjectBucket, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    mover.write("input/a", "data")
    after("head", lambda: mover.delete("input/a"), monkeypatch)
    assert not mover.move("input/a", "processed/a")
    assert server.keys() == []


@pytest.mark.parametrize("older", [None, b"old!", b"older"])
def test_copy_that_was_not_made_costs_no_object(
    bucket: ObjectBucket, older: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.write("input/a", "data")
    if older:
        bucket.write("processed/a", older)
    monkeypatch.setattr(obstore, "copy", lambda *_: None)
    with pytest.raises(StorageUnavailable, match="processed/a"):
        bucket.move("input/a", "processed/a", bucket.stamp("input/a"))
    assert bucket.read("input/a") == b"data"


def test_object_too_large_for_a_copy_goes_in_parts(server: S3Server, bucket: ObjectBucket) -> None:
    data = os.urandom(TWO_PIECES)
    server.put("input/a", data)
    assert replace(bucket, largest_copy=1000).move("input/a", "processed/a")
    assert bucket.read("processed/a") == data
    assert server.keys() == ["processed/a"]


def test_large_object_that_changes_on_the_way_leaves_no_copy(
    server: S3Server, bucket: ObjectBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put("input/a", os.urandom(TWO_PIECES))
    stamp = bucket.stamp("input/a")
    after("get", lambda: server.put("input/a", b"new"), monkeypatch)
    assert not replace(bucket, largest_copy=1000).move("input/a", "processed/a", stamp)
    assert server.keys() == ["input/a"]


# --- local files -------------------------------------------------------------------------------


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_local_copy_is_hidden_and_removed_in_the_end(
    bucket: ObjectBucket, server: S3Server, temporary: Path
) -> None:
    data = os.urandom(TWO_PIECES)
    server.put("input/talk.wav", data)
    with bucket.local("input/talk.wav") as path:
        assert path.read_bytes() == data
        assert path.parent == temporary
        assert path.name.startswith(TEMPORARY_PREFIX)
        assert path.name.endswith(".wav")
    assert list(temporary.iterdir()) == []
    with pytest.raises(KeyboardInterrupt), bucket.local("input/talk.wav"):
        raise KeyboardInterrupt
    assert list(temporary.iterdir()) == []


def test_name_with_a_very_long_suffix_has_a_local_copy(
    bucket: ObjectBucket, server: S3Server
) -> None:
    server.put("input/a." + "🎙" * 250)
    with bucket.local("input/a." + "🎙" * 250) as path:
        assert path.read_bytes() == b"x"


def test_object_that_changes_while_it_is_fetched_is_refused(
    bucket: ObjectBucket, server: S3Server, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put("input/a", bytes(TWO_PIECES))
    after("get", lambda: server.put("input/a", b"new"), monkeypatch)
    with pytest.raises(InputChanged, match="`input/a`"), bucket.local("input/a"):
        pytest.fail("half of it is of another")
    assert list(temporary.iterdir()) == []


def test_object_that_goes_while_it_is_fetched_is_missed(
    bucket: ObjectBucket, server: S3Server, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put("input/a", bytes(TWO_PIECES))
    after("get", lambda: bucket.delete("input/a"), monkeypatch)
    with pytest.raises(InputNotFound, match="`input/a`"), bucket.local("input/a"):
        pytest.fail("half of it is missing")
    assert list(temporary.iterdir()) == []


def test_folder_for_copies_that_cannot_be_used_is_named(
    bucket: ObjectBucket, server: S3Server, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put("input/a")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "missing"))
    with pytest.raises(OutputUnwritable, match="missing"), bucket.local("input/a"):
        pytest.fail("there is no such folder")


def test_full_disk_is_named(
    bucket: ObjectBucket, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put("input/a")
    if not Path("/dev/full").exists():
        pytest.skip("no device that is always full")

    def full(*, buffering: int, **_: object) -> IO[bytes]:
        return Path("/dev/full").open("wb", buffering=buffering)

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", full)
    with pytest.raises(StorageFull), bucket.local("input/a"):
        pytest.fail("nothing can be written")
