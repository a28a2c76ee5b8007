"""Readings of speech that goes on: as soon as can be, and never again what seems wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from stenopool.audio.features import FRAMES_PER_SECOND, WINDOW_FRAMES, log_mel
from stenopool.audio.windows import Window
from stenopool.decoding.readings import Reading
from stenopool.decoding.recognise import Recogniser, Timed, nothing
from stenopool.engines.base import Search

TOKENS_PER_SECOND = 8  # more is no speech, but a loop
SPARE_TOKENS = 24  # for the prompt, and for what is short
LEAST_SPARE_SECONDS = 0.5  # of silence after the sound, without which the model goes on for ever


class RoughRecogniser(Recogniser):
    """Reads windows greedily: short ones as such, which is faster and a little worse.

    What the guards refuse is read once more as a whole window; after that it has no words.
    """

    def read(self, windows: Sequence[Window]) -> list[list[Reading]]:
        return [[self._short(window) or self._whole(window)] for window in windows]

    def _short(self, window: Window) -> Reading | None:
        frames = self._engine.short_frames
        if window.seconds > frames / FRAMES_PER_SECOND - LEAST_SPARE_SECONDS:
            return None
        timed = self._timed_at(window, frames)
        return timed.reading() if self.acceptable(timed.decoded) else None

    def _whole(self, window: Window) -> Reading:
        timed = self._timed_at(window, WINDOW_FRAMES)
        return timed.reading() if self.acceptable(timed.decoded) else nothing(timed.decoded)

    def _timed_at(self, window: Window, frames: int) -> Timed:
        features = log_mel(window.samples, self._engine.mel_bins)[None, :, :frames]
        encoded = self._engine.encode(np.ascontiguousarray(features))
        most = len(self._context) + SPARE_TOKENS + round(TOKENS_PER_SECOND * window.seconds)
        search = replace(self.search(), max_tokens=min(most, Search().max_tokens))
        decoded = self.decode([window], encoded, search)
        return self.timed(decoded, encoded)[0]
