from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from stenopool.errors import OutputError, OutputUnwritable, StorageFull
from stenopool.files import output_error, write_whole


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_text_is_written_as_utf8(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.txt", "Grüße\n")
    assert (tmp_path / "a.txt").read_bytes() == b"Gr\xc3\xbc\xc3\x9fe\n"


def test_bytes_replace_an_older_file_and_nothing_else_remains(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"old and longer")
    write_whole(target, b"new")
    assert target.read_bytes() == b"new"
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("name", ["n" * 255, "é" * 127 + "x", "a\nb 'c\" .txt", "-rf", "🎙"])
def test_any_legal_name_can_be_written(tmp_path: Path, name: str) -> None:
    write_whole(tmp_path / name, "x")
    assert names(tmp_path) == [name]


def test_umask_decides_who_may_read(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_readers_never_see_a_part(tmp_path: Path) -> None:
    target = tmp_path / "a"
    contents = {letter * 300_000 for letter in "xy"}
    write_whole(target, "x" * 300_000)
    seen: set[str] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(target.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for content in sorted(contents) * 20:
        write_whole(target, content)
    done.set()
    reader.join()
    assert seen <= contents


def test_name_over_255_bytes_is_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(OutputUnwritable, match="File name too long") as caught:
        write_whole(tmp_path / ("n" * 256), "x")
    assert "shorter" in caught.value.do
    assert names(tmp_path) == []


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputUnwritable, match=r"`.*/missing/a`") as caught:
        write_whole(tmp_path / "missing" / "a", "x")
    assert "Create the folder" in caught.value.do


def test_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputUnwritable, match="Not a directory"):
        write_whole(tmp_path / "file" / "a", "x")


def test_folder_in_the_place_of_the_file_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OutputUnwritable, match="Is a directory"):
        write_whole(tmp_path / "a", "x")
    assert names(tmp_path) == ["a"]


def test_pipe_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputUnwritable, match="pipe"):
        write_whole(tmp_path / "pipe", "x")
    assert (tmp_path / "pipe").is_fifo()


def test_folder_without_permission_is_refused(plain_user: Path) -> None:
    plain_user.chmod(0o500)
    with pytest.raises(OutputUnwritable, match="Permission denied"):
        write_whole(plain_user / "a", "x")
    assert list(plain_user.iterdir()) == []


LIMITED = """
import resource, sys
from pathlib import Path
from stenopool.errors import StorageFull
from stenopool.files import write_whole
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_whole(Path(sys.argv[1]), "y" * 5000)
except StorageFull as error:
    print(error.code, error.transient)
"""


def test_full_storage_keeps_the_old_file_and_leaves_no_part(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_text("old")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(target)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "storage_full True\n"
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_interrupt_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "a", "x")
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_lack_of_space_is_transient(number: int) -> None:
    error = output_error(Path("/a/b"), OSError(number, os.strerror(number)))
    assert isinstance(error, StorageFull)
    assert "`/a/b`" in error.what


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EACCES, "permission"),
        (errno.EROFS, "read-only"),
        (errno.ENOTDIR, "file stands"),
        (errno.ENAMETOOLONG, "shorter"),
        (errno.EXDEV, "one file system"),
        (errno.EIO, "disk"),
    ],
)
def test_other_refusals_say_what_to_do(number: int, advice: str) -> None:
    error: OutputError = output_error(Path("/a/b"), OSError(number, os.strerror(number)))
    assert isinstance(error, OutputUnwritable)
    assert advice in error.do


def test_error_without_a_number_is_still_reported() -> None:
    assert "OSError" in output_error(Path("/a"), OSError("odd")).what
