"""Keeps OpenVINO from telling its maker about its use.

`import openvino` starts processes that send statistics, without asking, unless the user has said no
with a tool of its own. What people transcribe and when is nobody else's business; and a process
forked from a worker that has threads may hang, with the worker's pipes in its hands.
"""

from __future__ import annotations

import sys

PACKAGE = "openvino_telemetry"


def silence() -> None:
    """Must be called before `openvino` is imported: it does without the package where it is not."""
    sys.modules.setdefault(PACKAGE, None)  # type: ignore[arg-type]  # so that importing it fails
