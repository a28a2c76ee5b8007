"""Many channels to one, without losing a voice that stands on one channel or in opposite phase."""

from __future__ import annotations

import numpy as np

from stenopool.audio import Samples

OPPOSITE = -0.7  # channels correlated more negatively than this cancel each other in a plain mean
ABSURD = 100.0  # full scale is 1: a float sample 40 dB beyond it is damage, not loudness
AUDIBLE = 1e-10  # mean square under which a block says nothing about phase


class Downmix:
    """Mean over the channels, block by block.

    A channel in opposite phase to the loudest one is turned round first: the mean of such a pair is
    silence (a miswired cable makes whole archives of these). Float recordings beyond full scale are
    scaled down as a whole from where that is first seen. Invalid samples (NaN, infinite, absurd)
    become silence.

    Attributes:
        invalid: how many invalid samples there were.
        any_valid: whether any sample was valid.
    """

    def __init__(self) -> None:
        self.invalid = 0
        self.any_valid = False
        self._signs: Samples = np.ones(1, dtype=np.float32)
        self._gain = 1.0

    def __call__(self, channels: Samples) -> Samples:
        """(channels, samples) float32 → (samples,) float32 in [-1, 1]."""
        valid = self._repaired(channels)
        mono = valid[0] if len(valid) == 1 else self._mean(valid)
        peak = float(np.abs(mono).max(initial=0.0))
        if peak * self._gain > 1.0:
            self._gain = 1.0 / peak
        return mono if self._gain == 1.0 else (mono * self._gain).astype(np.float32)

    def _repaired(self, channels: Samples) -> Samples:
        with np.errstate(invalid="ignore"):
            bad = ~(np.abs(channels) <= ABSURD)  # NaN compares false, so this catches it too
        damaged = int(np.count_nonzero(bad))
        self.invalid += damaged
        self.any_valid |= damaged < channels.size
        return np.where(bad, np.float32(0), channels) if damaged else channels

    def _mean(self, channels: Samples) -> Samples:
        power = np.mean(np.square(channels), axis=1)
        if len(self._signs) != len(channels):
            self._signs = np.ones(len(channels), dtype=np.float32)
        if power.max(initial=0.0) > AUDIBLE:
            loudest = channels[power.argmax()]
            correlation = channels @ loudest / channels.shape[1]
            scale = np.sqrt(power * power.max()) + AUDIBLE
            self._signs = np.where(correlation / scale < OPPOSITE, -1, 1).astype(np.float32)
        return np.asarray(self._signs @ channels / len(channels), dtype=np.float32)
