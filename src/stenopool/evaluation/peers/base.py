"""What a recogniser is to the process that serves it, whoever wrote it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from stenopool.audio import Samples
from stenopool.audio.media import Recording


class Recogniser(Protocol):
    """A loaded model.

    Attributes:
        detail: what it runs on and with, such as `ctranslate2 int8`.
        packages: distributions whose versions matter.
    """

    @property
    def detail(self) -> str: ...
    @property
    def packages(self) -> Sequence[str]: ...

    def transcribe(self, paths: Sequence[Path]) -> Iterator[str | Exception]:
        """The text of each recording, in order, or the error that it failed with.

        Raises:
            Exception: the recording failed, and so did all after it in this call.
        """
        ...


@dataclass(frozen=True, slots=True)
class OneByOne:
    """A recogniser that knows one recording at a time.

    Attributes:
        hear: the text of a recording.
    """

    detail: str
    packages: Sequence[str]
    hear: Callable[[Path], str]

    def transcribe(self, paths: Sequence[Path]) -> Iterator[str | Exception]:
        for path in paths:
            try:
                yield self.hear(path)
            except Exception as error:  # noqa: BLE001  it is the answer; the next may be sound
                yield error


def samples(path: Path) -> Samples:
    """(samples,) float32 at 16 kHz, for peers that want all of a recording in memory.

    Raises:
        InputError: by name.
    """
    with Recording(path) as recording:
        return np.concatenate(list(recording))


def is_multilingual(folder: Path) -> bool:
    """Whether a model in Transformers' form may be told a language."""
    config = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    return bool(config["is_multilingual"])
