from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from commands import samples
from sounds import noise, tone, write_wav
from stenopool.audio import media
from stenopool.data import Part, Recording
from stenopool.errors import NotMedia, UnknownName, UsageError
from stenopool.evaluation.conditions import ALL, condition, heard
from stenopool.evaluation.sounds import FRAME, survey

Hear = Callable[..., np.ndarray]


def decoded(path: Path) -> np.ndarray:
    with media.Recording(path) as sound:
        return np.concatenate(list(sound))


@pytest.fixture
def clip(speech_wav: Path, tmp_path: Path) -> Recording:
    """8 s of real speech."""
    path = write_wav(tmp_path / "clip.wav", samples(speech_wav, 8.0), rate=48_000)
    return Recording(id="clip", audio=path, text="it was the best of times", speaker="reader")


@pytest.fixture
def others(speech_wav: Path, tmp_path: Path) -> list[Recording]:
    """Four other pieces of the same reader, said to be of others."""
    sound = samples(speech_wav)
    found = []
    for number in range(4):
        start = (10 + 8 * number) * 48_000
        path = tmp_path / f"other-{number}.wav"
        write_wav(path, sound[start : start + 6 * 48_000], rate=48_000)
        found.append(Recording(id=path.name, audio=path, text="words", speaker=f"s{number}"))
    return found


@pytest.fixture
def hear(tmp_path: Path, others: list[Recording]) -> Hear:
    folder = tmp_path / "heard"
    folder.mkdir()

    def made(recording: Recording, name: str, seed: int = 0) -> np.ndarray:
        with heard(
            recording, condition(name), folder, others=[recording, *others], seed=seed
        ) as path:
            sound = decoded(path)
        assert list(folder.iterdir()) == []
        return sound

    return made


def noise_of(noisy: np.ndarray, clean: np.ndarray) -> tuple[np.ndarray, float]:
    """What was added, and how loud the clean sound is in the mixture (least squares)."""
    scale = float(noisy @ clean / (clean @ clean))
    return noisy - scale * clean, scale


@pytest.mark.parametrize("name", ["noise-20", "noise-10", "noise-5", "noise-0", "pink-10"])
def test_noise_is_as_far_below_the_speech_as_it_says(
    hear: Hear, clip: Recording, name: str
) -> None:
    clean = decoded(clip.audio)
    added, scale = noise_of(hear(clip, name), clean)
    level = scale * survey([clean]).level
    ratio = 20 * np.log10(level / np.sqrt(np.mean(added**2)))
    assert ratio == pytest.approx(float(name.rpartition("-")[2]), abs=0.3)


