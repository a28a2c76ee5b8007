"""What is done of a long job: one JSON line for each item, appended as soon as it is there."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from stenopool.errors import Busy, InputUnreadable
from stenopool.files import output_error


class Ledger:
    """Results by key; a process that is killed loses none but the line that it was writing.

    Args:
        path: the file; what is in it already is done.

    Raises:
        InputUnreadable: the file is no ledger.
        OutputError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.done: dict[str, dict[str, Any]] = {}
        self._whole = False  # whether half a line at its end is cut off
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise output_error(path, error) from error
        try:
            self._read(cut=False)
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def claim(self) -> Self:
        """Let no other process work on the same.

        Raises:
            Busy: one does.
        """
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._file)
            raise Busy(
                f"another process is writing to `{self._path}`",
                do="Wait for its end, or choose another folder",
            ) from error
        return self

    def refresh(self) -> None:
        """Take note of what other processes have added."""
        self._read(cut=False)

    def add(self, key: str, result: Mapping[str, Any]) -> None:
        """Take note of a result; a later one of the same key counts.

        Raises:
            OutputError: it could not be written; what is there stays as it was.
        """
        line = {"key": key, **result}
        text = json.dumps(line, ensure_ascii=False).encode() + b"\n"
        if not self._whole:
            self._read(cut=True)
            self._whole = True
        size = os.fstat(self._file).st_size
        try:
            written = os.write(self._file, text)
            if written < len(text):  # the disk is full, or there is a limit
                os.write(self._file, text[written:])
        except OSError as error:
            os.ftruncate(self._file, size)
            raise output_error(self._path, error) from error
        self.done[key] = line

    def _read(self, *, cut: bool) -> None:
        whole = 0
        with self._path.open("rb") as file:
            for number, text in enumerate(file, start=1):
                if not text.endswith(b"\n"):
                    break
                self._take(text, number)
                whole += len(text)
        if cut and whole < os.fstat(self._file).st_size:  # what a killed process was writing
            os.ftruncate(self._file, whole)

    def _take(self, text: bytes, number: int) -> None:
        try:
            line = json.loads(text)
            self.done[str(line["key"])] = line
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputUnreadable(
                f"`{self._path}`, line {number}: it is not what we wrote: {error!s:.100}",
                do="Remove the line, and that item is done again",
            ) from error
