from __future__ import annotations

import tracemalloc
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stenopool.audio import SAMPLE_RATE, Samples
from stenopool.audio.media import Recording
from stenopool.audio.vad import CALL_FRAMES, FRAME_SAMPLES, SpeechDetector, VadOptions
from stenopool.audio.windows import PAD_SAMPLES, Piece, Window, joined, packed, speech_pieces

CAPACITY = 30 * SAMPLE_RATE
OPTIONS = VadOptions()


def piece(start: int, length: int, *, before: int = 0, after: int = 0) -> Piece:
    """A piece whose samples are their own positions in the recording."""
    samples = np.arange(start, start + length).astype(np.float32)
    return Piece(samples, start, start + length, start + before, start + length - after)


@st.composite
def piece_lists(draw: st.DrawFn, longest: int = 400) -> list[Piece]:
    """Pieces in order, with and without holes between them."""
    pieces: list[Piece] = []
    at = 0
    for _ in range(draw(st.integers(1, 8))):
        at += draw(st.sampled_from([0, 0, 1, 50, 5000]))
        length = draw(st.integers(1, longest))
        before = draw(st.integers(0, length))
        after = draw(st.integers(0, length - before))
        pieces.append(piece(at, length, before=before, after=after))
        at += length
    return pieces


windows = piece_lists().map(lambda pieces: Window(tuple(pieces)))


def assert_well_formed(pieces: Iterable[Piece]) -> None:
    pieces = list(pieces)
    for each in pieces:
        assert each.start <= each.voice_start <= each.voice_end <= each.end
        assert len(each.samples) == each.length
        np.testing.assert_array_equal(each.samples, np.arange(each.start, each.end))
    assert all(left.end <= right.start for left, right in pairwise(pieces))


# --- a window ---------------------------------------------------------------------------------


def test_window_knows_its_lengths_and_end() -> None:
    window = Window((piece(16_000, 8_000, before=1_000, after=2_000), piece(64_000, 4_000)))
    assert window.length == 12_000
    assert window.offsets == (0, 8_000, 12_000)
    assert window.seconds == 0.75
    assert window.speech_seconds == 9_000 / SAMPLE_RATE
    assert window.end == 68_000 / SAMPLE_RATE
    assert window.samples.shape == (12_000,)


@given(windows, st.data())
def test_two_parts_of_a_window_are_the_whole(window: Window, data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, window.length - 1)) if window.length > 1 else 1
    first, rest = window.up_to(cut), window.from_time(cut / SAMPLE_RATE)
    assert first.length == cut
    assert_well_formed(first.pieces)
    parts = [first.samples]
    voiced = first.speech_seconds
    if rest is not None:
        assert_well_formed(rest.pieces)
        parts.append(rest.samples)
        voiced += rest.speech_seconds
    assert (rest is None) == (cut == window.length)
    np.testing.assert_array_equal(np.concatenate(parts), window.samples)
    assert voiced == pytest.approx(window.speech_seconds)


@given(windows)
def test_whole_window_from_its_beginning_and_nothing_from_its_end(window: Window) -> None:
    assert window.from_time(0.0) == window
    assert window.from_time(window.seconds) is None
    assert window.up_to(window.length) == window


@given(windows.filter(lambda window: window.length > 1))
def test_halves_are_two_windows_that_make_the_whole(window: Window) -> None:
    first, second = window.halves()
    assert first.length > 0
    assert second.length > 0
    assert_well_formed([*first.pieces, *second.pieces])
    np.testing.assert_array_equal(np.concatenate([first.samples, second.samples]), window.samples)


def test_halves_part_between_the_pieces_nearest_to_the_middle() -> None:
    pieces = tuple(piece(at * 1000, length) for at, length in enumerate([100, 300, 350, 50]))
    first, second = Window(pieces).halves()
    assert (first.pieces, second.pieces) == (pieces[:2], pieces[2:])


def test_single_piece_is_parted_where_it_is_quietest() -> None:
    loud = np.full(10 * SAMPLE_RATE, 0.5, dtype=np.float32)
    loud[6 * SAMPLE_RATE : 6 * SAMPLE_RATE + 3200] = 0.0  # 0.2 s of silence, right of the middle
    whole = Piece(loud, 0, len(loud), 0, len(loud))
    first, _ = Window((whole,)).halves()
    assert 6 * SAMPLE_RATE <= first.length <= 6 * SAMPLE_RATE + 3200


