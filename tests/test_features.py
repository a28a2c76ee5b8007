from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sounds import noise, pink_noise, tone
from stenopool.audio import SAMPLE_RATE
from stenopool.audio.features import WINDOW_FRAMES, WINDOW_SAMPLES, log_mel, mel_filters

Array = NDArray[np.float64]


# The definition, written a second time: slowly, in float64, with sums for the Fourier transform.


def reference_hz(mel: float) -> float:
    """Slaney's scale: 3 mels in 200 Hz up to 1 kHz, then 27 mels for a factor of 6.4."""
    return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)


def reference_filters(bins: int) -> Array:
    top = 15 + 27 * np.log(8.0) / np.log(6.4)  # 8 kHz
    edges = [reference_hz(top * index / (bins + 1)) for index in range(bins + 2)]
    filters = np.zeros((bins, 201))
    for row in range(bins):
        low, middle, high = edges[row : row + 3]
        for column in range(201):
            hz = column * 40.0
            slope = min((hz - low) / (middle - low), (high - hz) / (high - middle))
            filters[row, column] = max(0.0, slope) * 2 / (high - low)
    return filters


def reference_log_mel(sound: Array, bins: int) -> Array:
    padded = np.zeros(WINDOW_SAMPLES)
    padded[: min(len(sound), WINDOW_SAMPLES)] = sound[:WINDOW_SAMPLES]
    padded = np.pad(padded, (200, 0), mode="reflect")
    padded = np.pad(padded, (0, 200))
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    turns = np.outer(np.arange(400), np.arange(201)) / 400
    frames = np.stack([padded[at * 160 : at * 160 + 400] * window for at in range(3000)])
    power = (frames @ np.cos(2 * np.pi * turns)) ** 2 + (frames @ np.sin(2 * np.pi * turns)) ** 2
    log = np.log10(np.maximum(reference_filters(bins) @ power.T, 1e-10))
    clamped: Array = np.maximum(log, log.max() - 8)
    return (clamped + 4) / 4


def as_samples(sound: Array) -> NDArray[np.float32]:
    return sound.astype(np.float32)


SOUNDS = {
    "white": noise(3.0),
    "pink": pink_noise(7.7),
    "loud tone": tone(2.0, hz=1234.5, level=1.0),
    "full window": noise(30.0, level=0.3),
    "one frame": noise(0.01),
    "one sample": np.array([0.5]),
    "silence": np.zeros(16_000),
    "speech-like steps": np.repeat(noise(1.0, seed=5), 3),
    "odd length": noise(1.23456),
}


@pytest.mark.parametrize("bins", [80, 128])
@pytest.mark.parametrize("name", SOUNDS)
def test_spectrogram_equals_the_definition(name: str, bins: int) -> None:
    sound = SOUNDS[name]
    np.testing.assert_allclose(
        log_mel(as_samples(sound), bins), reference_log_mel(sound, bins), atol=1e-3
    )


@hypothesis_settings(max_examples=8, deadline=None)
@given(st.integers(0, 30_000), st.floats(1e-6, 1.0), st.integers(0, 2**32 - 1))
def test_spectrogram_of_any_noise_equals_the_definition(
    samples: int, level: float, seed: int
) -> None:
    sound = noise(samples / SAMPLE_RATE, level=level, seed=seed)
    np.testing.assert_allclose(
        log_mel(as_samples(sound), 80), reference_log_mel(sound, 80), atol=1e-3
    )


@pytest.mark.parametrize("bins", [80, 128])
@pytest.mark.parametrize("seconds", [0.0, 1.0, 30.0, 31.0])
def test_shape_is_always_thirty_seconds(bins: int, seconds: float) -> None:
    features = log_mel(as_samples(noise(seconds)), bins)
    assert features.shape == (bins, WINDOW_FRAMES)
    assert features.dtype == np.float32
    assert features.flags.c_contiguous


def test_sound_after_thirty_seconds_is_cut_off() -> None:
    sound = as_samples(noise(33.0))
    np.testing.assert_array_equal(log_mel(sound, 80), log_mel(sound[:WINDOW_SAMPLES], 80))


@pytest.mark.parametrize("hz", [120.0, 440.0, 1000.0, 2500.0, 6000.0])
def test_tone_lights_the_mel_bin_of_its_pitch(hz: float) -> None:
    features = log_mel(as_samples(tone(2.0, hz=hz)), 80)
    centres = [reference_hz(index * 45.245640 / 81) for index in range(1, 81)]
    nearest = int(np.argmin(np.abs(np.array(centres) - hz)))
    assert abs(int(features[:, 100].argmax()) - nearest) <= 1


def test_tone_lights_only_the_frames_in_which_it_sounds() -> None:
    sound = np.concatenate([np.zeros(SAMPLE_RATE), tone(1.0), np.zeros(SAMPLE_RATE)])
    energy = log_mel(as_samples(sound), 80).max(axis=0)
    lit = np.flatnonzero(energy > energy.min() + 0.5)
    assert lit[0] == pytest.approx(100, abs=2)
    assert lit[-1] == pytest.approx(200, abs=2)


def test_values_stay_within_eight_decades_of_the_loudest() -> None:
    features = log_mel(as_samples(tone(1.0)), 80)
    assert features.max() - features.min() == pytest.approx(2.0, abs=1e-5)


@pytest.mark.parametrize("bins", [80, 128])
def test_filters_are_triangles_of_equal_area_without_gaps(bins: int) -> None:
    filters = mel_filters(bins)
    np.testing.assert_allclose(filters, reference_filters(bins), atol=1e-6)
    covered = filters.sum(axis=0)
    assert (covered[2:-1] > 0).all()
    wide = [row for row in filters if np.count_nonzero(row) >= 8]
    assert wide
    # The area of a triangle of height 2 / width is 1; samples of it stand 40 Hz apart.
    np.testing.assert_allclose([row.sum() * 40 for row in wide], 1.0, atol=0.05)
