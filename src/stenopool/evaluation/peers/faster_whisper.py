"""faster-whisper: CTranslate2, one window after the other or in batches of pieces of speech."""

from __future__ import annotations

from pathlib import Path

from stenopool.evaluation.peers.base import OneByOne

_PACKAGES = ("faster-whisper", "ctranslate2")


def sequential(*, folder: str, threads: int, language: str, precision: str, beam: int) -> OneByOne:
    """`WhisperModel`, whose windows follow the timestamps."""
    from faster_whisper import WhisperModel

    model = WhisperModel(folder, "cpu", compute_type=precision, cpu_threads=threads)

    def hear(path: Path) -> str:
        segments, _ = model.transcribe(str(path), language=language, beam_size=beam)
        return "".join(segment.text for segment in segments).strip()

    return OneByOne(f"{precision}, beam {beam}", _PACKAGES, hear)


def batched(
    *, folder: str, threads: int, language: str, precision: str, beam: int, batch: int
) -> OneByOne:
    """`BatchedInferencePipeline`, which cuts a recording where nobody speaks."""
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    model = WhisperModel(folder, "cpu", compute_type=precision, cpu_threads=threads)
    pipeline = BatchedInferencePipeline(model)

    def hear(path: Path) -> str:
        segments, _ = pipeline.transcribe(
            str(path), language=language, beam_size=beam, batch_size=batch
        )
        return "".join(segment.text for segment in segments).strip()

    return OneByOne(f"{precision}, beam {beam}, batch {batch}", _PACKAGES, hear)