def test_babble_is_speech_of_others_at_its_level(hear: Hear, clip: Recording) -> None:
    clean = decoded(clip.audio)
    added, scale = noise_of(hear(clip, "babble-5"), clean)
    ratio = 20 * np.log10(scale * survey([clean]).level / np.sqrt(np.mean(added**2)))
    assert ratio == pytest.approx(5, abs=1.5)  # what is heard of the loop differs from the whole
    spectrum = np.abs(np.fft.rfft(added)) ** 2
    below = spectrum[: len(spectrum) // 2].sum() / spectrum.sum()
    assert below > 0.9  # white noise has half of its power below 4 kHz


def test_babble_takes_no_recording_in_which_nothing_is_said_nor_itself(
    clip: Recording, others: list[Recording], tmp_path: Path
) -> None:
    silent = [replace(one, text="") for one in others]
    with (
        pytest.raises(UsageError, match="nobody else can babble behind `clip`"),
        heard(clip, condition("babble-10"), tmp_path, others=[clip, *silent], seed=0),
    ):
        pass


def test_babble_goes_on_where_another_recording_is_broken(
    clip: Recording, others: list[Recording], tmp_path: Path
) -> None:
    others[0].audio.write_bytes(b"not a sound at all, though it has bytes")
    with heard(clip, condition("babble-10"), tmp_path, others=others, seed=0) as path:
        assert len(decoded(path)) == len(decoded(clip.audio))


def test_every_condition_is_repeatable_and_depends_on_seed_and_recording(
    hear: Hear, clip: Recording
) -> None:
    random = [one for one in ALL if one not in ("clean", "telephone", "clipping")]
    for name in random:
        first = hear(clip, name)
        assert np.array_equal(first, hear(clip, name)), name
        assert not np.array_equal(first, hear(clip, name, seed=1)), name
        assert not np.array_equal(first, hear(replace(clip, id="another"), name)), name


def test_nothing_is_as_loud_as_full_scale(hear: Hear, clip: Recording) -> None:
    for name in ("noise-0", "pink-0", "babble-0", "noise--10", "reverberation"):
        assert (np.abs(hear(clip, name)) >= 0.9999).mean() < 1e-4, name


def test_clean_recording_is_its_own_file(clip: Recording, tmp_path: Path) -> None:
    with heard(clip, condition("clean"), tmp_path, others=[], seed=0) as path:
        assert path == clip.audio


def test_telephone_has_nothing_above_its_band(hear: Hear, clip: Recording) -> None:
    found = hear(clip, "telephone")
    spectrum = np.abs(np.fft.rfft(found)) ** 2
    hertz = np.fft.rfftfreq(len(found), 1 / 16_000)
    assert spectrum[hertz > 4300].sum() / spectrum.sum() < 1e-5
    assert len(found) == len(decoded(clip.audio))


def test_reverberation_rings_after_the_end(hear: Hear, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", noise(1.0, level=0.2))
    found = hear(Recording(id="a", audio=path, text="a"), "reverberation")
    assert len(found) == 16_000 + 9600 - 1
    assert np.abs(found[16_000:17_600]).mean() > 20 * np.abs(found[24_000:]).mean() > 0


def test_clipping_is_at_the_stated_level(hear: Hear, clip: Recording) -> None:
    clean, found = decoded(clip.audio), hear(clip, "clipping")
    limit = survey([clean]).level * 10 ** (6 / 20)
    cut = np.abs(clean) > limit * 1.001
    assert cut.mean() > 0.005
    assert np.abs(found[cut]) == pytest.approx(0.99, abs=1e-3)
    assert found[~cut] == pytest.approx(clean[~cut] * 0.99 / limit, abs=2e-3)


def test_gap_is_in_the_quietest_place_of_a_recording_without_borders(
    hear: Hear, clip: Recording
) -> None:
    clean, found = decoded(clip.audio), hear(clip, "gaps")
    assert len(found) == len(clean) + 15 * 16_000
    place = int(np.argmax(np.abs(found[: len(clean)] - clean) > 1e-3))
    place -= place % FRAME
    assert len(clean) // 3 - FRAME <= place <= 2 * len(clean) // 3
    assert found[: place - FRAME] == pytest.approx(clean[: place - FRAME], abs=1e-4)
    assert found[-FRAME * 10 :] == pytest.approx(clean[-FRAME * 10 :], abs=1e-4)


def test_gaps_are_at_borders_that_are_not_too_close(hear: Hear, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "long.wav", tone(80.0, level=0.3))
    ends = (20.0, 35.0, 50.0, 70.0, 80.0)
    parts = tuple(
        Part(f"{end}", start, end, "x") for start, end in zip((0.0, *ends), ends, strict=False)
    )
    found = hear(Recording(id="long", audio=path, text="x", parts=parts), "gaps")
    assert len(found) == (80 + 2 * 15) * 16_000
    frames = np.abs(found.reshape(-1, 1600)).max(axis=1)
    silent = np.flatnonzero(frames < 0.01)  # 5 s each: after the music, then before it
    assert silent[0] == pytest.approx(450, abs=1)
    assert silent[-1] == pytest.approx(450 + 50 + 350 + 49, abs=1)
    assert len(silent) == pytest.approx(100, abs=4)


@pytest.mark.parametrize("name", ["noise-10", "pink-10", "clipping", "gaps", "reverberation"])
def test_digital_silence_can_be_heard_under_every_condition(
    hear: Hear, tmp_path: Path, name: str
) -> None:
    path = write_wav(tmp_path / "silence.wav", np.zeros(16_000))
    found = hear(Recording(id="silence", audio=path, text=""), name)
    assert np.isfinite(found).all()
    assert (np.abs(found).max() > 0) == (name in ("noise-10", "pink-10", "gaps"))


def test_recording_that_is_shorter_than_a_frame_can_be_heard(hear: Hear, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "short.wav", tone(0.01))
    for name in ALL:
        assert len(hear(Recording(id="short", audio=path, text="a"), name)) >= 160


def test_broken_recording_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"not a sound at all, though it has bytes")
    broken = Recording(id="../../a", audio=tmp_path / "a.wav", text="a")
    with (
        pytest.raises(NotMedia),
        heard(broken, condition("noise-10"), tmp_path, others=[], seed=0),
    ):
        pass
    assert [one.name for one in tmp_path.iterdir()] == ["a.wav"]


def test_file_is_removed_when_its_use_fails(clip: Recording, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    with (
        pytest.raises(KeyboardInterrupt),
        heard(clip, condition("noise-10"), folder, others=[], seed=0) as path,
    ):
        assert path.is_file()
        raise KeyboardInterrupt
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ALL)
def test_every_condition_says_what_it_means(name: str) -> None:
    assert condition(name).name == name
    assert len(condition(name).meaning) > 10


@pytest.mark.parametrize("name", ["", "noise", "noise-", "noise-99", "noise-1.5", "pink10", "all"])
def test_unknown_condition_is_refused_with_those_that_there_are(name: str) -> None:
    with pytest.raises(UnknownName, match="unknown condition") as raised:
        condition(name)
    assert "telephone" in raised.value.do
