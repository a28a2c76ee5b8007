"""Whisper on CTranslate2: int8 on CPUs, float16 on CUDA, no PyTorch.

On a CPU batches run side by side, each on its own threads: measured on two cores, two batches on
one thread each take 10 to 15 % less time than one after the other on two threads. Batches of two
windows are as fast as those of eight, and need 0.9 GB where those need 1.8 (`base`, beam 5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import ctranslate2
import numpy as np
from numpy.typing import NDArray

from stenopool.audio.features import FRAMES_PER_SECOND, WINDOW_FRAMES, Features
from stenopool.engines.base import (
    POSITIONS_PER_SECOND,
    TEXT_POSITIONS,
    Alignment,
    Encoded,
    Hypothesis,
    Search,
)
from stenopool.errors import EngineFailed, EngineMissing, ModelDamaged

T = TypeVar("T")

MOST_WORKERS = 4  # on a CPU: each has its own batch in memory
BATCH_SIZE = {"cpu": 2, "cuda": 8}  # windows


class CTranslate2Engine:
    """A converted Whisper model in a folder. See `engines.base.Engine` for the methods.

    Args:
        folder: with `model.bin` and `config.json`.
        device: `cpu` or `cuda`.
        threads: cores to use on a CPU, shared by up to four workers.

    Raises:
        EngineMissing: the device is not there.
        ModelDamaged: the files are not a Whisper model that CTranslate2 can load.
    """

    name = "ctranslate2"
    beam_size = 5  # as in the Whisper paper

    def __init__(self, folder: Path, *, device: str, threads: int) -> None:
        if device == "cuda" and ctranslate2.get_cuda_device_count() == 0:
            raise EngineMissing(
                "CTranslate2 finds no CUDA device",
                do="Use `--device cpu`, or install a CTranslate2 build and a driver for CUDA",
            )
        self.device = device
        self.workers = min(threads, MOST_WORKERS) if device == "cpu" else 1
        self.batch_size = BATCH_SIZE[device]
        self.short_frames = WINDOW_FRAMES
        try:
            self._model = ctranslate2.models.Whisper(
                str(folder),
                device=device,
                compute_type="int8" if device == "cpu" else "float16",
                inter_threads=self.workers,
                intra_threads=max(1, threads // self.workers),
            )
        except (RuntimeError, ValueError) as error:
            raise ModelDamaged(
                f"`{folder.name}` cannot be loaded by CTranslate2: {error}",
                do="Pull the model again with `steno models pull NAME --force`",
            ) from error
        self.precision = str(self._model.compute_type).split("_", maxsplit=1)[0]
        self.mel_bins = int(self._model.n_mels)
        self.multilingual = bool(self._model.is_multilingual)

    def encode(self, features: Features) -> Encoded:
        view = ctranslate2.StorageView.from_array(np.ascontiguousarray(features))
        return cast(Encoded, _run(lambda: self._model.encode(view)))

    def detect_language(self, encoded: Encoded) -> list[dict[str, float]]:
        found = _run(lambda: self._model.detect_language(encoded))
        return [{token[2:-2]: float(p) for token, p in window} for window in found]

    def generate(
        self, encoded: Encoded, prompts: Sequence[Sequence[int]], search: Search
    ) -> list[Hypothesis]:
        sampling = search.temperature > 0
        results = _run(
            lambda: self._model.generate(
                encoded,
                [list(prompt) for prompt in prompts],
                beam_size=1 if sampling else search.beam_size,
                num_hypotheses=search.best_of if sampling else 1,
                sampling_topk=0 if sampling else 1,
                sampling_temperature=search.temperature if sampling else 1.0,
                max_length=search.max_tokens,
                return_scores=True,
                return_no_speech_prob=True,
            )
        )
        return [_best(result) for result in results]

    def align(
        self,
        encoded: Encoded,
        start: Sequence[int],
        texts: Sequence[Sequence[int]],
        seconds: Sequence[float],
    ) -> list[Alignment]:
        frames = [max(1, round(length * FRAMES_PER_SECOND)) for length in seconds]
        # A text in a loop may leave no place for what CTranslate2 puts before and after it.
        fitting = TEXT_POSITIONS - len(start) - 2
        given = [list(text[:fitting]) for text in texts]
        results = _run(lambda: self._model.align(encoded, list(start), given, frames))
        return [_alignment(result, len(text)) for result, text in zip(results, texts, strict=True)]


def _best(result: Any) -> Hypothesis:  # noqa: ANN401  untyped extension class
    """The sample with the highest average log-probability."""
    candidates = [
        # The score is already a mean over the tokens; the end token is one more.
        (score * len(tokens) / (len(tokens) + 1), tuple(tokens))
        for score, tokens in zip(result.scores, result.sequences_ids, strict=True)
    ]
    avg_logprob, tokens = max(candidates, key=lambda candidate: candidate[0])
    return Hypothesis(tokens, float(avg_logprob), float(result.no_speech_prob))


def _alignment(result: Any, count: int) -> Alignment:  # noqa: ANN401  untyped extension class
    """Start of each token: the first encoder position on its row of the warping path.

    Args:
        count: tokens of the text. Those for which there was no place begin where the last one that
            had one ends; their probability is 0, as nobody knows it.
    """
    path: NDArray[np.int64] = np.asarray(result.alignments, dtype=np.int64).reshape(-1, 2)
    first = np.flatnonzero(np.diff(path[:, 0], prepend=-1))
    probabilities = np.asarray(result.text_token_probs, dtype=np.float64)
    missing = count - len(probabilities)
    return Alignment(
        starts=np.pad(path[first, 1], (0, missing), mode="edge") / POSITIONS_PER_SECOND,
        probabilities=np.pad(probabilities, (0, missing)),
    )


def _run(call: Callable[[], T]) -> T:
    try:
        return call()
    except (RuntimeError, ValueError) as error:
        raise EngineFailed(
            f"CTranslate2 failed: {error}",
            do="Try a smaller `--batch-size`; if it stays, run `steno doctor` and report it",
        ) from error
