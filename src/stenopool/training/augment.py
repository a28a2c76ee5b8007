"""Sounds that are a little different each time: speed, noise, and masks over the spectrogram.

Masks: Park et al. 2019, "SpecAugment"; two in time and two in frequency.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stenopool.audio import Samples
from stenopool.audio.features import WINDOW_SAMPLES, Features
from stenopool.training.distil_options import DistilOptions
from stenopool.training.loading import at_speed

QUIETEST, LOUDEST = 30.0, 5.0  # dB of speech above noise
MASKS = 2


@dataclass(frozen=True, slots=True)
class Change:
    """How a window sounds this time.

    Attributes:
        speed: how many times as fast it is played.
        noise: dB of speech above noise; `None` is none.
        mask_time, mask_mel: longest masks over the spectrogram, in frames and in mel bins.
        seed: of the noise and the masks.
    """

    speed: float = 1.0
    noise: float | None = None
    mask_time: int = 0
    mask_mel: int = 0
    seed: int = 0


def drawn(options: DistilOptions, samples: int, random: np.random.Generator) -> Change:
    """A change of a window of so many samples, which fits into 30 s then too."""
    slowest = max(1 - options.speed, samples / WINDOW_SAMPLES)
    speed = float(random.uniform(slowest, 1 + options.speed)) if options.speed else 1.0
    noisy, decibels = random.random() < options.noise, float(random.uniform(LOUDEST, QUIETEST))
    seed = int(random.integers(1 << 31))
    return Change(speed, decibels if noisy else None, options.mask_time, options.mask_mel, seed)


def changed(sound: Samples, change: Change) -> Samples:
    """The sound at its speed and with its noise."""
    found = at_speed(sound, change.speed)
    if change.noise is None:
        return found
    power = float(np.mean(np.square(found)))
    random = np.random.default_rng(change.seed)
    level = np.sqrt(power / 10 ** (change.noise / 10))
    noise = random.standard_normal(len(found), dtype=np.float32)
    return (found + noise * np.float32(level)).astype(np.float32)


def masked(features: Features, change: Change, frames: int) -> Features:
    """The spectrogram with stretches of time and frequency at its mean.

    Args:
        features: (mel_bins, 3000) float32.
        frames: those that hold sound.
    """
    if not change.mask_time and not change.mask_mel:
        return features
    random = np.random.default_rng([change.seed, 1])
    found, mean = features.copy(), features.mean()
    for _ in range(MASKS):
        for axis, most, length in (
            (0, change.mask_mel, len(found)),
            (1, change.mask_time, frames),
        ):
            width = int(random.integers(0, min(most, length) + 1))
            first = int(random.integers(0, length - width + 1))
            found[(slice(None),) * axis + (slice(first, first + width),)] = mean
    return found
