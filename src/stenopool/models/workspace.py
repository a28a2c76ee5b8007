"""Writing to the models folder: beside what is there, and what killed processes left behind."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

from stenopool.errors import ModelDamaged, OutputUnwritable, StorageFull
from stenopool.files import PARTIAL

STALE_SECONDS = 24 * 3600.0  # a workspace in which nothing was written for so long was killed
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
TAKEN = frozenset({errno.ENOTEMPTY, errno.EEXIST})  # what a rename to a folder's name says


@contextmanager
def workspace(root: Path) -> Iterator[Path]:
    """A folder on the file system of the models that is gone afterwards, whatever happens.

    Raises:
        OutputUnwritable, StorageFull: for what the operating system refuses, in the block too.
    """
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
        _sweep(root)
        folder = Path(mkdtemp(dir=root, prefix=PARTIAL))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # what stays is swept later


@contextmanager
def writing(root: Path) -> Iterator[None]:
    """Errors of the operating system by name."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _FULL:
            raise StorageFull(
                f"no space is left in the models folder `{root}`",
                do="Free space there, or set STENO_MODELS_DIR to a folder with more",
            ) from error
        raise OutputUnwritable(
            f"the models folder `{root}` cannot be written: {reason}",
            do="Make it writable, or set STENO_MODELS_DIR to a folder that is",
        ) from error


def exists(path: Path) -> bool:
    """Whether there is something of this name.

    Raises:
        ModelDamaged: nobody may look.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise ModelDamaged(
            f"`{path}` cannot be read: {error.strerror}", do="Make the models folder readable"
        ) from error
    return True


def move(path: Path, target: Path) -> bool:
    """Whether there was something to move."""
    try:
        path.replace(target)
    except FileNotFoundError:
        return False
    return True


def _sweep(root: Path) -> None:
    """Delete what killed processes left behind."""
    horizon = time.time() - STALE_SECONDS
    for partial in root.glob(f"{PARTIAL}*"):
        if _last_written(partial) < horizon:
            shutil.rmtree(partial, ignore_errors=True)  # another process may be sweeping too


def _last_written(folder: Path) -> float:
    """When anything in a folder changed last; what vanishes meanwhile is passed over."""
    times = [0.0]
    for parent, _, names in os.walk(folder):
        for path in (Path(parent), *(Path(parent, name) for name in names)):
            with suppress(FileNotFoundError):
                times.append(path.lstat().st_mtime)
    return max(times)
