"""The catalogue of models, and the store that pulls, verifies and resolves them."""

from __future__ import annotations

from stenopool.models.catalogue import ALIASES, CATALOGUE, ModelEntry, entry
from stenopool.models.sources import Report
from stenopool.models.store import LocalModel, Store

__all__ = ["ALIASES", "CATALOGUE", "LocalModel", "ModelEntry", "Report", "Store", "entry"]
