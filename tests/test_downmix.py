from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sounds import noise, tone
from stenopool.audio import Samples
from stenopool.audio.downmix import ABSURD, Downmix


def channels(*sounds: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Samples:
    return np.stack(sounds).astype(np.float32)


def level(samples: Samples) -> float:
    return float(np.sqrt(np.mean(np.square(samples))))


VOICE = tone(1.0, hz=220.0)
SILENCE = np.zeros_like(VOICE)


def test_one_channel_is_left_alone() -> None:
    block = channels(VOICE)
    np.testing.assert_array_equal(Downmix()(block), block[0])


def test_equal_channels_stay_as_loud_as_each() -> None:
    np.testing.assert_allclose(Downmix()(channels(VOICE, VOICE)), VOICE, atol=1e-6)


@pytest.mark.parametrize("at", [0, 1])
def test_voice_on_one_of_two_channels_survives(at: int) -> None:
    sounds = [SILENCE, SILENCE]
    sounds[at] = VOICE
    np.testing.assert_allclose(Downmix()(channels(*sounds)), VOICE / 2, atol=1e-6)


@pytest.mark.parametrize("scale", [-1.0, -0.6, -1.4])
def test_voice_in_opposite_phase_survives(scale: float) -> None:
    mixed = Downmix()(channels(VOICE, scale * VOICE))
    assert level(mixed) == pytest.approx(level(channels(VOICE)) * (1 - scale) / 2, rel=1e-3)


def test_opposite_phase_among_six_channels_survives() -> None:
    mixed = Downmix()(channels(VOICE, -VOICE, VOICE, -VOICE, VOICE, -VOICE))
    assert level(mixed) == pytest.approx(level(channels(VOICE)), rel=1e-3)


def test_different_sounds_are_averaged() -> None:
    left, right = noise(1.0, seed=1), noise(1.0, seed=2)
    np.testing.assert_allclose(Downmix()(channels(left, right)), (left + right) / 2, atol=1e-6)


def test_phase_is_remembered_through_a_silent_block() -> None:
    mix = Downmix()
    mix(channels(VOICE, -VOICE))
    faint = VOICE * 1e-6
    assert level(mix(channels(faint, -faint))) == pytest.approx(level(channels(faint)), rel=1e-3)


def test_number_of_channels_may_change_on_the_way() -> None:
    mix = Downmix()
    mix(channels(VOICE, -VOICE))
    np.testing.assert_allclose(mix(channels(VOICE, VOICE, VOICE)), VOICE, atol=1e-6)
    np.testing.assert_allclose(mix(channels(VOICE)), VOICE, atol=1e-6)


def test_invalid_samples_become_silence_and_are_counted() -> None:
    mix = Downmix()
    block = channels(VOICE, VOICE)
    block[:, 10] = np.nan
    block[0, 11] = np.inf
    block[1, 12] = -2 * ABSURD
    mixed = mix(block)
    assert mixed[10] == 0.0
    assert mixed[11] == pytest.approx(VOICE[11] / 2)
    np.testing.assert_allclose(mixed[13:], VOICE[13:], atol=1e-6)
    assert (mix.invalid, mix.any_valid) == (4, True)


def test_block_without_a_valid_sample_is_known() -> None:
    mix = Downmix()
    assert not mix(np.full((2, 100), np.nan, dtype=np.float32)).any()
    assert (mix.invalid, mix.any_valid) == (200, False)


def test_input_is_not_changed() -> None:
    block = channels(VOICE, -VOICE)
    block[0, 5] = np.nan
    before = block.copy()
    Downmix()(block)
    np.testing.assert_array_equal(block, before)


def test_recording_beyond_full_scale_is_scaled_down_as_a_whole() -> None:
    mix = Downmix()
    mixed = mix(channels(8 * VOICE))
    np.testing.assert_allclose(mixed, 8 * VOICE / np.abs(8 * VOICE).max(), atol=1e-5)
    later = mix(channels(VOICE))
    np.testing.assert_allclose(later, VOICE / np.abs(8 * VOICE).max(), atol=1e-5)


def test_full_scale_itself_is_left_alone() -> None:
    square = np.where(VOICE >= 0, 1.0, -1.0)
    np.testing.assert_array_equal(Downmix()(channels(square)), square)


def block_of(channels: int) -> st.SearchStrategy[Samples]:
    shape = st.tuples(st.just(channels), st.integers(1, 50))
    return arrays(np.float32, shape, elements=st.floats(width=32))


streams = st.integers(1, 9).flatmap(lambda count: st.lists(block_of(count), min_size=1, max_size=4))


@given(streams)
def test_whatever_comes_in_finite_samples_within_full_scale_come_out(
    stream: list[Samples],
) -> None:
    mix = Downmix()
    for block in stream:
        mixed = mix(block)
        assert mixed.shape == (block.shape[1],)
        assert mixed.dtype == np.float32
        assert np.isfinite(mixed).all()
        assert np.abs(mixed).max() <= 1.0
