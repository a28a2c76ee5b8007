"""The machine that was measured on."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from pathlib import Path

from stenopool.engines import usable_cores

CPU_INFO = Path("/proc/cpuinfo")

# Instructions that decide how fast matrices are multiplied.
_FLAGS = re.compile(r"avx\w*|amx\w*|fma|f16c|sse4_2|vnni|neon|asimd\w*|sve\w*|i8mm|bf16|fphp")


@dataclass(frozen=True, slots=True)
class Machine:
    """Processor and operating system.

    Attributes:
        cores: that this process may use.
        flags: instructions that matter for speed.
    """

    cpu: str
    cores: int
    flags: tuple[str, ...]
    system: str
    python: str


def machine() -> Machine:
    """This machine, as far as it says."""
    try:
        info = CPU_INFO.read_text(encoding="utf-8", errors="replace")
    except OSError:  # other systems have no such file
        info = ""
    flags = _field(info, "flags|Features").split()
    return Machine(
        cpu=_field(info, "model name") or platform.processor() or platform.machine(),
        cores=usable_cores(),
        flags=tuple(sorted(flag for flag in set(flags) if _FLAGS.fullmatch(flag))),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
    )


def _field(info: str, name: str) -> str:
    found = re.search(rf"^(?:{name})\s*:\s*(.*)$", info, re.MULTILINE)
    return found[1].strip() if found else ""
