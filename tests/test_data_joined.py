from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from commands import samples
from sounds import noise, tone, write_media, write_wav
from stenopool.audio import media
from stenopool.data import Recording, joined
from stenopool.data.wav import WavWriter
from stenopool.errors import NotMedia, OutputError


def heard(path: Path) -> np.ndarray:
    with media.Recording(path) as sound:
        return np.concatenate(list(sound))


def spoken(path: Path, seconds: float, text: str | None, *whose: str | None) -> Recording:
    speaker, chapter = whose
    write_wav(path, tone(seconds, hz=300 + 100 * seconds))
    return Recording(id=path.stem, audio=path, text=text, speaker=speaker, chapter=chapter)


def test_consecutive_recordings_of_a_chapter_become_one(tmp_path: Path) -> None:
    one = spoken(tmp_path / "a.wav", 1.0, "first", "s", "1")
    two = spoken(tmp_path / "b.wav", 0.5, "second", "s", "1")
    other = spoken(tmp_path / "c.wav", 0.25, "third", "s", "2")
    long, short = joined([one, two, other], tmp_path / "long")
    assert (long.id, long.text, long.duration) == ("s-1", "first second", 1.5)
    assert [(part.id, part.start, part.end, part.text) for part in long.parts] == [
        ("a", 0.0, 1.0, "first"),
        ("b", 1.0, 1.5, "second"),
    ]
    whole = np.concatenate([heard(one.audio), heard(two.audio)])
    assert np.abs(heard(long.audio) - whole).max() < 1 / 16_000
    assert (short.id, short.text) == ("s-2", "third")


def test_chapter_that_comes_again_later_is_another_recording(tmp_path: Path) -> None:
    parts = [
        spoken(tmp_path / f"{n}.wav", 0.2, "x", "s", chapter) for n, chapter in enumerate("121")
    ]
    assert [len(one.parts) for one in joined(parts, tmp_path / "long")] == [1, 1, 1]


def test_recordings_of_nobody_stay_as_they_are(tmp_path: Path) -> None:
    alone = [spoken(tmp_path / f"{n}.wav", 0.2, "", None, None) for n in range(2)]
    assert list(joined(alone, tmp_path / "long")) == alone


def test_reference_is_unknown_where_that_of_a_part_is(tmp_path: Path) -> None:
    parts = [
        spoken(tmp_path / "a.wav", 0.2, "x", "s", "1"),
        spoken(tmp_path / "b.wav", 0.2, None, "s", "1"),
    ]
    assert [one.text for one in joined(parts, tmp_path / "long")] == [None]


def test_parts_may_be_of_any_format(tmp_path: Path) -> None:
    stereo = np.stack([noise(1.0, rate=48_000), noise(1.0, rate=48_000)])
    path = write_media(tmp_path / "a.mp4", stereo, codec="aac")
    one = Recording(id="a", audio=path, text="", speaker="s")
    (long,) = joined([one, one], tmp_path / "long")
    assert long.duration == pytest.approx(2 * len(heard(path)) / 16_000)


def test_broken_part_is_named_and_leaves_no_file(tmp_path: Path) -> None:
    parts = [spoken(tmp_path / f"{n}.wav", 0.2, "x", "s", "1") for n in range(2)]
    parts[1].audio.write_bytes(b"no sound at all, in a file of some bytes")
    with pytest.raises(NotMedia, match=r"1\.wav"):
        list(joined(parts, tmp_path / "long"))
    assert list((tmp_path / "long").iterdir()) == []


def test_names_of_speakers_are_no_file_names(tmp_path: Path) -> None:
    one = spoken(tmp_path / "a.wav", 0.2, "x", "../../s", "/etc/1")
    (long,) = joined([one], tmp_path / "long")
    assert long.audio.parent == tmp_path / "long"


def test_writer_clips_and_says_where_it_cannot_write(tmp_path: Path) -> None:
    with WavWriter(tmp_path / "loud.wav") as wav:
        wav.write(np.array([2.0, -2.0, 0.5], dtype=np.float32))
    assert samples(tmp_path / "loud.wav") == pytest.approx([1.0, -1.0, 0.5], abs=1e-4)
    with pytest.raises(OutputError, match="none"):
        WavWriter(tmp_path / "none" / "a.wav")
