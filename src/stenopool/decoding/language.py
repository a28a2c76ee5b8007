"""Which language is spoken, by the first windows of a recording."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from stenopool.audio.features import log_mel
from stenopool.audio.windows import Window
from stenopool.decoding.languages import AUTO
from stenopool.engines.base import Engine

DETECTION_WINDOWS = 4  # at most, of 30 s
CERTAIN = 0.9  # a first window that is so clear needs no second opinion
UNDETERMINED = "und"  # ISO 639-2: nobody spoke


@dataclass(frozen=True, slots=True)
class Language:
    """Code of a language and how probable it is, in [0, 1]."""

    code: str
    probability: float

    @classmethod
    def given(cls, code: str) -> Self:
        """As the user says; `auto` is not known yet."""
        return cls(UNDETERMINED, 0.0) if code == AUTO else cls(code, 1.0)

    @property
    def known(self) -> bool:
        return self.code != UNDETERMINED


def detected(windows: Sequence[Window], engine: Engine) -> Language:
    """The most probable language of up to four windows, their probabilities averaged."""
    totals: defaultdict[str, float] = defaultdict(float)
    counted = 0
    for window in windows[:DETECTION_WINDOWS]:
        features = np.stack([log_mel(window.samples, engine.mel_bins)])
        counted += 1
        for code, probability in engine.detect_language(engine.encode(features))[0].items():
            totals[code] += probability
        if max(totals.values()) >= CERTAIN * counted:
            break
    if not totals:
        return Language(UNDETERMINED, 0.0)
    code = max(totals, key=totals.__getitem__)
    return Language(code, totals[code] / counted)
