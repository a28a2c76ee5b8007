"""openai-whisper: the code of the paper."""

from __future__ import annotations

from pathlib import Path

from stenopool.evaluation.peers.base import OneByOne, samples


def load(*, folder: str, threads: int, language: str, precision: str, beam: int) -> OneByOne:
    """The model on the CPU, with the settings of its command line, but for those given."""
    import torch
    import whisper

    torch.set_num_threads(threads)
    model = whisper.load_model(str(Path(folder) / "model.pt"), device="cpu")

    def hear(path: Path) -> str:
        heard = model.transcribe(
            samples(path),
            language=language,
            beam_size=beam if beam > 1 else None,
            temperature=(0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
            fp16=False,
        )
        return str(heard["text"]).strip()

    return OneByOne(f"{precision}, beam {beam}", ("openai-whisper", "torch"), hear)
