"""A worker command without a model: `engines.py SECONDS SPEC`, for what the rest costs.

Each recording is one window, which takes so many seconds to read; a process reads one at a time.
The text is made from the recording's content, so a transcript of another one would be seen.
"""

from __future__ import annotations

import hashlib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np

from stenopool.audio import SAMPLE_RATE, Samples
from stenopool.audio.windows import Piece, Window
from stenopool.decoding.assembly import Facts
from stenopool.decoding.batching import USUAL, Claim
from stenopool.decoding.language import Language
from stenopool.decoding.listening import Listening
from stenopool.decoding.options import PACKED, Options
from stenopool.decoding.quality import Figures
from stenopool.decoding.readings import Reading
from stenopool.pipeline import process
from stenopool.transcript import ModelInfo, Transcript, Word

ENGLISH = Language("en", 1.0)
FIGURES = Figures(avg_logprob=0.0, no_speech_prob=0.0, compression_ratio=1.0, flags=())


class Heard(Listening):
    """One window of a second, which holds a digest of the file."""

    def __init__(self, path: Path) -> None:
        self.language = ENGLISH
        self._digest = hashlib.sha256(path.read_bytes()).digest()

    @property
    def claimed_seconds(self) -> float | None:
        return 1.0

    @property
    def has_language(self) -> bool:
        return True

    def windows(self) -> Iterator[Window]:
        samples: Samples = np.zeros(SAMPLE_RATE, np.float32)
        samples[: len(self._digest)] = np.frombuffer(self._digest, np.uint8)
        yield Window((Piece(samples, 0, SAMPLE_RATE, 0, SAMPLE_RATE),))

    def facts(self) -> Facts:
        return Facts(duration=1.0, speech_seconds=1.0, language=ENGLISH, flags=())


class Engine:
    """A `recording.Listener` that waits."""

    info = ModelInfo("none", "0" * 64, "none", "none")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()

    def resolved(self, options: Options) -> Options:
        return options.resolved(
            algorithm=PACKED, chunk_seconds=None, multilingual=False, beam_size=1, batch_size=1
        )

    @contextmanager
    def listen(self, path: Path, options: Options) -> Iterator[Listening]:
        yield Heard(path)

    def read(
        self, windows: Iterable[Window], options: Options, language: str, claim: Claim = USUAL
    ) -> Iterator[list[Reading]]:
        for window in windows:
            claim.taken(window)
            with self._lock:
                time.sleep(self._seconds)
            yield [Reading((_word(window),), FIGURES, 0.0, 1.0)]

    def transcribe(
        self, path: Path, options: Options, *, progress: Callable[[float, float | None], None]
    ) -> Transcript:
        raise NotImplementedError("only for the sequential algorithm")


def _word(window: Window) -> Word:
    digest = window.samples[: hashlib.sha256().digest_size].astype(np.uint8).tobytes()
    return Word(f" {digest.hex()}", 0.0, 1.0, 1.0)


def main(seconds: float, spec: str) -> None:
    """The process."""
    with patch.object(process, "load", lambda _: Engine(seconds)):
        process.main(spec)


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2])