@given(piece_lists())
def test_joining_pieces_one_by_one_gives_the_window_of_all(pieces: list[Piece]) -> None:
    window: Window | None = None
    for each in pieces:
        window = joined(window, each)
        assert window.length == window.offsets[-1] == len(window.samples)  # nothing stale is kept
    assert window == Window(tuple(pieces))


# --- packing ----------------------------------------------------------------------------------


@given(piece_lists(longest=400), st.integers(400, 1500))
def test_packed_windows_hold_all_pieces_in_order_within_capacity(
    pieces: list[Piece], capacity: int
) -> None:
    filled = list(packed(pieces, capacity))
    assert [each for window in filled for each in window.pieces] == pieces
    assert all(0 < window.length <= capacity for window in filled)


@given(piece_lists(longest=400), st.integers(400, 1500))
def test_packed_windows_are_as_full_as_they_can_be(pieces: list[Piece], capacity: int) -> None:
    for window, following in pairwise(packed(pieces, capacity)):
        assert window.length + following.pieces[0].length > capacity


def test_nothing_packed_is_no_window() -> None:
    assert list(packed([], CAPACITY)) == []


# --- pieces of a stream -----------------------------------------------------------------------


class Scripted(SpeechDetector):
    """Hears speech where a sample of the frame is positive; as the real one, in calls of 8.2 s."""

    def __init__(self, call_frames: int = CALL_FRAMES) -> None:
        self._call = call_frames * FRAME_SAMPLES

    def probabilities(self, blocks: Iterable[Samples]) -> Iterator[Samples]:
        held = np.zeros(0, dtype=np.float32)
        for block in blocks:
            held = np.concatenate([held, block])
            while len(held) >= self._call:
                yield self._heard(held[: self._call])
                held = held[self._call :]
        if len(held):
            yield self._heard(held)

    def _heard(self, samples: Samples) -> Samples:
        padded = np.pad(samples, (0, -len(samples) % FRAME_SAMPLES))
        loudest: Samples = padded.reshape(-1, FRAME_SAMPLES).max(axis=1)
        return (loudest > 0).astype(np.float32)


def seconds_of(*parts: tuple[float, bool]) -> Samples:
    """+position where there is speech, −position where there is none (position from 1)."""
    spoken = np.concatenate([np.full(round(length * SAMPLE_RATE), on) for length, on in parts])
    position = np.arange(1, len(spoken) + 1)
    signed: Samples = np.where(spoken, position, -position).astype(np.float32)
    return signed


def blocks_of(samples: Samples) -> Iterator[Samples]:
    for at in range(0, len(samples), SAMPLE_RATE):
        yield samples[at : at + SAMPLE_RATE]


def pieces_of(samples: Samples, *, longest: int = CAPACITY) -> list[Piece]:
    pieces = list(speech_pieces(blocks_of(samples), Scripted(), OPTIONS, longest=longest))
    for each in pieces:
        assert 0 <= each.start <= each.voice_start < each.voice_end <= each.end <= len(samples)
        assert each.length <= longest
        np.testing.assert_array_equal(each.samples, samples[each.start : each.end])
    assert all(left.end <= right.start for left, right in pairwise(pieces))
    return pieces


def assert_all_speech_is_covered(samples: Samples, pieces: list[Piece]) -> None:
    covered = np.zeros(len(samples), dtype=bool)
    for each in pieces:
        covered[each.start : each.end] = True
    assert covered[samples > 0].all()


def test_speech_is_kept_with_a_fifth_of_a_second_around_it() -> None:
    samples = seconds_of((5.0, False), (3.0, True), (60.0, False), (2.0, True), (5.0, False))
    first, second = pieces_of(samples)
    for each, start, end in ((first, 5.0, 8.0), (second, 68.0, 70.0)):
        assert each.voice_start == pytest.approx(start * SAMPLE_RATE, abs=FRAME_SAMPLES)
        assert each.voice_end == pytest.approx(end * SAMPLE_RATE, abs=FRAME_SAMPLES)
        assert each.voice_start - each.start == PAD_SAMPLES
        assert each.end - each.voice_end == PAD_SAMPLES


def test_silence_gives_no_piece() -> None:
    assert pieces_of(seconds_of((100.0, False))) == []
    assert pieces_of(np.zeros(0, dtype=np.float32)) == []


def test_short_pause_is_shared_between_its_neighbours() -> None:
    samples = seconds_of((1.0, True), (0.3, False), (1.0, True))
    first, second = pieces_of(samples)
    assert first.end == second.start == (first.voice_end + second.voice_start) // 2
    assert_all_speech_is_covered(samples, [first, second])
    assert (first.start, second.end) == (0, len(samples))


