"""Log-mel spectrogram as Whisper computes it (Radford et al. 2022, section 2.2), in NumPy."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from stenopool.audio import SAMPLE_RATE, Samples

FFT_SAMPLES = 400  # 25 ms
HOP_SAMPLES = 160  # 10 ms
WINDOW_SECONDS = 30
WINDOW_SAMPLES = WINDOW_SECONDS * SAMPLE_RATE
WINDOW_FRAMES = WINDOW_SAMPLES // HOP_SAMPLES  # 3000
FRAMES_PER_SECOND = SAMPLE_RATE // HOP_SAMPLES  # 100

# What is worked on stays in the CPU's cache; and for larger products OpenBLAS would start threads,
# which take the cores from the model.
_FRAMES_AT_ONCE, _FRAMES_OF_A_PRODUCT = 60, 15

_SLANEY_BREAK_HZ = 1000.0  # the scale is linear below and logarithmic above
_SLANEY_HZ_PER_MEL = 200.0 / 3
_SLANEY_LOG_STEP = np.log(6.4) / 27.0

Features = NDArray[np.float32]


def log_mel(samples: Samples, mel_bins: int) -> Features:
    """Log-mel spectrogram of up to 30 s, padded with silence to 30 s.

    Args:
        samples: (samples,) float32 at 16 kHz; what exceeds 30 s is cut off.
        mel_bins: 80, or 128 for the large-v3 family.

    Returns:
        (mel_bins, 3000) float32.
    """
    half = FFT_SAMPLES // 2
    padded = np.zeros(WINDOW_SAMPLES + 2 * half, dtype=np.float32)
    count = min(len(samples), WINDOW_SAMPLES)
    padded[half : half + count] = samples[:count]
    padded[:half] = padded[half + 1 : FFT_SAMPLES + 1][::-1]  # reflection, as in the original
    frames_with_sound = min(WINDOW_FRAMES, -(-(count + half) // HOP_SAMPLES) + 1)
    frames = np.lib.stride_tricks.sliding_window_view(padded, FFT_SAMPLES)[::HOP_SAMPLES]
    filters = np.ascontiguousarray(mel_filters(mel_bins).T)
    mel = np.full((WINDOW_FRAMES, mel_bins), 1e-10, dtype=np.float32)
    for first in range(0, frames_with_sound, _FRAMES_AT_ONCE):
        some = slice(first, first + _FRAMES_AT_ONCE)
        spectrum = np.fft.rfft(frames[some] * _hann(), axis=1)
        power = np.square(spectrum.real) + np.square(spectrum.imag)  # (frames, 201)
        products = power.reshape(-1, _FRAMES_OF_A_PRODUCT, power.shape[1]) @ filters
        mel[some] = np.maximum(products.reshape(-1, mel_bins), 1e-10)
    log = np.log10(mel.T, out=np.empty((mel_bins, WINDOW_FRAMES), dtype=np.float32))
    return np.asarray((np.maximum(log, log.max() - 8.0) + 4.0) / 4.0, dtype=np.float32)


@cache
def _hann() -> Samples:
    window = np.hanning(FFT_SAMPLES + 1)[:-1]
    return window.astype(np.float32)


@cache
def mel_filters(mel_bins: int) -> NDArray[np.float32]:
    """Triangular filters of equal area on the Slaney scale, (mel_bins, 201) float32."""
    highest = _hz_to_mel(SAMPLE_RATE / 2)
    edges = _mel_to_hz(np.linspace(0.0, highest, mel_bins + 2))
    bins = np.fft.rfftfreq(FFT_SAMPLES, 1 / SAMPLE_RATE)
    rising = (bins[None, :] - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins[None, :]) / (edges[2:] - edges[1:-1])[:, None]
    area = 2.0 / (edges[2:] - edges[:-2])
    filters = np.maximum(0.0, np.minimum(rising, falling)) * area[:, None]
    return filters.astype(np.float32)


def _hz_to_mel(hz: float) -> float:
    if hz < _SLANEY_BREAK_HZ:
        return hz / _SLANEY_HZ_PER_MEL
    knee = _SLANEY_BREAK_HZ / _SLANEY_HZ_PER_MEL
    return float(knee + np.log(hz / _SLANEY_BREAK_HZ) / _SLANEY_LOG_STEP)


def _mel_to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    knee = _SLANEY_BREAK_HZ / _SLANEY_HZ_PER_MEL
    above = _SLANEY_BREAK_HZ * np.exp(_SLANEY_LOG_STEP * (mel - knee))
    return np.where(mel < knee, mel * _SLANEY_HZ_PER_MEL, above)
