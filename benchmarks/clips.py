"""Clips of a manifest, as an engine is given them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from stenopool.audio.features import WINDOW_SAMPLES, Features, log_mel
from stenopool.audio.media import Recording
from stenopool.decoding.tokens import Vocabulary
from stenopool.engines.base import Engine


def rows_of(manifest: Path, count: int | None) -> list[dict[str, Any]]:
    """The first lines of a JSONL manifest, or all; `audio` is a path that can be opened."""
    lines = manifest.read_text(encoding="utf-8").splitlines()[:count]
    rows = [json.loads(line) for line in lines]
    return [{**row, "audio": manifest.parent / row["audio"]} for row in rows]


def features_of(paths: list[Path], mel_bins: int) -> Features:
    """The beginning of each, (clips, mel bins, frames) float32."""
    sounds = []
    for path in paths:
        with Recording(path) as recording:
            sounds.append(np.concatenate(list(recording))[:WINDOW_SAMPLES])
    return np.stack([log_mel(sound, mel_bins) for sound in sounds])


def prompt_of(folder: Path, engine: Engine, language: str, *, timestamps: bool) -> list[int]:
    """What the model in a folder is told before it transcribes."""
    vocabulary = Vocabulary(folder / "tokenizer.json")
    head = vocabulary.head(language if engine.multilingual else None, "transcribe")
    return vocabulary.prompt(head, (), timestamps=timestamps)