def test_speech_without_a_pause_is_cut_into_pieces_that_touch() -> None:
    samples = seconds_of((1.0, False), (100.0, True), (1.0, False))
    pieces = pieces_of(samples)
    assert len(pieces) > 3
    assert all(left.end == right.start for left, right in pairwise(pieces))
    assert_all_speech_is_covered(samples, pieces)


@given(
    st.lists(st.tuples(st.floats(0.15, 12.0), st.booleans()), min_size=1, max_size=12),
    st.floats(2.0, 30.0),
)
def test_pieces_of_any_stream_are_ordered_disjoint_and_leave_no_speech_out(
    parts: list[tuple[float, bool]], longest: float
) -> None:
    samples = seconds_of(*parts)
    pieces = pieces_of(samples, longest=round(longest * SAMPLE_RATE))
    assert_all_speech_is_covered(samples, pieces)


@given(
    st.lists(st.tuples(st.floats(0.15, 2.0), st.booleans()), min_size=1, max_size=12),
    st.integers(1, 40),
)
def test_pieces_do_not_depend_on_how_much_the_detector_hears_at_once(
    parts: list[tuple[float, bool]], call_frames: int
) -> None:
    samples = seconds_of(*parts)
    detector = Scripted(call_frames)
    pieces = speech_pieces(blocks_of(samples), detector, OPTIONS, longest=CAPACITY)
    places = [(each.start, each.voice_start, each.voice_end, each.end) for each in pieces]
    expected = pieces_of(samples)
    assert places == [(each.start, each.voice_start, each.voice_end, each.end) for each in expected]


def long_stream(minutes: int, spoken: slice) -> Iterator[Samples]:
    """Blocks made one at a time; speech in some seconds of each minute."""
    for second in range(minutes * 60):
        talking = second % 60 in range(60)[spoken]
        yield np.full(SAMPLE_RATE, 1.0 if talking else -1.0, dtype=np.float32)


@pytest.mark.parametrize(
    "spoken",
    [slice(0, 0), slice(0, 60), slice(0, 1), slice(0, 60, 2)],
    ids=["silence", "speech", "a word a minute", "one second in two"],
)
def test_memory_does_not_grow_with_length(spoken: slice) -> None:
    def peak(minutes: int) -> float:
        tracemalloc.start()
        stream = speech_pieces(long_stream(minutes, spoken), Scripted(), OPTIONS, longest=CAPACITY)
        for _ in stream:
            pass
        megabytes = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
        return megabytes

    assert peak(12) < peak(3) * 1.2 + 0.5


def test_one_word_and_then_hours_of_silence_are_not_held() -> None:
    def blocks() -> Iterator[Samples]:
        yield np.ones(SAMPLE_RATE, dtype=np.float32)
        for _ in range(20 * 60):
            yield np.full(SAMPLE_RATE, -1.0, dtype=np.float32)

    tracemalloc.start()
    (word,) = speech_pieces(blocks(), Scripted(), OPTIONS, longest=CAPACITY)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert word.length == pytest.approx(SAMPLE_RATE + PAD_SAMPLES, abs=FRAME_SAMPLES)
    assert peak < 10 * 2**20


def test_piece_comes_before_the_recording_ends() -> None:
    """A long recording gives its first text while the rest is still decoded."""
    taken = 0

    def blocks() -> Iterator[Samples]:
        nonlocal taken
        for block in long_stream(10, slice(0, 5)):
            taken += 1
            yield block

    next(speech_pieces(blocks(), Scripted(), OPTIONS, longest=CAPACITY))
    assert taken < 30


def test_windows_of_real_speech_hold_most_of_it_in_order(
    models_dir: Path, speech_wav: Path
) -> None:
    detector = SpeechDetector(models_dir / "silero-vad" / "silero_vad.onnx")
    with Recording(speech_wav) as recording:
        pieces = list(speech_pieces(recording, detector, OPTIONS, longest=CAPACITY))
        seconds = recording.seconds
    filled = list(packed(pieces, CAPACITY))
    assert len(filled) >= seconds * 0.6 // 30
    assert all(window.length <= CAPACITY for window in filled)
    assert sum(window.speech_seconds for window in filled) > 0.6 * seconds
    assert all(left.end <= right.pieces[0].start / SAMPLE_RATE for left, right in pairwise(filled))
