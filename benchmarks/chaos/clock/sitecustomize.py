"""Python takes this in at its start where the folder is in PYTHONPATH: it moves the wall clock.

The seconds to add stand in the file that CHAOS_CLOCK names, and may change at any time. The clock
of the machine is everybody's; other clocks, and the times of files, are not moved.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_file = Path(os.environ["CHAOS_CLOCK"])
_time, _time_ns = time.time, time.time_ns


def _offset() -> int:
    try:
        return int(_file.read_text())
    except (OSError, ValueError):
        return 0


def _moved() -> float:
    return _time() + _offset()


def _moved_ns() -> int:
    return _time_ns() + _offset() * 10**9


time.time, time.time_ns = _moved, _moved_ns
