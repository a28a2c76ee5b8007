from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stenopool.bucket import LOCK_NAME, Bucket, Key
from stenopool.errors import (
    InputNotAFile,
    InputUnreadable,
    OutputUnwritable,
    StenoError,
    UsageError,
)

linux_names = pytest.mark.skipif(sys.platform == "darwin", reason="names must be UTF-8 there")


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    return Bucket.open(str(tmp_path))


def fill(bucket: Bucket, *keys: Key) -> None:
    for key in keys:
        path = bucket.root / key
        bucket.make_folder(key.rpartition("/")[0])
        path.write_text(key.encode(errors="replace").decode())


def test_folder_opens_by_path_and_by_url(tmp_path: Path) -> None:
    folder = tmp_path / "my bucket #1"
    folder.mkdir()
    assert Bucket.open(str(folder)).root == folder
    assert Bucket.open(folder.as_uri()).root == folder
    assert Bucket.open(f"FILE://localhost{folder}/").root == folder


@linux_names
def test_url_can_name_a_folder_that_is_not_utf8(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    assert Bucket.open(f"file://{tmp_path}/%FF").root == folder


@pytest.mark.parametrize(
    "url", ["s3://recordings/a", "gs://x", "az://x", "file://host/a", "file://"]
)
def test_anything_but_a_folder_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match=f"`{url}`") as caught:
        Bucket.open(url)
    assert "only folders" in caught.value.do


def test_missing_folder_and_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("file", "missing"):
        with pytest.raises(UsageError, match="no such folder"):
            Bucket.open(str(tmp_path / name))
    assert not (tmp_path / "missing").exists()


def test_opening_changes_nothing(tmp_path: Path) -> None:
    Bucket.open(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_keys_are_sorted_in_each_folder_and_keep_odd_names(bucket: Bucket) -> None:
    names = ["input/-rf", "input/a b/c.d.wav", "input/a b/🎙.wav", "input/line\nbreak", "input/q\"'"]
    fill(bucket, *reversed(names), "other/x")
    assert list(bucket.keys("input/")) == names
    assert list(bucket.keys("input")) == names


@linux_names
def test_names_that_are_not_utf8_make_the_round_trip(bucket: Bucket) -> None:
    key = "input/" + os.fsdecode(b"caf\xe9.wav")
    fill(bucket, key)
    assert list(bucket.keys("input/")) == [key]
    bucket.move(key, "processed/" + key)
    moved = (bucket.root / "processed/input").iterdir()
    assert [os.fsencode(path.name) for path in moved] == [b"caf\xe9.wav"]


def test_keys_of_a_missing_folder_are_none(bucket: Bucket) -> None:
    assert list(bucket.keys("input/")) == []


def test_files_may_be_moved_away_while_keys_are_walked(bucket: Bucket) -> None:
    fill(bucket, *(f"input/{folder}/{name}" for folder in "ab" for name in "xyz"))
    moved = []
    for key in bucket.keys("input/"):
        bucket.move(key, "processed/" + key)
        moved.append(key)
    assert len(moved) == 6
    assert list(bucket.keys("input/")) == []


def test_deep_folders_are_walked_and_made(bucket: Bucket) -> None:
    below = "d/" * 300 + "x"
    fill(bucket, f"input/{below}")
    assert list(bucket.keys("input/")) == [f"input/{below}"]
    bucket.move(f"input/{below}", f"processed/{below}")
    assert list(bucket.keys("processed/")) == [f"processed/{below}"]


def test_links_and_pipes_are_passed_over_by_name(bucket: Bucket, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("s")
    fill(bucket, "input/a")
    (tmp_path / "input/file-link").symlink_to(outside / "secret")
    (tmp_path / "input/folder-link").symlink_to(outside)
    os.mkfifo(tmp_path / "input/pipe")
    refused: list[tuple[Key, type[StenoError]]] = []
    keys = list(bucket.keys("input/", lambda key, error: refused.append((key, type(error)))))
    assert keys == ["input/a"]
    assert sorted(refused) == [
        ("input/file-link", InputNotAFile),
        ("input/folder-link", InputNotAFile),
        ("input/pipe", InputNotAFile),
    ]


def test_unreadable_folder_is_told_and_the_rest_is_found(plain_user: Path) -> None:
    bucket = Bucket(plain_user)
    fill(bucket, "input/a/x", "input/b/x")
    (bucket.root / "input/a").chmod(0)
    refused: list[tuple[Key, type[StenoError]]] = []
    keys = list(bucket.keys("input/", lambda key, error: refused.append((key, type(error)))))
    assert (keys, refused) == (["input/b/x"], [("input/a", InputUnreadable)])


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "..", "a/../../b", "a/./b", "a//b", "a/", "a\0b"]
)
def test_keys_that_could_leave_the_bucket_are_refused(bucket: Bucket, key: Key) -> None:
    with pytest.raises(UsageError, match="not a key"):
        bucket.path(key)


