from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from sounds import tone, write_wav
from stenopool.errors import NotMedia, RecordingTooLong
from stenopool.training.loading import Audio, ahead, at_speed, with_pauses


def test_items_come_in_their_order_whoever_is_faster() -> None:
    def slow_if_even(number: int) -> int:
        time.sleep(0.01 if number % 2 == 0 else 0)
        return number * number

    assert list(ahead(range(40), slow_if_even, workers=3)) == [n * n for n in range(40)]


def test_work_is_done_ahead_but_not_without_end() -> None:
    begun: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        return number

    items = ahead(range(1000), work, workers=2)
    next(items)
    time.sleep(0.1)
    assert 2 < len(begun) < 15
    items.close()


def test_error_is_raised_where_its_item_would_come() -> None:
    def work(number: int) -> int:
        if number == 3:
            raise NotMedia("no sound", do="Look")
        return number

    found = []
    with pytest.raises(NotMedia):
        found += list(ahead(range(9), work, workers=2))  # what came before is lost with the list
    items = ahead(range(9), work, workers=2)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(NotMedia):
        next(items)


def test_threads_end_with_the_iteration() -> None:
    items = ahead(range(1000), lambda number: number, workers=2)
    next(items)
    items.close()
    assert not [one for one in threading.enumerate() if "loading" in one.name]


def test_only_so_many_bytes_are_kept(tmp_path: Path) -> None:
    paths = [write_wav(tmp_path / f"{n}.wav", tone(1.0, hz=200.0 + n)) for n in range(3)]
    audio = Audio(bytes=2 * 16_000 * 4, longest=10)
    first = [audio.samples(path) for path in paths]
    for path in paths:
        path.unlink()
    assert audio.samples(paths[0]) is first[0]
    assert audio.samples(paths[1]) is first[1]
    with pytest.raises(Exception, match="no such file"):
        audio.samples(paths[2])


def test_kept_samples_are_those_that_are_decoded_and_cannot_be_changed(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", tone(0.3, rate=8000), rate=8000)
    with_room, without = Audio(bytes=1 << 20, longest=10), Audio(bytes=0, longest=10)
    for _ in range(2):
        np.testing.assert_array_equal(with_room.samples(path), without.samples(path))
    assert len(with_room.samples(path)) == 4800
    with pytest.raises(ValueError, match="read-only"):
        with_room.samples(path)[0] = 1.0


def test_recording_that_is_longer_than_any_should_be_is_refused(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", tone(5.0))
    with pytest.raises(RecordingTooLong):
        Audio(bytes=0, longest=2.0).samples(path)


def test_pauses_are_silence_between_recordings() -> None:
    one, other = np.ones(100, dtype=np.float32), np.full(50, 2, dtype=np.float32)
    joined = with_pauses([one, other], [0.01])
    assert joined.dtype == np.float32
    assert joined.tolist() == [1.0] * 100 + [0.0] * 160 + [2.0] * 50
    assert with_pauses([one], []) is one


@pytest.mark.parametrize("speed", [0.8, 1.0, 1.25])
def test_faster_sound_is_shorter_and_higher(speed: float) -> None:
    sound = tone(1.0, hz=400.0).astype(np.float32)
    found = at_speed(sound, speed)
    assert found.dtype == np.float32
    assert len(found) == round(16_000 / speed)
    spectrum = np.abs(np.fft.rfft(found))
    assert np.argmax(spectrum) * 16_000 / len(found) == pytest.approx(400 * speed, abs=1)
