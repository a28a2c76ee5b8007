"""CTC models for tests: small ones with random weights, and one that hears letters as tones."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stenopool.audio import SAMPLE_RATE, Samples, regrouped
from stenopool.audio.vad import CALL_FRAMES, FRAME_SAMPLES
from stenopool.decoding.ctc.alphabet import Alphabet
from stenopool.engines.ctc import Emissions
from stenopool.models.weights import Tensor

LETTERS = "abcdefghijklmnopqrstuvwxyz'"
SYMBOLS = ("[PAD]", "|", "[UNK]", *LETTERS)
ALPHABET = Alphabet(("", "", "", *LETTERS), blank=0, delimiter=1)
FRAME = 320  # samples
CONFUSION = 0.3  # probability

CONFIG: dict[str, Any] = {
    "model_type": "wav2vec2",
    "vocab_size": len(SYMBOLS),
    "pad_token_id": 0,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [8] * 7,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "conv_bias": True,
    "feat_extract_norm": "layer",
    "feat_extract_activation": "gelu",
    "do_stable_layer_norm": True,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}


def write_model(folder: Path, **changes: Any) -> Path:
    """A folder as Transformers writes it, with random weights."""
    from stenopool.models.wav2vec2 import expected
    from stenopool.models.wav2vec2_config import shape_of

    folder.mkdir(parents=True, exist_ok=True)
    config = {**CONFIG, **changes}
    random = np.random.default_rng(7)
    tensors = {
        name: (random.standard_normal(size) * 0.3).astype(np.float32)
        for name, size in expected(shape_of(config))
    }
    tensors["lm_head.weight"] *= 10
    write_json(folder / "config.json", config)
    write_json(folder / "vocab.json", {one: number for number, one in enumerate(SYMBOLS)})
    tokens = {"pad_token": "[PAD]", "unk_token": "[UNK]", "word_delimiter_token": "|"}
    write_json(folder / "tokenizer_config.json", tokens)
    write_json(folder / "preprocessor_config.json", {"do_normalize": True, "sampling_rate": 16000})
    (folder / "model.safetensors").write_bytes(safetensors(tensors))
    return folder


def write_json(file: Path, data: object) -> None:
    file.write_text(json.dumps(data), encoding="utf-8")


def safetensors(tensors: dict[str, Tensor]) -> bytes:
    """The format, from its description."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    parts, at = [], 0
    for name, tensor in tensors.items():
        data = np.ascontiguousarray(tensor, dtype="<f4").tobytes()
        offsets = [at, at + len(data)]
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": offsets}
        parts.append(data)
        at += len(data)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(parts)


# --- letters as tones ----------------------------------------------------------------------------


def spoken(text: str) -> Samples:
    """A tone of 60 ms and 20 ms of silence for each letter; spaces are faint tones."""
    time = np.arange(3 * FRAME) / SAMPLE_RATE
    parts = []
    for letter in text:
        level = 0.05 if letter == " " else 0.5
        wave = level * np.sin(2 * np.pi * _pitch(SYMBOLS.index(letter.replace(" ", "|"))) * time)
        parts.append(np.pad(wave, (0, FRAME)))
    return np.concatenate(parts).astype(np.float32)


def silence(seconds: float) -> Samples:
    return np.zeros(round(seconds * SAMPLE_RATE), dtype=np.float32)


def _pitch(symbol: int) -> int:
    return 400 + 200 * symbol


@dataclass
class ToneEngine:
    """Implements `stenopool.engines.ctc.CtcEngine`; knows what letters sound like.

    Attributes:
        sure: probability of what it hears; the rest is shared among all symbols.
        confused: two letters; where it hears the first, it often hears the second too.
    """

    sure: float = 0.99
    confused: str = ""
    name: str = "tones"
    device: str = "cpu"
    precision: str = "exact"
    workers: int = 2
    batch_size: int = 2
    stride: int = FRAME
    symbols: int = len(SYMBOLS)
    blank: int = 0

    def emissions(self, samples: Sequence[Samples]) -> list[Emissions]:
        return [self._heard(one) for one in samples]

    def _heard(self, samples: Samples) -> Emissions:
        frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
        loud = np.abs(frames).max(axis=1, initial=0.0) > 0.01
        spectra = np.abs(np.fft.rfft(frames, axis=1))  # 50 Hz a bin
        pitches = [_pitch(symbol) // 50 for symbol in range(self.symbols)]
        best = np.where(loud, spectra[:, pitches].argmax(axis=1), self.blank)
        rest = (1 - self.sure) / self.symbols
        found = np.full((len(frames), self.symbols), rest)
        found[np.arange(len(frames)), best] += self.sure
        if self.confused:
            heard, instead = map(SYMBOLS.index, self.confused)
            found[best == heard, heard] -= CONFUSION
            found[best == heard, instead] += CONFUSION
        return np.asarray(np.log(found), dtype=np.float32)


class Loudness:
    """In place of voice activity: speech is what is not silent."""

    def probabilities(self, blocks: Any) -> Iterator[Samples]:
        for samples in regrouped(blocks, CALL_FRAMES * FRAME_SAMPLES):
            yield self._of(samples)

    def live(self) -> Any:
        return self._of

    def _of(self, samples: Samples) -> Samples:
        padded = np.pad(samples, (0, -len(samples) % FRAME_SAMPLES))
        peaks = np.abs(padded.reshape(-1, FRAME_SAMPLES)).max(axis=1)
        return np.where(peaks > 0.01, 0.98, 0.02).astype(np.float32)
