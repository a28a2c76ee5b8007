"""From a recording in a bucket to its transcript, whatever dies on the way."""

from __future__ import annotations

from stenopool.pipeline.once import FileResult, Observer, Summary, run_once

__all__ = ["FileResult", "Observer", "Summary", "run_once"]
