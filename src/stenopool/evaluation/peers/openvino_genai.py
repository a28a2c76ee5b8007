"""OpenVINO GenAI: its `WhisperPipeline`, which is greedy and takes one window at a time."""

from __future__ import annotations

from pathlib import Path

from stenopool.evaluation.peers.base import OneByOne, is_multilingual, samples

_PACKAGES = ("openvino-genai", "openvino")


def load(*, folder: str, threads: int, language: str, precision: str) -> OneByOne:
    """The pipeline on the CPU; it computes in bfloat16 where the processor can."""
    import openvino_genai

    pipeline = openvino_genai.WhisperPipeline(folder, "CPU", INFERENCE_NUM_THREADS=threads)
    said = {"language": f"<|{language}|>", "task": "transcribe"}
    known = said if is_multilingual(Path(folder)) else {}

    def hear(path: Path) -> str:
        # Without timestamps it takes no more than the first 30 s as one text.
        heard = pipeline.generate(samples(path), return_timestamps=True, **known)
        return str(heard.texts[0]).strip()

    return OneByOne(f"weights {precision}, greedy", _PACKAGES, hear)
