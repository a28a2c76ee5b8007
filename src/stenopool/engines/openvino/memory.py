"""What the C library does with memory that was freed."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_M_MMAP_THRESHOLD = -3  # of glibc's <malloc.h>
_LARGE_BYTES = 1 << 20


def give_back_freed_memory() -> None:
    """Let this process return large blocks to the system as they are freed.

    By itself glibc keeps them for the next time, and many threads with blocks of many sizes leave
    holes that nobody uses: a gigabyte after half an hour of audio. Other C libraries do without.
    """
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
