"""Read speech with references, joined to long recordings whose utterance borders are known."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile


@dataclass(frozen=True)
class Utterance:
    """One utterance inside a chapter; times in seconds."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Chapter:
    """A long recording: its file, its reference and where its utterances stand."""

    name: str
    path: Path
    seconds: float
    utterances: tuple[Utterance, ...]

    @property
    def text(self) -> str:
        return " ".join(utterance.text for utterance in self.utterances)


def joined_chapters(manifest: Path, folder: Path) -> list[Chapter]:
    """Write each chapter of a JSONL manifest (`audio, text, speaker, chapter`) as one wav.

    Args:
        manifest: its consecutive lines with equal speaker and chapter are one recording.
        folder: where the wav files go.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for line in manifest.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        groups.setdefault(f"{entry['speaker']}-{entry['chapter']}", []).append(entry)
    return [_joined(name, entries, manifest.parent, folder) for name, entries in groups.items()]


def _joined(name: str, entries: list[dict[str, Any]], source: Path, folder: Path) -> Chapter:
    parts, utterances, at = [], [], 0.0
    rate = 0
    for entry in entries:
        samples, rate = soundfile.read(source / entry["audio"], dtype="int16")
        end = at + len(samples) / rate
        utterances.append(Utterance(at, end, entry["text"]))
        parts.append(samples)
        at = end
    path = folder / f"{name}.wav"
    soundfile.write(path, np.concatenate(parts), rate)
    return Chapter(name, path, at, tuple(utterances))
