"""How a model came about, as far as its training wrote it down beside it.

A folder may be anybody's: what is found is plain data that nothing depends on but cards. Of paths
only the last part is kept, since cards are published.
"""

from __future__ import annotations

import json
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from stenopool.errors import ModelDamaged
from stenopool.models.files import MOST_JSON_BYTES, read_json, regular
from stenopool.models.local import LocalModel
from stenopool.models.registry import RECORD

HYPERPARAMETERS, METRICS = "hyperparameters.json", "metrics.jsonl"
KINDS = ("distil", "ctc")
EVALUATIONS = 12  # of a training that are kept, the best one among them


def facts_of(model: LocalModel) -> dict[str, Any]:
    """What is known of a model: `training` and `licence`, each only where somebody told."""
    folder = model.origin or model.folder
    with suppress(ModelDamaged):
        record = read_json(folder / RECORD)
        return {name: record[name] for name in ("training", "licence") if name in record}
    training = training_facts(folder)
    return {"training": training} if training else {}


def training_facts(folder: Path) -> dict[str, Any] | None:
    """What a training wrote down in its folder; `None` where none did."""
    try:
        said = read_json(folder / HYPERPARAMETERS)
    except ModelDamaged:
        return None
    if said.get("kind") not in KINDS:
        return None
    kept = ("kind", "teacher", "layers", "options", "filter", "licences", "parameters", "averaged")
    found = {name: said[name] for name in kept if name in said}
    if isinstance(init := said.get("init"), str):
        found["init"] = Path(init).name
    for name in ("train", "valid"):
        if isinstance(data := said.get(name), dict):
            found[name] = {**data, "source": Path(str(data.get("source", ""))).name}
    return {**found, "evaluations": _evaluations(folder / METRICS)}


def _evaluations(file: Path) -> list[dict[str, Any]]:
    """The figures of the evaluations of a training: steps evenly apart, and the best."""
    try:
        if regular(file).stat().st_size > MOST_JSON_BYTES:
            return []
        lines = file.read_bytes().splitlines()
    except (ModelDamaged, OSError):
        return []
    found = []
    for line in lines:
        with suppress(ValueError, RecursionError):
            one = json.loads(line)
            if isinstance(one, dict) and isinstance(one.get("valid"), dict):
                best = one.get("step") == one.get("best_step")
                found.append({"step": one.get("step"), "best": best, **one["valid"]})
    best = max((at for at, one in enumerate(found) if one["best"]), default=0)
    every = -(-len(found) // EVALUATIONS)
    kept = {best, *islice(range(len(found) - 1, -1, -1), 0, None, every or 1)}
    return [{**found[at], "best": at == best} for at in sorted(kept) if at < len(found)]
