"""From a server without a model to the first text."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import httpx
import numpy as np

from chaos.report import Report

from . import servers
from .load import clips_of

MOST_SECONDS = 3.0


def measure(arguments: argparse.Namespace, folder: Path) -> Report:
    """One request to a server that has just begun to listen, some times."""
    report = Report(f"Cold start of `{arguments.model}`")
    clip = clips_of(arguments.data)[0]
    took = []
    for number in range(arguments.rounds + 1):  # the first one compiles the model's graphs
        with servers.steno(folder / str(number), arguments.model) as port:
            begun = time.monotonic()
            answer = httpx.post(
                f"http://127.0.0.1:{port}/v1/audio/transcriptions",
                files={"file": (clip.path.name, clip.path.read_bytes())},
                data={"model": "whisper-1", "language": "en"},
                timeout=600,
            )
            answer.raise_for_status()
            took.append(time.monotonic() - begun)
    report.figures["seconds, first of all"] = took[0]
    report.figures["seconds"] = [round(one, 2) for one in took[1:]]
    median = float(np.median(took[1:]))
    report.figures["median"] = median
    report.require(median < MOST_SECONDS, f"more than {MOST_SECONDS:.0f} s")
    return report
