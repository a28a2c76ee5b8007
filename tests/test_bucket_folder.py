from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stenopool.bucket import LOCK_NAME, FolderBucket, Key, open_bucket
from stenopool.errors import (
    InputNotAFile,
    InputUnreadable,
    OutputUnwritable,
    StenoError,
    UsageError,
)
from stenopool.files import TEMPORARY_PREFIX

linux_names = pytest.mark.skipif(sys.platform == "darwin", reason="names must be UTF-8 there")


@pytest.fixture
def bucket(tmp_path: Path) -> FolderBucket:
    return FolderBucket.open(str(tmp_path))


def fill(bucket: FolderBucket, *keys: Key) -> None:
    for key in keys:
        path = bucket.root / key
        bucket.make_folder(key.rpartition("/")[0])
        path.write_text(key.encode(errors="replace").decode())


def test_folder_opens_by_path_and_by_url(tmp_path: Path) -> None:
    folder = tmp_path / "my bucket #1"
    folder.mkdir()
    assert FolderBucket.open(str(folder)).root == folder
    assert FolderBucket.open(folder.as_uri()).root == folder
    assert FolderBucket.open(f"FILE://localhost{folder}/").root == folder


@linux_names
def test_url_can_name_a_folder_that_is_not_utf8(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    assert FolderBucket.open(f"file://{tmp_path}/%FF").root == folder


@pytest.mark.parametrize(
    "url", ["s3://recordings/a", "gs://x", "az://x", "file://host/a", "file://"]
)
def test_anything_but_a_folder_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match=f"`{url}`") as caught:
        FolderBucket.open(url)
    assert "`s3://`" in caught.value.do


def test_missing_folder_and_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("file", "missing"):
        with pytest.raises(UsageError, match="no such folder"):
            FolderBucket.open(str(tmp_path / name))
    assert not (tmp_path / "missing").exists()


def test_url_is_that_of_the_folder_itself(tmp_path: Path) -> None:
    folder = tmp_path / "my bucket #1"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    urls = {open_bucket(str(path)).url for path in (folder, tmp_path / "link")}
    assert urls == {folder.as_uri()} == {FolderBucket(tmp_path / "link").url}


