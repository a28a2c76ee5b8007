"""Small Whisper models with random weights, a scripted teacher, and windows, for the tests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from sounds import tone, write_wav
from stenopool.decoding.options import Options
from stenopool.decoding.transcriber import Transcriber
from stenopool.errors import StenoError
from stenopool.models.formats.ctranslate2_writer import write_ctranslate2
from stenopool.models.formats.model import Whisper
from stenopool.models.formats.special import byte_of_character
from stenopool.models.formats.tokenizer import special_ids, tokenizer_json
from stenopool.models.weights import Generation, WhisperShape, WhisperWeights, expected
from stenopool.training.labels import LabelledWindow, Passage, Stretch, line
from stenopool.transcript import Coverage, ModelInfo, Segment, Timing, Transcript

BYTES = 256
NAMES = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|en|>",
    "<|de|>",
    "<|translate|>",
    "<|transcribe|>",
    "<|startoflm|>",
    "<|startofprev|>",
    "<|nospeech|>",
    "<|notimestamps|>",
)
SMALL = BYTES + len(NAMES) + 1501  # rows of the embedding, timestamps included
LARGE_V3 = 51866


def tokenizer(vocabulary: int = SMALL) -> bytes:
    """A token for each byte, and Whisper's special ones; many languages in a large vocabulary."""
    if vocabulary == SMALL:
        special = {name: BYTES + place for place, name in enumerate(NAMES)}
    else:
        special = special_ids(vocabulary)
    shown = {byte: character for character, byte in byte_of_character().items()}
    return tokenizer_json({shown[byte]: byte for byte in range(BYTES)}, [], special)


def whisper(
    *,
    decoder_layers: int = 4,
    mel_bins: int = 80,
    vocabulary: int = SMALL,
    positions: int = 64,
    encoder_layers: int = 1,
    heads: Sequence[tuple[int, int]] = ((0, 0), (3, 0)),
) -> Whisper:
    """A model with random weights whose text depends on what it hears."""
    shape = WhisperShape(mel_bins, 64, encoder_layers, decoder_layers, vocabulary, positions)
    random = np.random.default_rng(5)
    tensors = {}
    for name, size in expected(shape, 64):
        if name.endswith("norm.weight"):
            tensors[name] = np.ones(size, np.float32)
        elif name.endswith("bias"):
            tensors[name] = np.zeros(size, np.float32)
        else:
            wide = 1.0 if "embed" in name else 2.0 / np.sqrt(np.prod(size[1:]))
            tensors[name] = (random.normal(size=size) * wide).astype(np.float32)
    kept = tuple(head for head in heads if head[0] < decoder_layers)
    return Whisper(WhisperWeights(shape, Generation((), (), kept), tensors), tokenizer(vocabulary))


def saved(model: Whisper, folder: Path) -> Path:
    """A folder that `--teacher` takes."""
    folder.mkdir(parents=True, exist_ok=True)
    write_ctranslate2(model, folder, "float32")
    return folder


def recordings(folder: Path, count: int, *, seconds: float = 2.0, **more: Any) -> Path:
    """A manifest of tones with texts."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(count):
        name = f"{number:03}.wav"
        write_wav(folder / name, tone(seconds, hz=150.0 + 90.0 * number))
        lines.append(
            {
                "id": f"{number:03}",
                "audio": name,
                "text": f"tone {number}",
                "duration": seconds,
                "speaker": f"s{number // 3}",
                "language": "en",
                **more,
            }
        )
    path = folder / "manifest.jsonl"
    path.write_text("".join(f"{json.dumps(one)}\n" for one in lines), encoding="utf-8")
    return path


def window(id: str = "a", text: str = "it is", **more: Any) -> LabelledWindow:
    """A window of one passage."""
    stretch = Stretch(Path("a.wav"), 0.0, 2.0)
    passages = (Passage(0.0, 2.0, text, -0.3, 0.1, 1.0),) if text else ()
    given: dict[str, Any] = {"stretches": (stretch,), "passages": passages, "language": "en"}
    return LabelledWindow(id=id, text=text, **(given | more))


def manifest_of(folder: Path, windows: Iterable[LabelledWindow]) -> Path:
    """A manifest of labelled windows."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "manifest.jsonl"
    path.write_text("".join(f"{line(one, folder)}\n" for one in windows), encoding="utf-8")
    return path


def segment(start: float, end: float, text: str, **more: Any) -> Segment:
    return Segment(
        0,
        start,
        end,
        text,
        **({"avg_logprob": -0.2, "no_speech_prob": 0.0, "compression_ratio": 1.0} | more),
    )


def transcript(*segments: Segment, duration: float = 5.0) -> Transcript:
    return Transcript(
        text=" ".join(one.text for one in segments),
        language="en",
        language_probability=1.0,
        task="transcribe",
        duration=duration,
        segments=segments,
        coverage=Coverage(duration, duration, 0.0),
        model=INFO,
        timing=Timing(1.0, 0.1),
    )


INFO = ModelInfo("scripted", "0" * 64, "none", "float32")


@dataclass
class ScriptedTeacher:
    """Hears in each file what the script says; counts what it was asked for.

    Attributes:
        folder: holds a `tokenizer.json`, or does not.
        script: by file name.
        dies_after: recordings after which it raises, as a killed process would end.
    """

    folder: Path
    script: dict[str, Transcript | StenoError]
    dies_after: int | None = None
    asked: list[str] = field(default_factory=list)
    info: ModelInfo = INFO

    @property
    def model(self) -> SimpleNamespace:
        return SimpleNamespace(folder=self.folder)

    def resolved(self, options: Options) -> Options:
        return options

    def transcribe_many(
        self, paths: Iterable[Path], options: Options
    ) -> Iterator[Transcript | StenoError]:
        for number, path in enumerate(paths):
            if number == self.dies_after:
                raise KeyboardInterrupt
            self.asked.append(Path(path).name)
            yield self.script[Path(path).name]

    @property
    def transcriber(self) -> Transcriber:
        return cast(Transcriber, self)
