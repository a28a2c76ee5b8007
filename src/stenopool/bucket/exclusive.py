"""Files that appear whole, and only where there is none of their name."""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
from contextlib import suppress
from pathlib import Path

from stenopool.files import TEMPORARY_PREFIX, output_error, write_whole

# What `link` says where a file system has no hard links: FAT, some network and FUSE ones.
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})

_HERE = -100  # AT_FDCWD: relative to the working directory
_NO_REPLACE = 1  # RENAME_NOREPLACE


def write_new(path: Path, data: bytes | str) -> bool:
    """Write a file whole, if there is none of this name; of several callers one is told True.

    The name is given by a hard link, else by a rename that replaces nothing: each fails when the
    name is taken. Creating the file first (`O_EXCL`) and filling it would show readers a part.

    Args:
        path: the target; its folder exists.
        data: the content; a `str` is encoded as UTF-8.

    Raises:
        StorageFull: no space, quota or permitted file size is left.
        OutputUnwritable: the target may not be written for another reason, such as a file system
            that has neither hard links nor such a rename.
    """
    if os.path.lexists(path):
        return False  # spares a copy and its way to the disk; what counts is below
    draft = path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}.new"
    write_whole(draft, data)
    try:
        return _give_name(draft, path)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        with suppress(OSError):  # it is hidden, and worth no error
            draft.unlink(missing_ok=True)


def _give_name(draft: Path, path: Path) -> bool:
    try:
        os.link(draft, path)
    except FileExistsError:
        # NFS repeats a request whose answer was lost, and then refuses what it has done itself.
        return draft.stat().st_nlink > 1
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _rename_to_new(draft, path)
    return True


def _rename_to_new(draft: Path, path: Path) -> bool:
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        raise OSError(errno.EOPNOTSUPP, "the file system has no hard links")
    if rename(_HERE, os.fsencode(draft), _HERE, os.fsencode(path), _NO_REPLACE) == 0:
        return True
    number = ctypes.get_errno()
    if number == errno.EEXIST:
        return False
    raise OSError(number, os.strerror(number))
