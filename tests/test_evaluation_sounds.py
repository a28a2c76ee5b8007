from __future__ import annotations

from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sounds import noise, tone
from stenopool.audio import SAMPLE_RATE, Samples, regrouped
from stenopool.evaluation import sounds
from stenopool.evaluation.sounds import survey


def blocks(sound: NDArray[np.floating], size: int = 16_000) -> list[Samples]:
    return list(regrouped([sound.astype(np.float32)], size))


def whole(parts: object) -> Samples:
    return np.concatenate(list(parts))  # type: ignore[call-overload]


def seeded(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def rms(sound: NDArray[np.floating]) -> float:
    return float(np.sqrt(np.mean(np.square(sound, dtype=np.float64))))


def power_between(sound: Samples, low: float, high: float) -> float:
    """Power at the frequencies from `low` to `high` Hz."""
    spectrum = np.abs(np.fft.rfft(sound.astype(np.float64))) ** 2
    hertz = np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE)
    return float(spectrum[(hertz >= low) & (hertz < high)].sum())


# --- survey ------------------------------------------------------------------------------------


def test_speech_level_leaves_out_the_pauses() -> None:
    speech = noise(2.048, level=0.1)
    paused = np.concatenate([np.zeros(64_000), speech, 1e-4 * noise(4.0, level=1.0)])
    found = survey(blocks(paused))
    assert found.level == pytest.approx(0.1, rel=0.05)
    assert found.samples == len(paused)
    assert found.peak == pytest.approx(np.abs(paused).max())


@pytest.mark.parametrize("size", [1, 100, 512, 16_000, 100_000])
def test_survey_does_not_depend_on_the_blocks(size: int) -> None:
    sound = noise(0.7)[: 10_000 if size == 1 else None]
    found, expected = survey(blocks(sound, size)), survey([sound.astype(np.float32)])
    assert found.level == expected.level
    assert np.array_equal(found.powers, expected.powers)
    assert found.powers[0] == pytest.approx(np.mean(sound[: sounds.FRAME] ** 2), rel=1e-5)


def test_digital_silence_has_no_level() -> None:
    assert survey(blocks(np.zeros(5000))).level == 0.0
    assert survey([]).level == 0.0


# --- noise -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [sounds.white_noise, sounds.pink_noise])
def test_noise_has_the_power_that_it_says_everywhere(kind: object) -> None:
    made = whole(islice(kind(seeded()), 30))  # type: ignore[operator]
    assert rms(made) == pytest.approx(1.0, rel=0.03)
    # Also where blocks meet: pink noise is made of overlapping ones.
    for start in range(0, 400_000, 25_000):
        assert rms(made[start : start + 25_000]) == pytest.approx(1.0, rel=0.35)


def test_white_noise_is_flat_and_pink_noise_falls_by_half_each_octave() -> None:
    white = whole(islice(sounds.white_noise(seeded()), 20))
    pink = whole(islice(sounds.pink_noise(seeded()), 40))
    for low in (125, 250, 500, 1000, 2000):
        octaves = [power_between(white, edge, 2 * edge) for edge in (low, 2 * low)]
        assert octaves[1] / octaves[0] == pytest.approx(2.0, rel=0.1)
        octaves = [power_between(pink, edge, 2 * edge) for edge in (low, 2 * low)]
        assert octaves[1] / octaves[0] == pytest.approx(1.0, rel=0.1)


def test_mixture_is_the_sound_and_the_noise() -> None:
    sound = noise(5.0, seed=3).astype(np.float32)
    mixture = whole(sounds.mixed(blocks(sound, 7000), sounds.white_noise(seeded()), 0.2, 0.5))
    expected = 0.5 * (sound + 0.2 * whole(islice(sounds.white_noise(seeded()), 2))[: len(sound)])
    assert mixture == pytest.approx(expected, abs=1e-6)


def test_repeated_sound_goes_on_from_its_start() -> None:
    three = np.arange(3, dtype=np.float32)
    assert whole(islice(sounds.repeated(three, 2), 3)).tolist() == [2, 0, 1, 2, 0, 1, 2]


# --- filters -----------------------------------------------------------------------------------


