"""Sets of recordings with what is said in them: for evaluation, and for training."""

from __future__ import annotations

from stenopool.data.joined import joined
from stenopool.data.recording import Part, Recording
from stenopool.data.sources import read

__all__ = ["Part", "Recording", "joined", "read"]
