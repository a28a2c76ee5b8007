"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from types import MappingProxyType
from typing import IO

from stenopool.errors import OutputError, OutputUnwritable, StorageFull

TEMPORARY_PREFIX = ".stenopool-"
PARTIAL = ".partial-"  # folders
_PIECE = 1 << 20  # bytes of a copy that are in memory

# EFBIG is what a file size limit (`ulimit -f`) reports: no more room for this user, like a quota.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_HINTS: Mapping[int, str] = MappingProxyType(
    {
        errno.EACCES: "Give this user write permission there, or choose another folder",
        errno.EPERM: "Give this user write permission there, or choose another folder",
        errno.EROFS: "The file system is read-only: choose another folder or mount it for writing",
        errno.ENOENT: "Create the folder first",
        errno.ENOTDIR: "A file stands where a folder is needed: move that file away",
        errno.EEXIST: "A file stands where a folder is needed: move that file away",
        errno.EISDIR: "A folder stands where a file is needed: move that folder away",
        errno.ENAMETOOLONG: "Use a shorter file name or a less deep folder",
        errno.ELOOP: "Replace the circular symbolic links by a real folder",
        errno.EXDEV: "Keep all folders of the bucket on one file system",
    }
)


def write_whole(path: Path, data: bytes | str) -> None:
    """Write a file so that readers see the old content or the whole new one, never a part.

    Args:
        path: the target; its folder exists. An existing file is replaced.
        data: the content; a `str` is encoded as UTF-8.

    Raises:
        StorageFull: no space, quota or permitted file size is left.
        OutputUnwritable: the target may not be written for another reason.
    """
    content = data.encode() if isinstance(data, str) else data
    fill_whole(path, lambda file: file.write(content))


def copy_whole(source: Path, path: Path) -> None:
    """Copy a file of any size so that readers see the old content or the whole new one.

    Args:
        source: the file.
        path: the target; its folder exists. An existing file is replaced.

    Raises:
        StorageFull: no space, quota or permitted file size is left.
        OutputUnwritable: the target may not be written for another reason.
    """
    with source.open("rb") as original:
        fill_whole(path, lambda file: shutil.copyfileobj(original, file, _PIECE))


def fill_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let `write` fill a file, so that readers see the old content or the whole new one.

    Args:
        path: the target; its folder exists. An existing file is replaced.
        write: is given the open file.

    Raises:
        StorageFull: no space, quota or permitted file size is left.
        OutputUnwritable: the target may not be written for another reason.
    """
    # Not derived from the target's name, which may already have the longest length there is.
    temporary = path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}.tmp"
    try:
        _refuse_what_is_not_a_file(path)
        _write_and_replace(temporary, path, write)
    except OSError as error:
        raise output_error(path, error) from error


def make_folder(path: Path) -> Path:
    """Make a folder that can be written to, with its parents.

    Raises:
        OutputError: it could not be made, or this user may not write there.
    """
    try:
        # `mkdir(parents=True)` recurses, and fails on folders some hundred levels deep.
        missing, place = [], path
        while not place.is_dir():
            missing.append(place)
            place = place.parent
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise output_error(path, error) from error
    return path


def refuse_existing(path: Path) -> None:
    """Raises OutputUnwritable where there is something of this name, if only a broken link."""
    if os.path.lexists(path):
        raise OutputUnwritable(f"`{path}` is there already", do="Name another, or move it away")


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """A folder to fill on the file system of `path`; it is removed at the end of the block, unless
    it has its own name by then.

    Raises:
        OutputError: for what the operating system refuses, in the block too.
    """
    try:
        fresh = Path(mkdtemp(dir=path.parent, prefix=PARTIAL))
        try:
            yield fresh
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except OSError as error:
        raise output_error(path, error) from error


def give_name(fresh: Path, path: Path) -> None:
    """Let a folder of `folder_beside` appear, whole."""
    fresh.chmod(0o755)  # `mkdtemp` makes it private
    fresh.rename(path)


def output_error(path: Path, error: OSError) -> OutputError:
    """The error to raise when the operating system refused to write `path`."""
    reason = error.strerror or type(error).__name__
    what = f"cannot write `{path}`: {reason}"
    if error.errno in _FULL:
        return StorageFull(what, do="Free some space or raise the quota, then run again")
    hint = _HINTS.get(error.errno or 0, "Check the folder and its disk, then run again")
    return OutputUnwritable(what, do=hint)


def _refuse_what_is_not_a_file(path: Path) -> None:
    """Replacing would otherwise put a plain file in the place of a device or a pipe."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is a device, a pipe or a socket")


def _write_and_replace(temporary: Path, path: Path, write: Callable[[IO[bytes]], object]) -> None:
    # 0o666 lets the user's umask decide, as for any file; `tempfile` would make it private.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
