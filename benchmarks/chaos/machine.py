"""What a fault needs of the machine: a disk that is full, a clock that jumps."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

BLOCK = b"\0" * 2**16
CLOCK = Path(__file__).parent / "clock"


def no_disk(folder: Path) -> str:
    """Why no disk can be mounted here; empty if it can."""
    try:
        with small_disk(folder, len(BLOCK)):
            return ""
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no small disk can be mounted: {error}"


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """A disk of so many bytes in the place of a folder."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def filled(folder: Path) -> Iterator[int]:
    """A disk without room, for as long as the context lasts; gives the bytes that it took."""
    ballast = folder / "ballast"
    try:
        _fill(ballast)
        yield ballast.stat().st_size
    finally:
        ballast.unlink(missing_ok=True)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(BLOCK)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


def clock_settings(log: Path) -> Mapping[str, str]:
    """Environment of Python processes whose wall clock follows a file."""
    jump(log, 0)
    folders = [str(CLOCK), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(folders), "CHAOS_CLOCK": str(_clock_of(log))}


def jump(log: Path, seconds: int) -> None:
    """Set the clock of the processes of a log, relative to the true time."""
    fresh = _clock_of(log).with_suffix(".new")
    fresh.write_text(str(seconds))
    fresh.replace(_clock_of(log))  # which is whole at any time


def _clock_of(log: Path) -> Path:
    return log.with_suffix(".clock")
