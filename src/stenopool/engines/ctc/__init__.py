"""Models that say for each frame which symbol is spoken: wav2vec 2.0 with a CTC head."""

# ruff: noqa: E402  modules of this package import OpenVINO
from __future__ import annotations

from stenopool import telemetry

telemetry.silence()

from stenopool.engines.ctc.base import CtcEngine, Emissions

__all__ = ["CtcEngine", "Emissions"]