@given(
    length=st.integers(1, 3000),
    taps=st.integers(1, 300),
    skip=st.integers(0, 299),
    seed=st.integers(0),
)
def test_filter_in_blocks_is_the_filter_of_the_whole(
    length: int, taps: int, skip: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    sound, kernel = random.standard_normal(length), random.standard_normal(taps)
    skip = min(skip, taps - 1)
    found = whole(sounds.convolved(blocks(sound, 97), kernel, skip=skip))
    expected = np.convolve(sound.astype(np.float32), kernel)[skip:]
    assert found == pytest.approx(expected, abs=1e-4)


def test_filter_of_more_than_one_transform_has_no_seams() -> None:
    sound, kernel = noise(12.0), seeded().standard_normal(9600) / 100
    expected = np.convolve(sound.astype(np.float32), kernel)
    assert whole(sounds.convolved(blocks(sound), kernel)) == pytest.approx(expected, abs=1e-4)


# --- telephone ---------------------------------------------------------------------------------


def test_telephone_keeps_its_band_and_the_length() -> None:
    sound = noise(8.0, level=0.1)
    found = whole(sounds.telephone(blocks(sound)))
    assert len(found) == len(sound)
    passed = power_between(found, 400, 3300) / power_between(sound.astype(np.float32), 400, 3300)
    assert passed == pytest.approx(1.0, rel=0.02)
    inside = power_between(found, 400, 3300) / 2900
    # Below the band stays the noise of 8 bits; above it there is nothing at 8 kHz.
    assert 10 * np.log10(power_between(found, 20, 150) / 130 / inside) < -30
    assert 10 * np.log10(power_between(found, 4300, 8000) / 3700 / inside) < -50


@pytest.mark.parametrize("size", [1600, 16_000, 65_537])
def test_telephone_neither_delays_nor_depends_on_blocks(size: int) -> None:
    sound = np.concatenate([np.zeros(16_000), tone(1.0, hz=1000), np.zeros(16_000)])
    found = whole(sounds.telephone(blocks(sound, size)))
    assert found == pytest.approx(whole(sounds.telephone(blocks(sound))), abs=2e-3)
    middle = slice(17_000, 31_000)
    assert found[middle] == pytest.approx(sound[middle], abs=0.02)


def test_mu_law_is_that_of_an_independent_codec(tmp_path: Path) -> None:
    """FFmpeg's G.711 encoder and decoder, on every 16-bit value."""
    values = np.arange(-32768, 32768, dtype=np.int16)
    path = tmp_path / "mu.wav"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("pcm_mulaw", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(values.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = 8000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            out.mux(packet)
    with av.open(str(path)) as back:
        decoded = np.concatenate([one.to_ndarray().ravel() for one in back.decode(audio=0)])
    ours = np.round(sounds.mu_law((values / 32768).astype(np.float32)) * 32768)
    # Both have the same 255 values; on the border between two of them either is right.
    assert set(ours) == set(decoded.astype(float))
    assert np.mean(ours == decoded) > 0.99
    steps = np.maximum(np.abs(values.astype(int)) / 16, 8)
    assert (np.abs(ours - decoded) <= steps + 8).all()


# --- rooms, clipping, gaps ---------------------------------------------------------------------


def test_echo_of_a_room_falls_by_60_db_in_its_time() -> None:
    response = sounds.room(seeded(), rt60=0.6)
    assert np.sum(response**2) == pytest.approx(1.0)
    # Schroeder's backward integration, and the slope of its first 30 dB.
    tail = np.cumsum(response[:0:-1] ** 2)[::-1]
    decay = 10 * np.log10(tail / tail[0])
    fitted = slice(np.argmax(decay < -5), np.argmax(decay < -30))
    slope = np.polyfit(np.arange(len(tail))[fitted] / SAMPLE_RATE, decay[fitted], 1)[0]
    assert -60 / slope == pytest.approx(0.6, rel=0.1)


def test_clipped_sound_is_cut_off_and_as_loud_as_said() -> None:
    found = whole(sounds.clipped(blocks(tone(1.0, level=0.8)), 0.4, 2.0))
    assert np.abs(found).max() == pytest.approx(0.8)
    assert np.mean(np.abs(found) > 0.799) > 0.6


@given(
    length=st.integers(0, 300),
    places=st.lists(st.integers(0, 299), max_size=4),
    size=st.integers(1, 100),
)
def test_inserted_sounds_stand_where_they_should(length: int, places: list[int], size: int) -> None:
    sound = np.arange(length, dtype=np.float32)
    gaps = [(place, np.full(2, -1, np.float32)) for place in sorted(places) if place < length]
    found = whole([np.zeros(0, np.float32), *sounds.inserted(blocks(sound, size), gaps)])
    expected = list(sound)
    for place, gap in reversed(gaps):
        expected[place:place] = list(gap)
    assert found.tolist() == expected


def test_music_has_the_level_and_the_length_and_no_two_are_alike() -> None:
    one, two = (sounds.music(seeded(seed), seconds=10, level=0.05) for seed in (1, 2))
    assert len(one) == 160_000
    assert rms(one) == pytest.approx(0.05, rel=1e-3)
    assert rms(one - two) > 0.01