def test_no_operation_goes_through_a_link(bucket: Bucket, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_text("theirs")
    fill(bucket, "input/a")
    (tmp_path / "output").symlink_to(outside)
    acts: list[Callable[[], object]] = [
        lambda: bucket.write("output/x", "mine"),
        lambda: bucket.move("input/a", "output/x"),
        lambda: bucket.move("output/x", "input/b"),
        lambda: bucket.read("output/x"),
        lambda: bucket.delete("output/x"),
        lambda: bucket.prune("output/"),
    ]
    for act in acts:
        with pytest.raises(OutputUnwritable, match="symbolic link"):
            act()
    assert (outside / "x").read_text() == "theirs"
    assert (bucket.root / "input/a").exists()


def test_written_file_is_read_back_with_its_folders(bucket: Bucket) -> None:
    bucket.write("a/b/c", b"data")
    assert bucket.read("a/b/c") == b"data"
    assert bucket.read("a/b/d") is None
    assert bucket.read("a/b/c/d") is None


def test_folder_is_not_read_as_a_file(bucket: Bucket) -> None:
    bucket.write("a/b", "x")
    with pytest.raises(InputUnreadable, match="`a`"):
        bucket.read("a")
    assert bucket.stamp("a") is None


def test_stamp_changes_with_content_and_with_replacement(bucket: Bucket) -> None:
    bucket.write("a", "x")
    first = bucket.stamp("a")
    assert first is not None
    assert bucket.stamp("a") == first
    bucket.write("b", "x")
    os.utime(bucket.path("b"), ns=(first.mtime_ns, first.mtime_ns))
    bucket.move("b", "a")
    assert bucket.stamp("a") != first
    with bucket.path("a").open("a") as file:
        file.write("more")
    assert bucket.stamp("a") not in {first, None}
    assert bucket.stamp("missing") is None


def test_move_replaces_and_keeps_the_inode(bucket: Bucket) -> None:
    fill(bucket, "input/a", "processed/a")
    before = bucket.stamp("input/a")
    bucket.move("input/a", "processed/a")
    assert bucket.stamp("processed/a") == before
    assert bucket.stamp("input/a") is None


def test_failed_move_says_where_and_loses_nothing(bucket: Bucket) -> None:
    fill(bucket, "input/a", "processed")
    with pytest.raises(OutputUnwritable, match="processed") as caught:
        bucket.move("input/a", "processed/a")
    assert "move that file away" in caught.value.do
    assert bucket.read("input/a") == b"input/a"


def test_delete_accepts_what_is_not_there(bucket: Bucket) -> None:
    fill(bucket, "a")
    bucket.delete("a")
    bucket.delete("a")
    fill(bucket, "b")
    bucket.delete("b/c")
    assert bucket.read("b") == b"b"


def test_delete_refuses_a_folder(bucket: Bucket) -> None:
    fill(bucket, "a/b")
    with pytest.raises(OutputUnwritable, match=r"`.*/a`"):
        bucket.delete("a")


def test_prune_removes_empty_folders_only(bucket: Bucket) -> None:
    fill(bucket, "work/kept/x")
    (bucket.root / "work/empty/deep").mkdir(parents=True)
    bucket.prune("work/")
    assert list((bucket.root / "work").iterdir()) == [bucket.root / "work/kept"]
    bucket.delete("work/kept/x")
    bucket.prune("work")
    bucket.prune("work")
    assert not (bucket.root / "work").exists()


def test_folders_are_listed_without_files_and_links(bucket: Bucket) -> None:
    fill(bucket, "work/b/x", "work/a/y/z", "work/file")
    (bucket.root / "work/link").symlink_to(bucket.root / "work/a")
    assert bucket.folders("work/") == ["work/a", "work/b"]


def test_second_lock_is_refused_until_the_first_ends(bucket: Bucket) -> None:
    with bucket.lock(), pytest.raises(UsageError, match="another run"), bucket.lock():
        pytest.fail("two runs hold one bucket")
    with bucket.lock():
        assert (bucket.root / LOCK_NAME).exists()


def test_lock_through_a_link_is_refused(bucket: Bucket, tmp_path: Path) -> None:
    (bucket.root / LOCK_NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputUnwritable, match="symbolic link"), bucket.lock():
        pytest.fail("locked a file outside")
    assert not (tmp_path / "elsewhere").exists()
