"""Transformers: its speech recognition pipeline, in windows of 30 s that overlap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stenopool.audio import SAMPLE_RATE
from stenopool.evaluation.peers.base import is_multilingual, samples

WINDOW_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A recogniser that batches windows, also those of several recordings."""

    detail: str
    packages: Sequence[str]
    pipeline: Any
    generation: dict[str, object]

    def transcribe(self, paths: Sequence[Path]) -> Iterator[str | Exception]:
        sounds = ({"raw": samples(path), "sampling_rate": SAMPLE_RATE} for path in paths)
        # Without timestamps the model ends a window after its first sentences.
        for heard in self.pipeline(sounds, return_timestamps=True, generate_kwargs=self.generation):
            yield str(heard["text"]).strip()


def load(
    *, folder: str, threads: int, language: str, precision: str, beam: int, batch: int
) -> Pipeline:
    """The pipeline on the CPU."""
    import torch
    import transformers

    torch.set_num_threads(threads)
    pipeline = transformers.pipeline(
        "automatic-speech-recognition",
        folder,
        device="cpu",
        dtype=getattr(torch, precision),
        chunk_length_s=WINDOW_SECONDS,
        batch_size=batch,
        ignore_warning=True,
    )
    generation: dict[str, object] = {"num_beams": beam}
    if is_multilingual(Path(folder)):
        generation |= {"language": language, "task": "transcribe"}
    detail = f"{precision}, beam {beam}, batch {batch}"
    return Pipeline(detail, ("transformers", "torch"), pipeline, generation)
