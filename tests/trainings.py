"""Small speech that is made of tones, and small models, for the tests of training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sounds import Sound, noise, tone, write_wav

LETTERS = "abde"
HERTZ = dict(zip(LETTERS, (400.0, 800.0, 1500.0, 2600.0), strict=True))
WORDS = ("ab", "dea", "bed", "ea", "ade", "ebb")

MICRO: dict[str, Any] = {
    "conv_dim": (16, 16),
    "conv_stride": (20, 16),
    "conv_kernel": (40, 32),
    "conv_bias": True,
    "num_feat_extract_layers": 2,
    "feat_extract_norm": "layer",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "do_stable_layer_norm": True,
    "mask_time_prob": 0.2,
    "mask_time_length": 2,
    "mask_feature_prob": 0.1,
    "mask_feature_length": 2,
}


def spoken(text: str, random: np.random.Generator, *, rate: int = 16_000) -> Sound:
    """Each letter is a tone of about 80 ms, each space and the ends are quiet; with some noise."""
    pieces = [np.zeros(round(rate * random.uniform(0.03, 0.08)))]
    for letter in text:
        seconds = random.uniform(0.07, 0.1)
        if letter == " ":
            pieces.append(np.zeros(round(rate * seconds)))
        else:
            pitch = HERTZ[letter] * random.uniform(0.97, 1.03)
            sound = tone(seconds, hz=pitch, rate=rate, level=random.uniform(0.2, 0.6))
            pieces.append(sound * np.hanning(len(sound)) ** 0.3)
        pieces.append(np.zeros(round(rate * 0.01)))
    whole = np.concatenate(pieces)
    seed = int(random.integers(1 << 30))
    return whole + noise(len(whole) / rate, rate=rate, level=0.01, seed=seed)[: len(whole)]


def spoken_set(
    folder: Path, count: int, *, seed: int, words: Sequence[str] = WORDS, most: int = 2
) -> Path:
    """A manifest of recordings that say some words each."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(count):
        text = " ".join(random.choice(words, random.integers(1, most + 1)))
        sound = spoken(text, random)
        write_wav(folder / f"{number:03}.wav", sound)
        lines.append(
            {
                "id": f"{number:03}",
                "audio": f"{number:03}.wav",
                "text": text,
                "duration": round(len(sound) / 16_000, 3),
                "speaker": f"s{number % 4}",
                "language": "eo",
            }
        )
    return manifest(folder, lines)


def manifest(folder: Path, lines: Sequence[dict[str, object]], name: str = "manifest") -> Path:
    """A manifest with these lines."""
    path = folder / f"{name}.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return path


def micro_model(folder: Path, **changed: Any) -> Path:
    """A wav2vec 2.0 checkpoint in Transformers' layout with random weights; it cannot write yet."""
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    torch.manual_seed(7)
    Wav2Vec2Model(Wav2Vec2Config(**{**MICRO, **changed})).save_pretrained(folder)
    make: Any = Wav2Vec2FeatureExtractor  # it has no types
    make(return_attention_mask=True).save_pretrained(folder)
    return folder


def records(folder: Path, name: str = "metrics") -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl` or `samples.jsonl`."""
    text = (folder / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def weights(output: Path) -> dict[str, torch.Tensor]:
    """Of the last checkpoint of a training."""
    from safetensors.torch import load_file

    last = sorted((output / "checkpoints").iterdir())[-1]
    return load_file(last / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether they are equal to the bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
