"""What a bucket is: named files under one root, wherever that is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias

from stenopool.errors import InputChanged, InputNotFound, StenoError, UsageError

Key: TypeAlias = str
"""POSIX name relative to the root; bytes that are not UTF-8 stand as surrogates (`os.fsdecode`)."""

Refused: TypeAlias = Callable[[Key, StenoError], None]
"""Is told of what a listing passes over, and why."""


class Stamp(NamedTuple):
    """What changes when a file is written to or replaced.

    Attributes:
        size: bytes.
        mtime_ns: nanoseconds since 1970; whole seconds in object stores.
        tag: the inode number in folders, the ETag without its quotes in object stores.
    """

    size: int
    mtime_ns: int
    tag: str


class Bucket(Protocol):
    """Files under one root that several processes work on at the same time.

    Every method raises UsageError for a key that is empty or absolute, or has `.`, `..`, an empty
    part or a NUL. Object stores raise StorageError besides: StorageUnavailable where trying again
    can help, StorageRefused where it cannot. What a folder raises is said where it is.
    """

    @property
    def url(self) -> str:
        """The same for all processes that have opened this bucket; no `/` at its end."""

    def entries(self, prefix: str, refused: Refused | None = None) -> Iterator[tuple[Key, Stamp]]:
        """The files below a prefix with their stamps, found as they are asked for.

        What has the name of a temporary file (`stenopool.files.TEMPORARY_PREFIX`) is listed like
        any other hidden file.

        Args:
            prefix: a folder, with or without a final `/`; nothing is found when it is missing.
            refused: is told of each name that is no file that can be read, and is passed over.
        """

    def keys(self, prefix: str, refused: Refused | None = None) -> Iterator[Key]:
        """The names that `entries` gives."""

    def stamp(self, key: Key) -> Stamp | None:
        """The state of a file; None when there is none of this name."""

    def read(self, key: Key) -> bytes | None:
        """The content of a file; None when there is none of this name."""

    def create(self, key: Key, data: bytes | str) -> bool:
        """Write a file whole, if there is none of this name: of several callers one is told True.

        When it fails, that tells nothing: the file may be there.
        """

    def write(self, key: Key, data: bytes | str) -> None:
        """Write a file whole or not at all, in the place of any older one of this name."""

    def put_file(self, key: Key, path: Path) -> None:
        """Write a copy of a file of this machine, of any size, whole or not at all."""

    def move(self, source: Key, target: Key, stamp: Stamp | None = None) -> bool:
        """Rename a file, in the place of any older one of the target's name.

        Args:
            source: the file.
            target: its new name.
            stamp: the state that is meant; None for whatever is there.

        Returns:
            False if there is no such file, or it is in another state; then it stays.
        """

    def delete(self, key: Key) -> None:
        """Remove a file; one that is not there is no error."""

    def delete_below(self, prefix: Key) -> None:
        """Remove everything below a prefix, and the folders that this leaves empty."""

    def local(self, key: Key, stamp: Stamp | None = None) -> AbstractContextManager[Path]:
        """A file of this machine that has the content, for as long as the context lasts.

        Raises:
            InputNotFound: there is no file of this name.
            InputChanged: it is in another state than `stamp`.
        """

    def prepare(self) -> None:
        """Make sure that the bucket is there and can be worked in, before work is put into it."""


def check_key(key: Key) -> list[str]:
    """The parts of a key.

    Raises:
        UsageError: the key is empty, absolute, or has `.`, `..`, an empty part or a NUL.
    """
    parts = key.split("/")
    if "\0" in key or not {"", ".", ".."}.isdisjoint(parts):
        raise UsageError(
            f"not a key: `{key}`", do="Use a relative name without `.`, `..` and empty parts"
        )
    return parts


def check_state(key: Key, now: Stamp | None, wanted: Stamp | None) -> Stamp:
    """The state that a file is in.

    Raises:
        InputNotFound: there is none, `now` being None.
        InputChanged: it is not the one that is wanted, if one is.
    """
    if now is None:
        raise gone(key)
    if wanted is not None and now != wanted:
        raise changed(key)
    return now


def changed(key: Key) -> InputChanged:
    """The error for a file that is not what it was."""
    return InputChanged(
        f"`{key}` has changed since it was found",
        do="Run again once it is copied; better, copy to a hidden name and rename it",
    )


def gone(key: Key) -> InputNotFound:
    """The error for a file that is not where it was."""
    return InputNotFound(f"`{key}` is not there any more", do="Put it back if it is still wanted")
