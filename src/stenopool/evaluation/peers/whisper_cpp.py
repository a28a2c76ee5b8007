"""whisper.cpp, by its binding `pywhispercpp`."""

from __future__ import annotations

from pathlib import Path

from stenopool.evaluation.peers.base import OneByOne, samples

_GREEDY, _BEAM = 0, 1


def load(*, folder: str, threads: int, language: str, precision: str, beam: int) -> OneByOne:
    """The model with the settings of its command line, but for those given."""
    from pywhispercpp.model import Model

    model = Model(
        str(Path(folder) / "model.bin"),
        params_sampling_strategy=_BEAM if beam > 1 else _GREEDY,
        redirect_whispercpp_logs_to=None,
        n_threads=threads,
        language=language,
        print_progress=False,
        **({"beam_search": {"beam_size": beam, "patience": -1.0}} if beam > 1 else {}),
    )

    def hear(path: Path) -> str:
        return " ".join(segment.text.strip() for segment in model.transcribe(samples(path)))

    return OneByOne(f"{precision}, beam {beam}", ("pywhispercpp",), hear)