def test_opening_changes_nothing(tmp_path: Path) -> None:
    FolderBucket.open(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_keys_are_sorted_in_each_folder_and_keep_odd_names(bucket: FolderBucket) -> None:
    names = ["input/-rf", "input/a b/c.d.wav", "input/a b/🎙.wav", "input/line\nbreak", "input/q\"'"]
    fill(bucket, *reversed(names), "other/x")
    assert list(bucket.keys("input/")) == names
    assert list(bucket.keys("input")) == names


@linux_names
def test_names_that_are_not_utf8_make_the_round_trip(bucket: FolderBucket) -> None:
    key = "input/" + os.fsdecode(b"caf\xe9.wav")
    fill(bucket, key)
    assert list(bucket.keys("input/")) == [key]
    bucket.move(key, "processed/" + key)
    moved = (bucket.root / "processed/input").iterdir()
    assert [os.fsencode(path.name) for path in moved] == [b"caf\xe9.wav"]


def test_deep_folders_are_walked_and_made(bucket: FolderBucket) -> None:
    below = "d/" * 300 + "x"
    fill(bucket, f"input/{below}")
    assert list(bucket.keys("input/")) == [f"input/{below}"]
    bucket.move(f"input/{below}", f"processed/{below}")
    assert list(bucket.keys("processed/")) == [f"processed/{below}"]


def test_links_and_pipes_are_passed_over_by_name(bucket: FolderBucket, tmp_path: Path) -> None:
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
    bucket = FolderBucket(plain_user)
    fill(bucket, "input/a/x", "input/b/x")
    (bucket.root / "input/a").chmod(0)
    refused: list[tuple[Key, type[StenoError]]] = []
    keys = list(bucket.keys("input/", lambda key, error: refused.append((key, type(error)))))
    assert (keys, refused) == (["input/b/x"], [("input/a", InputUnreadable)])


def test_no_operation_goes_through_a_link(bucket: FolderBucket, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_text("theirs")
    fill(bucket, "input/a")
    (tmp_path / "output").symlink_to(outside)
    acts: list[Callable[[], object]] = [
        lambda: bucket.write("output/x", "mine"),
        lambda: bucket.move("input/a", "output/x"),
        lambda: bucket.create("output/new", "mine"),
        lambda: bucket.move("output/x", "input/b"),
        lambda: bucket.read("output/x"),
        lambda: bucket.delete("output/x"),
        lambda: bucket.prune("output/"),
        lambda: bucket.delete_below("output"),
        lambda: bucket.local("output/x").__enter__(),
    ]
    for act in acts:
        with pytest.raises(OutputUnwritable, match="symbolic link"):
            act()
    assert (outside / "x").read_text() == "theirs"
    assert (bucket.root / "input/a").exists()


def test_nothing_is_read_below_a_file(bucket: FolderBucket) -> None:
    bucket.write("a/b/c", b"data")
    assert bucket.read("a/b/c/d") is None
    assert bucket.stamp("a/b/c/d") is None


def test_folder_is_not_read_as_a_file(bucket: FolderBucket) -> None:
    bucket.write("a/b", "x")
    with pytest.raises(InputUnreadable, match="`a`"):
        bucket.read("a")
    assert bucket.stamp("a") is None


def test_stamp_changes_with_content_and_with_replacement(bucket: FolderBucket) -> None:
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


def test_entries_pass_over_what_has_gone_meanwhile(bucket: FolderBucket) -> None:
    fill(bucket, "input/a", "input/b", "input/c")
    found = []
    for key, stamp in bucket.entries("input"):
        found.append(key)
        assert stamp == bucket.stamp(key)
        bucket.delete("input/b")
    assert found == ["input/a", "input/c"]


def test_entries_have_the_state_of_the_moment(bucket: FolderBucket) -> None:
    fill(bucket, "input/a", "input/b")
    entries = bucket.entries("input")
    next(entries)
    bucket.write("input/b", "new and longer")
    assert next(entries) == ("input/b", bucket.stamp("input/b"))


def test_entry_that_may_not_be_looked_at_is_told(plain_user: Path) -> None:
    bucket = FolderBucket(plain_user)
    fill(bucket, "input/a/x", "input/b/x")
    (bucket.root / "input/a").chmod(0o600)  # names can be listed, and no more
    refused: list[tuple[Key, type[StenoError]]] = []
    entries = bucket.entries("input/", lambda key, error: refused.append((key, type(error))))
    assert [key for key, _ in entries] == ["input/b/x"]
    assert refused == [("input/a/x", InputUnreadable)]


def test_leftover_of_a_writer_that_died_is_listed_as_a_hidden_file(bucket: FolderBucket) -> None:
    fill(bucket, f"input/{TEMPORARY_PREFIX}x.tmp", "input/a")
    assert list(bucket.keys("input")) == [f"input/{TEMPORARY_PREFIX}x.tmp", "input/a"]
    assert TEMPORARY_PREFIX.startswith(".")


@pytest.fixture
def no_hard_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)


@pytest.mark.skipif(sys.platform != "linux", reason="there is no such call elsewhere")
@pytest.mark.usefixtures("no_hard_links")
def test_file_is_created_once_where_there_are_no_hard_links(
    bucket: FolderBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bucket.create("work/a", "first")
    monkeypatch.setattr(os.path, "lexists", lambda _: False)  # as if it came in this moment
    assert not bucket.create("work/a", "second")
    assert bucket.read("work/a") == b"first"
    assert list(bucket.keys("work")) == ["work/a"]


@pytest.mark.usefixtures("no_hard_links")
def test_file_system_that_can_create_nothing_safely_is_named(
    bucket: FolderBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stenopool.bucket.exclusive.ctypes.CDLL", lambda *_, **__: object())
    with pytest.raises(OutputUnwritable, match="no hard links"):
        bucket.create("work/a", "x")
    assert list(bucket.keys("work")) == []


def test_file_that_comes_while_another_is_created_stays(
    bucket: FolderBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(bucket, "work/a")
    monkeypatch.setattr(os.path, "lexists", lambda _: False)
    assert not bucket.create("work/a", "second")
    assert bucket.read("work/a") == b"work/a"
    assert list(bucket.keys("work")) == ["work/a"]


def test_repeated_answer_of_a_network_file_system_is_understood(
    bucket: FolderBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def link_and_refuse(source: Path, target: Path) -> None:
        link(source, target)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    monkeypatch.setattr(os, "link", link_and_refuse)
    assert bucket.create("work/a", "x")


def test_created_file_that_cannot_be_written_leaves_nothing(plain_user: Path) -> None:
    bucket = FolderBucket(plain_user)
    fill(bucket, "work/b")
    (bucket.root / "work").chmod(0o500)
    with pytest.raises(OutputUnwritable, match="work"):
        bucket.create("work/a", "x")
    assert list(bucket.keys("work")) == ["work/b"]


def test_move_replaces_and_keeps_the_inode(bucket: FolderBucket) -> None:
    fill(bucket, "input/a", "processed/a")
    before = bucket.stamp("input/a")
    bucket.move("input/a", "processed/a")
    assert bucket.stamp("processed/a") == before
    assert bucket.stamp("input/a") is None


def test_file_taken_away_in_the_last_moment_is_not_moved(
    bucket: FolderBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(bucket, "input/a")
    monkeypatch.setattr(FolderBucket, "make_folder", lambda self, _: self.delete("input/a"))
    assert not bucket.move("input/a", "processed/a")


def test_folder_and_link_are_not_moved(bucket: FolderBucket) -> None:
    fill(bucket, "input/a/b")
    assert not bucket.move("input/a", "processed/a")
    assert bucket.read("input/a/b") == b"input/a/b"


def test_failed_move_says_where_and_loses_nothing(bucket: FolderBucket) -> None:
    fill(bucket, "input/a", "processed")
    with pytest.raises(OutputUnwritable, match="processed") as caught:
        bucket.move("input/a", "processed/a")
    assert "move that file away" in caught.value.do
    assert bucket.read("input/a") == b"input/a"


def test_delete_accepts_a_file_where_a_folder_would_be(bucket: FolderBucket) -> None:
    fill(bucket, "b")
    bucket.delete("b/c")
    bucket.delete_below("b/c")
    bucket.delete_below("b")
    assert bucket.read("b") == b"b"


def test_delete_refuses_a_folder(bucket: FolderBucket) -> None:
    fill(bucket, "a/b")
    with pytest.raises(OutputUnwritable, match=r"`.*/a`"):
        bucket.delete("a")


def test_prune_removes_empty_folders_only(bucket: FolderBucket) -> None:
    fill(bucket, "work/kept/x")
    (bucket.root / "work/empty/deep").mkdir(parents=True)
    bucket.prune("work/")
    assert list((bucket.root / "work").iterdir()) == [bucket.root / "work/kept"]
    bucket.delete("work/kept/x")
    bucket.prune("work")
    bucket.prune("work")
    assert not (bucket.root / "work").exists()


def test_everything_below_a_folder_goes_and_nothing_that_links_lead_to(
    bucket: FolderBucket, tmp_path: Path
) -> None:
    fill(bucket, "kept/x", "work/1/a/b/c")
    (tmp_path / "work/1/empty/deep").mkdir(parents=True)
    (tmp_path / "work/1/a/link").symlink_to(tmp_path / "kept")
    (tmp_path / "work/1/file-link").symlink_to(tmp_path / "kept/x")
    os.mkfifo(tmp_path / "work/1/pipe")
    bucket.delete_below("work/1")
    assert list((tmp_path / "work").iterdir()) == []
    assert bucket.read("kept/x") == b"kept/x"


def test_what_cannot_be_removed_is_named(plain_user: Path) -> None:
    bucket = FolderBucket(plain_user)
    fill(bucket, "work/1/a", "work/2/b")
    (bucket.root / "work/1").chmod(0o500)
    (bucket.root / "work/2").chmod(0)
    for name in "12":
        with pytest.raises(OutputUnwritable, match=f"work/{name}"):
            bucket.delete_below(f"work/{name}")


def test_prepared_bucket_has_all_folders_but_the_one_that_people_make(
    bucket: FolderBucket, tmp_path: Path
) -> None:
    bucket.prepare()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "failed",
        "output",
        "processed",
        "work",
    ]


def test_bucket_that_cannot_be_worked_in_is_not_prepared(bucket: FolderBucket) -> None:
    fill(bucket, "output")
    with pytest.raises(OutputUnwritable, match="output"):
        bucket.prepare()


def test_folders_are_listed_without_files_and_links(bucket: FolderBucket) -> None:
    fill(bucket, "work/b/x", "work/a/y/z", "work/file")
    (bucket.root / "work/link").symlink_to(bucket.root / "work/a")
    assert bucket.folders("work/") == ["work/a", "work/b"]


def test_second_lock_is_refused_until_the_first_ends(bucket: FolderBucket) -> None:
    with bucket.lock(), pytest.raises(UsageError, match="another run"), bucket.lock():
        pytest.fail("two runs hold one bucket")
    with bucket.lock():
        assert (bucket.root / LOCK_NAME).exists()


def test_lock_through_a_link_is_refused(bucket: FolderBucket, tmp_path: Path) -> None:
    (bucket.root / LOCK_NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputUnwritable, match="symbolic link"), bucket.lock():
        pytest.fail("locked a file outside")
    assert not (tmp_path / "elsewhere").exists()
