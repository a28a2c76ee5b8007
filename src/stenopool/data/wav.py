"""16 kHz mono wav files, written block by block."""

from __future__ import annotations

import io
import wave
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np

from stenopool.audio import SAMPLE_RATE, Samples
from stenopool.files import output_error

FULL_SCALE = 32767


def wav(samples: Samples) -> bytes:
    """A wav file of 16 bits a sample; samples beyond full scale are clipped."""
    held = io.BytesIO()
    with _opened(held) as file:
        file.writeframesraw(_pcm(samples))
    return held.getvalue()


class WavWriter:
    """A wav file of 16 bits a sample; what was begun is removed when its block ends in an error.

    Raises:
        OutputError: the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._samples = 0
        try:
            # `wave` would not close a file that it opens itself and fails on.
            self._bytes = path.open("wb")
        except OSError as error:
            raise output_error(path, error) from error
        self._file = _opened(self._bytes)  # closed by `__exit__`

    @property
    def seconds(self) -> float:
        """Length of what is written."""
        return self._samples / SAMPLE_RATE

    def write(self, block: Samples) -> None:
        """Add samples; those beyond full scale are clipped."""
        try:
            self._file.writeframesraw(_pcm(block))
        except OSError as error:
            raise output_error(self._path, error) from error
        self._samples += len(block)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            with self._bytes:
                self._file.close()
        except OSError as failure:
            self._path.unlink(missing_ok=True)
            raise output_error(self._path, failure) from failure
        if error is not None:
            self._path.unlink(missing_ok=True)


def _opened(target: BinaryIO) -> wave.Wave_write:
    file = wave.open(target, "wb")  # noqa: SIM115  closed by the caller
    file.setnchannels(1)
    file.setsampwidth(2)
    file.setframerate(SAMPLE_RATE)
    return file


def _pcm(samples: Samples) -> bytes:
    return np.round(np.clip(samples, -1.0, 1.0) * FULL_SCALE).astype("<i2").tobytes()
