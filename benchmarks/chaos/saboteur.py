"""A worker command whose model hangs, crashes or eats memory when a recording says so.

Such a recording is a file that begins with `chaos:` and the name of what is to happen.
"""

from __future__ import annotations

import ctypes
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path
from unittest.mock import patch

from stenopool.decoding.listening import Listening
from stenopool.decoding.options import Options
from stenopool.decoding.transcriber import Transcriber
from stenopool.pipeline import process

MARK = b"chaos:"
FOR_EVER = 1_000_000  # seconds
GULP = 32 * 2**20  # bytes
GULP_SECONDS = 0.1

_listen = Transcriber.listen


def hang() -> None:
    """Not get on; other threads do."""
    time.sleep(FOR_EVER)


def freeze() -> None:
    """Not get on, nor let any other thread do so: native code that keeps the interpreter's lock."""
    ctypes.PyDLL(None).sleep(FOR_EVER)


def crash() -> None:
    """End the process by a segmentation fault."""
    ctypes.string_at(0)


def hoard() -> None:
    """Take more and more memory."""
    held = []
    while True:
        held.append(b"x" * GULP)
        time.sleep(GULP_SECONDS)


DEEDS = {one.__name__: one for one in (hang, freeze, crash, hoard)}


def sabotaged(
    transcriber: Transcriber, path: Path, options: Options
) -> AbstractContextManager[Listening]:
    """`Transcriber.listen`, but for the recordings that say otherwise."""
    with path.open("rb") as file:
        mark, _, name = file.readline(100).strip().partition(b":")
    if mark + b":" == MARK:
        DEEDS[name.decode()]()
    return _listen(transcriber, path, options)


if __name__ == "__main__":
    with patch.object(Transcriber, "listen", sabotaged):
        process.main(sys.argv[1])
