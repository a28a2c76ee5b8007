"""A bucket in a local folder."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import unquote_to_bytes

from stenopool.bucket.base import Key, Refused, Stamp, check_key, check_state
from stenopool.bucket.exclusive import write_new
from stenopool.errors import (
    InputNotAFile,
    InputUnreadable,
    OutputUnwritable,
    StenoError,
    UsageError,
)
from stenopool.files import copy_whole, make_folder, output_error, write_whole

LOCK_NAME = ".stenopool.lock"

_WORKED_IN = ("output", "processed", "failed", "work")  # and `input/`, which people make

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)


@dataclass(frozen=True)
class FolderBucket:
    """A local folder whose files are addressed by keys; no symbolic link below it is followed.

    Links are looked for just before a file is used. Who exchanges files between the two can still
    have a link followed, so those who may write to a bucket must be trusted.

    Plain file system calls instead of obstore's `LocalStore`: measured, one name with a newline
    aborts its whole listing, and it cannot hold names of 255 bytes.
    """

    root: Path

    @classmethod
    def open(cls, url: str) -> Self:
        """The bucket at a folder's path or `file:///` URL.

        Raises:
            UsageError: another scheme, or no such folder.
        """
        root = Path(_folder_of(url))
        if not root.is_dir():
            raise UsageError(
                f"no such folder: `{root}`", do="Create it, or name the folder that is the bucket"
            )
        return cls(root.resolve())

    @property
    def url(self) -> str:
        """Its `file:///` URL, without links on the way."""
        return self.root.resolve().as_uri()

    def path(self, key: Key) -> Path:
        """Where a key is on this machine.

        Raises:
            UsageError: the key is empty, absolute, or has `.`, `..`, an empty part or a NUL.
            OutputUnwritable: a symbolic link stands on the way or at the end.
        """
        parts = check_key(key)
        self._refuse_links(parts)
        return self.root.joinpath(*parts)

    def prepare(self) -> None:
        """Make the folders that are worked in, all but `input/`.

        Raises:
            OutputError: one of them could not be made, or this user may not write there.
        """
        for name in _WORKED_IN:
            self.make_folder(name)

    def entries(self, prefix: str, refused: Refused | None = None) -> Iterator[tuple[Key, Stamp]]:
        """The files that `keys` finds, with their stamps at the moment when they are given."""
        for key in self.keys(prefix, refused):
            try:
                stamp = self._state(key, self.root / key)
            except StenoError as error:
                if refused:
                    refused(key, error)
                continue
            if stamp is not None:
                yield key, stamp

    def keys(self, prefix: str, refused: Refused | None = None) -> Iterator[Key]:
        """The files below a folder, in byte order in each folder; one folder is read at a time.

        Args:
            prefix: the folder, with or without a final `/`; nothing is found when it is missing.
            refused: is told of each symbolic link, special file and unreadable folder, which are
                passed over.
        """
        check_key(prefix.rstrip("/"))
        pending = [(prefix.rstrip("/"), True)]
        while pending:
            key, is_folder = pending.pop()
            if not is_folder:
                yield key
                continue
            try:
                pending.extend(self._entries(key, refused))
            except StenoError as error:
                if refused:
                    refused(key, error)

    def folders(self, prefix: str) -> list[Key]:
        """The folders directly in a folder, in byte order."""
        return [key for key, is_folder in self._entries(prefix.rstrip("/"), None) if is_folder][
            ::-1
        ]

    def stamp(self, key: Key) -> Stamp | None:
        """The state of a file; None when there is no plain file of this name.

        Raises:
            InputUnreadable: a folder on the way may not be entered.
        """
        return self._state(key, self.path(key))

    def read(self, key: Key) -> bytes | None:
        """The content of a file; None when there is none of this name.

        Raises:
            InputUnreadable: it exists but may not be read.
        """
        try:
            return self.path(key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _unreadable(key, error) from error

    def create(self, key: Key, data: bytes | str) -> bool:
        """Write a file whole, if there is none of this name; False if there is one.

        Raises:
            OutputError: it could not be written; see `stenopool.bucket.exclusive`.
        """
        path = self.path(key)
        self.make_folder(key.rpartition("/")[0])
        return write_new(path, data)

    def write(self, key: Key, data: bytes | str) -> None:
        """Write a file whole, with the folders that it needs.

        Raises:
            OutputError: it could not be written; nothing is left of the attempt.
        """
        path = self.path(key)
        self.make_folder(key.rpartition("/")[0])
        write_whole(path, data)

    def put_file(self, key: Key, path: Path) -> None:
        """Write a copy of a file, with the folders that it needs.

        Raises:
            OutputError: it could not be written; nothing is left of the attempt.
        """
        target = self.path(key)
        self.make_folder(key.rpartition("/")[0])
        copy_whole(path, target)

    def move(self, source: Key, target: Key, stamp: Stamp | None = None) -> bool:
        """Rename a file in one step; an older file of the target's name is replaced.

        The stamp is compared right before. What is put in the file's place between the two would
        be moved in its stead: no system call does both.

        Returns:
            False if there is no such file, or it is in another state than `stamp`.

        Raises:
            OutputError: it could not be moved and is still at `source`.
        """
        old, new = self.path(source), self.path(target)
        now = self._state(source, old)
        if now is None or (stamp is not None and now != stamp):
            return False
        self.make_folder(target.rpartition("/")[0])
        try:
            old.replace(new)
        except OSError as error:
            if not os.path.lexists(old):
                return False
            raise output_error(new, error) from error
        return True

    def delete(self, key: Key) -> None:
        """Remove a file; one that is not there is no error.

        Raises:
            OutputError: it could not be removed.
        """
        path = self.path(key)
        try:
            path.unlink(missing_ok=True)
        except NotADirectoryError:
            return  # a parent is a file, so there is nothing of this name
        except OSError as error:
            raise output_error(path, error) from error

    def delete_below(self, prefix: Key) -> None:
        """Remove everything below a folder, links and special files included, and the folder.

        What is put there meanwhile may stay.

        Raises:
            OutputError: something could not be removed.
        """
        top = self.path(prefix.rstrip("/"))
        for folder, folders, files in os.walk(top, topdown=False, onerror=_refuse_unreadable):
            links = [name for name in folders if Path(folder, name).is_symlink()]
            for name in (*files, *links):
                _unlink(Path(folder, name))
        self.prune(prefix)

    @contextmanager
    def local(self, key: Key, stamp: Stamp | None = None) -> Iterator[Path]:
        """The file itself.

        Raises:
            InputNotFound: there is no plain file of this name.
            InputChanged: it is in another state than `stamp`.
        """
        path = self.path(key)
        check_state(key, self._state(key, path), stamp)
        yield path

    def make_folder(self, key: Key) -> Path:
        """Make a folder that can be written to, with its parents; "" is the root itself.

        Raises:
            OutputError: it could not be made, or this user may not write there.
        """
        return make_folder(self.path(key) if key else self.root)

    def prune(self, prefix: str) -> None:
        """Remove a folder and the folders below it, as far as they hold no file."""
        top = self.path(prefix.rstrip("/"))
        for folder, _, _ in os.walk(top, topdown=False):
            try:
                Path(folder).rmdir()
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT}:
                    raise output_error(Path(folder), error) from error

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the bucket for one run; the kernel lets go of it when the process ends.

        Raises:
            UsageError: another run holds it.
            OutputError: the lock file could not be made.
        """
        path = self.path(LOCK_NAME)
        try:
            # The file stays: removing it would let two runs lock two files of the same name.
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise output_error(path, error) from error
        try:
            self._take(descriptor, path)
            yield
        finally:
            os.close(descriptor)

    def _take(self, descriptor: int, path: Path) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"another run is working on the bucket `{self.root}`",
                do="Wait until it has ended, or stop it, then run again",
            ) from error
        except OSError as error:
            raise output_error(path, error) from error

    def _state(self, key: Key, path: Path) -> Stamp | None:
        try:
            state = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _unreadable(key, error) from error
        if not stat.S_ISREG(state.st_mode):
            return None
        return Stamp(state.st_size, state.st_mtime_ns, str(state.st_ino))

    def _refuse_links(self, parts: list[str]) -> None:
        location = str(self.root)
        for part in parts:
            location = f"{location}/{part}"
            try:
                mode = os.lstat(location).st_mode
            except OSError:
                return  # nothing there to be a link; the operation itself says what is wrong
            if stat.S_ISLNK(mode):
                raise OutputUnwritable(
                    f"`{location}` is a symbolic link",
                    do="Put the real file or folder in the place of the link",
                )

    def _entries(self, folder: Key, refused: Refused | None) -> list[tuple[Key, bool]]:
        """What is in one folder, last first; True marks folders."""
        found: list[tuple[Key, bool]] = []
        others: list[Key] = []
        try:
            with os.scandir(self.path(folder)) as listing:
                for entry in listing:
                    key = f"{folder}/{entry.name}"
                    is_folder = entry.is_dir(follow_symlinks=False)
                    if is_folder or entry.is_file(follow_symlinks=False):
                        found.append((key, is_folder))
                    else:
                        others.append(key)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _unreadable(folder, error) from error
        if refused:
            for key in others:
                refused(key, _not_plain(key))
        found.sort(key=lambda entry: os.fsencode(entry[0]), reverse=True)
        return found


def _folder_of(url: str) -> str:
    match = _SCHEME.match(url)
    if match is None:
        return url
    scheme, rest = match.groups()
    host, slash, path = rest.partition("/")
    if scheme.lower() != "file" or host not in {"", "localhost"} or not slash:
        raise UsageError(
            f"not a folder: `{url}`",
            do="Name a folder, or a URL that begins with `file:///`, `s3://`, `gs://` or `az://`",
        )
    return "/" + os.fsdecode(unquote_to_bytes(os.fsencode(path)))


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise output_error(path, error) from error


def _refuse_unreadable(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise output_error(Path(error.filename), error) from error


def _not_plain(key: Key) -> InputNotAFile:
    return InputNotAFile(
        f"`{key}` is a symbolic link or a special file and was passed over",
        do="Put the recording itself there, or remove it",
    )


def _unreadable(key: Key, error: OSError) -> InputUnreadable:
    reason = error.strerror or type(error).__name__
    return InputUnreadable(f"cannot read `{key}`: {reason}", do="Give this user permission to read")
