"""The catalogue of models, and the store that pulls, verifies and resolves them."""

from __future__ import annotations

from stenopool.models.catalogue import ALIASES, CATALOGUE, DETECTOR, USUAL, ModelEntry, entry
from stenopool.models.local import LocalModel
from stenopool.models.sources import Report
from stenopool.models.store import Store

__all__ = [
    "ALIASES",
    "CATALOGUE",
    "DETECTOR",
    "USUAL",
    "LocalModel",
    "ModelEntry",
    "Report",
    "Store",
    "entry",
]
