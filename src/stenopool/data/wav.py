"""16 kHz mono wav files, written block by block."""

from __future__ import annotations

import wave
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from stenopool.audio import SAMPLE_RATE, Samples
from stenopool.files import output_error

FULL_SCALE = 32767


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
        self._file = wave.open(self._bytes, "wb")  # noqa: SIM115  closed by `__exit__`
        self._file.setnchannels(1)
        self._file.setsampwidth(2)
        self._file.setframerate(SAMPLE_RATE)

    @property
    def seconds(self) -> float:
        """Length of what is written."""
        return self._samples / SAMPLE_RATE

    def write(self, block: Samples) -> None:
        """Add samples; those beyond full scale are clipped."""
        scaled = np.round(np.clip(block, -1.0, 1.0) * FULL_SCALE).astype("<i2")
        try:
            self._file.writeframesraw(scaled.tobytes())
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
