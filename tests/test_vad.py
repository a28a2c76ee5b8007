from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sounds import noise, pink_noise, tone
from stenopool.audio import SAMPLE_RATE, Samples, vad
from stenopool.audio.media import Recording
from stenopool.audio.vad import (
    BRIEF_SECONDS,
    CALL_FRAMES,
    FRAME_SAMPLES,
    FRAME_SECONDS,
    SpeechDetector,
    VadOptions,
    VoiceSpan,
    spans,
)

OPTIONS = VadOptions()
LONGEST = 900  # frames
PATIENCE = round(OPTIONS.min_silence / FRAME_SECONDS)  # frames of silence that end a span


def run(*parts: tuple[int, float]) -> Samples:
    """Probabilities: so many frames of this, then so many of that."""
    return np.concatenate([np.full(count, value, dtype=np.float32) for count, value in parts])


def found(
    probabilities: Iterable[Samples],
    options: VadOptions = OPTIONS,
    *,
    longest: int = LONGEST,
) -> list[tuple[int, int]]:
    """Spans in frames."""
    closed = [span for span, _ in spans(probabilities, options, longest=longest) if span]
    assert all(span.start % FRAME_SAMPLES == span.end % FRAME_SAMPLES == 0 for span in closed)
    return [(span.start // FRAME_SAMPLES, span.end // FRAME_SAMPLES) for span in closed]


def chunked(probabilities: Samples, size: int) -> Iterator[Samples]:
    for at in range(0, len(probabilities), size):
        yield probabilities[at : at + size]


def test_silence_has_no_span() -> None:
    assert found([run((500, 0.1))]) == []
    assert found([]) == []


def test_speech_is_a_span_from_its_first_to_after_its_last_frame() -> None:
    assert found([run((10, 0.0), (20, 0.9), (30, 0.0))]) == [(10, 30)]


def test_speech_that_lasts_to_the_end_is_closed_by_the_end() -> None:
    assert found([run((10, 0.0), (20, 0.9))]) == [(10, 30)]
    assert found([run((10, 0.0), (20, 0.9), (2, 0.0))]) == [(10, 30)]


def test_speech_begins_at_the_onset_and_not_below() -> None:
    assert found([run((20, 0.49))]) == []
    assert found([run((20, 0.5))]) == [(0, 20)]


def test_speech_goes_on_between_the_two_thresholds() -> None:
    assert found([run((10, 0.9), (20, 0.36), (10, 0.9))]) == [(0, 40)]
    assert found([run((10, 0.9), (20, 0.34), (10, 0.9))]) == [(0, 10), (30, 40)]


def test_middling_frames_do_not_interrupt_a_silence() -> None:
    mixed = run((10, 0.9), (1, 0.1), (PATIENCE - 1, 0.4), (20, 0.0))
    assert found([mixed]) == [(0, 10)]


def test_pause_ends_a_span_only_when_it_is_long_enough() -> None:
    assert found([run((10, 0.9), (PATIENCE - 1, 0.0), (10, 0.9))]) == [(0, 19 + PATIENCE)]
    assert found([run((10, 0.9), (PATIENCE, 0.0), (10, 0.9))]) == [
        (0, 10),
        (10 + PATIENCE, 20 + PATIENCE),
    ]


def test_short_noises_are_dropped() -> None:
    shortest = int(OPTIONS.min_speech / FRAME_SECONDS) + 1  # frames
    assert found([run((10, 0.0), (shortest - 1, 0.9), (30, 0.0))]) == []
    assert found([run((10, 0.0), (shortest, 0.9), (30, 0.0))]) == [(10, 10 + shortest)]


def test_endless_speech_is_cut_where_it_is_least_likely() -> None:
    speech = run((1000, 0.9))
    speech[20] = 0.4  # too early: the piece would be short
    speech[80] = 0.6
    speech[90] = 0.7
    assert found([speech], longest=100)[0] == (0, 80)
    assert found([speech], longest=100)[-1][1] == 1000


def test_cut_speech_is_complete() -> None:
    parts = found([run((1000, 0.9))], longest=64)
    assert parts[0][0] == 0
    assert parts[-1][1] == 1000
    assert all(left[1] == right[0] for left, right in pairwise(parts))
    assert max(end - start for start, end in parts) <= 64


def test_chunk_ends_are_reported_with_what_is_decided() -> None:
    chunks = chunked(run((10, 0.0), (20, 0.9), (30, 0.0)), 20)
    assert list(spans(chunks, OPTIONS, longest=LONGEST)) == [
        (None, 10 * FRAME_SAMPLES),  # speech has begun at frame 10 and is open
        (VoiceSpan(10 * FRAME_SAMPLES, 30 * FRAME_SAMPLES), 30 * FRAME_SAMPLES),
        (None, 40 * FRAME_SAMPLES),
        (None, 60 * FRAME_SAMPLES),
    ]


def test_what_has_only_begun_waits_longer_for_more() -> None:
    patient = VadOptions(min_silence=0.48, brief_silence=0.96)
    frames = round(BRIEF_SECONDS / FRAME_SECONDS)
    for spoken, needed in ((4, 30), (frames // 2, 23), (frames, 15), (3 * frames, 15)):
        for silent in (needed - 1, needed):
            got = found([run((spoken, 0.9), (silent, 0.0), (10, 0.9))], patient)
            assert len(got) == (2 if silent == needed else 1), (spoken, silent)


option_sets = st.builds(
    VadOptions,
    onset=st.floats(0.1, 0.9),
    hysteresis=st.floats(0.0, 0.3),
    min_silence=st.floats(0.0, 1.0),
    brief_silence=st.floats(0.0, 2.0),
    min_speech=st.floats(0.0, 0.5),
)
probability_lists = st.lists(
    st.tuples(st.integers(1, 40), st.sampled_from([0.0, 0.2, 0.45, 0.55, 0.7, 1.0])), min_size=1
).map(lambda parts: run(*parts))


@given(probability_lists, option_sets, st.integers(4, 60), st.integers(1, 70))
def test_spans_are_ordered_disjoint_and_inside_the_stream(
    probabilities: Samples, options: VadOptions, longest: int, size: int
) -> None:
    border = 0
    for span, decided in spans(chunked(probabilities, size), options, longest=longest):
        assert decided >= border  # what is decided is never taken back
        if span is not None:
            assert border <= span.start < span.end <= len(probabilities) * FRAME_SAMPLES
            assert span.end - span.start <= longest * FRAME_SAMPLES
            assert span.end - span.start >= min(options.min_speech, 0.03) * SAMPLE_RATE
        border = decided if span is None else span.end


@given(probability_lists, option_sets, st.integers(4, 60), st.integers(1, 70))
def test_spans_do_not_depend_on_the_chunks(
    probabilities: Samples, options: VadOptions, longest: int, size: int
) -> None:
    whole = found([probabilities], options, longest=longest)
    assert found(chunked(probabilities, size), options, longest=longest) == whole


@given(probability_lists)
def test_every_likely_frame_is_in_a_span_when_nothing_is_too_short(probabilities: Samples) -> None:
    options = VadOptions(min_speech=0.0)
    inside = np.zeros(len(probabilities), dtype=bool)
    for start, end in found([probabilities], options):
        inside[start:end] = True
    assert inside[probabilities >= options.onset].all()


# --- the network itself -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def detector(models_dir: Path) -> SpeechDetector:
    return SpeechDetector(models_dir / "silero-vad" / "silero_vad.onnx")


@pytest.fixture(scope="module")
def speech(speech_wav: Path) -> Samples:
    with Recording(speech_wav) as recording:
        return np.concatenate(list(recording))


def speech_share(detector: SpeechDetector, samples: Samples) -> float:
    voiced = sum(end - start for start, end in found(detector.probabilities([samples])))
    return voiced * FRAME_SAMPLES / len(samples)


def test_speech_is_recognised_as_speech(detector: SpeechDetector, speech: Samples) -> None:
    assert speech_share(detector, speech) > 0.6


@pytest.mark.parametrize("decibels", [-20, -50, -70])
def test_quiet_speech_is_recognised_as_speech(
    detector: SpeechDetector, speech: Samples, decibels: int
) -> None:
    quiet = speech * np.float32(10 ** (decibels / 20))
    assert speech_share(detector, quiet) > 0.6


def test_speech_after_a_loud_bang_is_recognised(detector: SpeechDetector, speech: Samples) -> None:
    quiet = speech * np.float32(0.003)
    quiet[:500] = 1.0
    assert speech_share(detector, quiet) > 0.6


@pytest.mark.parametrize("start", [326_400, 377_600, 588_800])
def test_syllable_without_silence_around_it_is_heard(
    detector: SpeechDetector, speech: Samples, start: int
) -> None:
    syllable = speech[start : start + 2_400]
    probabilities = np.concatenate(list(detector.probabilities([syllable])))
    assert probabilities.max() >= OPTIONS.onset


def test_longer_recording_begins_as_the_network_does(detector: SpeechDetector) -> None:
    sudden = tone(3.0, hz=220.0)  # after a second of silence its beginning seems to be speech
    probabilities = np.concatenate(list(detector.probabilities([sudden.astype(np.float32)])))
    assert probabilities.max() < OPTIONS.onset


NOT_SPEECH = {
    "digital silence": np.zeros(60 * SAMPLE_RATE),
    "last bit": np.round(noise(60.0, level=0.5)) / 32768,
    "white noise": noise(60.0, level=0.1),
    "quiet white noise": noise(60.0, level=0.001),
    "pink noise": pink_noise(60.0, level=0.1),
    "hum": tone(60.0, hz=50.0) + tone(60.0, hz=150.0, level=0.1),
    "chord": sum(tone(60.0, hz=hz, level=0.15) for hz in (261.6, 329.6, 392.0)),
}


@pytest.mark.parametrize("name", NOT_SPEECH)
def test_sound_without_speech_has_no_span(detector: SpeechDetector, name: str) -> None:
    samples = np.asarray(NOT_SPEECH[name], dtype=np.float32)
    assert found(detector.probabilities([samples])) == []


def test_probabilities_do_not_depend_on_how_the_stream_is_cut(
    detector: SpeechDetector, speech: Samples
) -> None:
    whole = np.concatenate(list(detector.probabilities([speech])))
    assert len(whole) == -(-len(speech) // FRAME_SAMPLES)
    assert whole.dtype == np.float32
    assert whole.min() >= 0.0
    assert whole.max() <= 1.0
    for size in (1_000, SAMPLE_RATE, 200_000):
        parts = list(detector.probabilities(chunked(speech, size)))
        assert [len(part) for part in parts[:-1]] == [CALL_FRAMES] * (len(parts) - 1)
        np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-6)


def test_network_remembers_from_one_call_to_the_next(
    detector: SpeechDetector, speech: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    loud = speech[5 * SAMPLE_RATE :]  # no call of it is so quiet that it would be amplified
    long_calls = np.concatenate(list(detector.probabilities([loud])))
    monkeypatch.setattr(vad, "CALL_FRAMES", 64)
    short_calls = np.concatenate(list(detector.probabilities([loud])))
    np.testing.assert_allclose(short_calls, long_calls, atol=1e-5)


def test_streams_share_nothing(detector: SpeechDetector, speech: Samples) -> None:
    alone = np.concatenate(list(detector.probabilities([speech])))
    pair = zip(
        detector.probabilities([speech]), detector.probabilities([speech[::-1]]), strict=True
    )
    np.testing.assert_array_equal(np.concatenate([first for first, _ in pair]), alone)


@hypothesis_settings(max_examples=10, deadline=None)
@given(samples=st.integers(0, 3 * FRAME_SAMPLES))
def test_stream_of_any_length_gives_a_probability_for_each_frame(
    detector: SpeechDetector, samples: int
) -> None:
    block = np.zeros(samples, dtype=np.float32)
    frames = sum(len(part) for part in detector.probabilities([block]))
    assert frames == -(-samples // FRAME_SAMPLES)
