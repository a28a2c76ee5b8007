from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sounds import Shift, late_tone, onset, tone, wav_bytes, write_media, write_wav
from stenopool.audio import SAMPLE_RATE, Samples
from stenopool.audio.media import BLOCK_SAMPLES, MEDIA_TRUNCATED, Recording

ONSET = 1.25  # seconds
LENGTH = 3.0
MAKERS = {
    "mp3": ("libmp3lame", 44_100),
    "flac": ("flac", 44_100),
    "ogg": ("libopus", 48_000),
    "m4a": ("aac", 44_100),
    "webm": ("libopus", 48_000),
    "aiff": ("pcm_s16be", 22_050),
}


def decoded(path: Path, *, track: int | None = None) -> Samples:
    with Recording(path, track=track) as recording:
        blocks = list(recording)
        assert recording.flags == []
    return np.concatenate(blocks)


def assert_tone_at(samples: Samples, at: float, length: float) -> None:
    assert onset(samples) == pytest.approx(at, abs=0.02)
    assert len(samples) / SAMPLE_RATE == pytest.approx(length, abs=0.05)


@pytest.mark.parametrize("form", ["u8", "s16", "s24", "f32", "f64"])
def test_wav_of_every_sample_format_keeps_its_samples(tmp_path: Path, form: str) -> None:
    sound = late_tone(LENGTH, ONSET)
    samples = decoded(write_wav(tmp_path / "a.wav", sound, form=form))
    assert len(samples) == len(sound)
    np.testing.assert_allclose(samples, sound, atol=0.01 if form == "u8" else 1e-4)


@pytest.mark.parametrize("codec", ["pcm_mulaw", "pcm_alaw", "adpcm_ima_wav"])
def test_telephone_codecs_are_read(tmp_path: Path, codec: str) -> None:
    sound = late_tone(LENGTH, ONSET, rate=8_000)
    samples = decoded(write_media(tmp_path / "call.wav", sound, codec=codec, rate=8_000))
    assert onset(samples) == pytest.approx(ONSET, abs=0.02)
    assert len(samples) / SAMPLE_RATE == pytest.approx(LENGTH, abs=0.1)


@pytest.mark.parametrize("rate", [4_000, 8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000])
def test_every_rate_is_brought_to_16_khz_at_the_same_pitch_and_time(
    tmp_path: Path, rate: int
) -> None:
    path = write_wav(tmp_path / "a.wav", late_tone(LENGTH, ONSET, rate=rate), rate=rate)
    samples = decoded(path)
    assert_tone_at(samples, ONSET, LENGTH)
    sounding = samples[-SAMPLE_RATE:]
    pitch = np.argmax(np.abs(np.fft.rfft(sounding))) * SAMPLE_RATE / len(sounding)
    assert pitch == pytest.approx(440, abs=2)


@pytest.mark.parametrize("channels", [1, 2, 3, 6, 8, 9, 16])
def test_every_number_of_channels_becomes_one(tmp_path: Path, channels: int) -> None:
    sound = np.stack([late_tone(LENGTH, ONSET)] * channels)
    samples = decoded(write_wav(tmp_path / "a.wav", sound))
    np.testing.assert_allclose(samples, sound[0], atol=1e-3)


@pytest.mark.parametrize("suffix", MAKERS)
def test_compressed_formats_keep_times(tmp_path: Path, suffix: str) -> None:
    codec, rate = MAKERS[suffix]
    sound = late_tone(LENGTH, ONSET, rate=rate)
    assert_tone_at(
        decoded(write_media(tmp_path / f"a.{suffix}", sound, codec=codec, rate=rate)), ONSET, LENGTH
    )


@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "aac"), ("mkv", "aac"), ("avi", "mp2")])
def test_sound_of_a_video_is_read(tmp_path: Path, suffix: str, codec: str) -> None:
    sound = late_tone(LENGTH, ONSET, rate=48_000)
    path = write_media(tmp_path / f"a.{suffix}", sound, codec=codec, video_seconds=LENGTH)
    assert_tone_at(decoded(path), ONSET, LENGTH)


def test_sound_that_begins_after_the_picture_is_heard_at_its_time(tmp_path: Path) -> None:
    path = write_media(
        tmp_path / "late.mkv",
        tone(2.0, rate=48_000),
        codec="libopus",
        video_seconds=4.0,
        shift=Shift(start=1.5),
    )
    samples = decoded(path)
    assert not samples[: round(1.45 * SAMPLE_RATE)].any()
    assert_tone_at(samples, 1.5, 3.5)


@pytest.mark.parametrize("start", [0.0, 0.5, 3600.0])
def test_sound_of_a_file_that_does_not_begin_at_zero_counts_from_its_beginning(
    tmp_path: Path, start: float
) -> None:
    sound = late_tone(LENGTH, ONSET, rate=48_000)
    path = write_media(tmp_path / "cut.ts", sound, codec="mp2", shift=Shift(start=start))
    assert_tone_at(decoded(path), ONSET, LENGTH)


@pytest.mark.parametrize("hole", [0.3, 2.0, 30.0])
def test_hole_in_the_track_keeps_later_times(tmp_path: Path, hole: float) -> None:
    sound = late_tone(LENGTH, 2.0, rate=48_000)
    shift = Shift(hole_at=1.0, hole=hole)
    path = write_media(tmp_path / "holes.mka", sound, codec="pcm_s16le", shift=shift)
    assert_tone_at(decoded(path), 2.0 + hole, LENGTH + hole)


class Stutter(Shift):
    """A hole of 0.2 s after each 0.5 s."""

    def of(self, seconds: float) -> float:
        return 0.2 * int(seconds / 0.5 + 1e-6)


def test_times_do_not_drift_over_many_holes(tmp_path: Path) -> None:
    sound = late_tone(42.0, 41.0, rate=44_100)
    path = write_media(
        tmp_path / "stutter.mka", sound, codec="pcm_s16le", rate=44_100, shift=Stutter()
    )
    assert onset(decoded(path)) == pytest.approx(41.0 + 0.2 * 82, abs=0.02)


def test_stream_that_changes_its_format_on_the_way_is_read_to_the_end(tmp_path: Path) -> None:
    first = write_media(tmp_path / "1.mp3", tone(2.0, rate=44_100), codec="libmp3lame", rate=44_100)
    sound = late_tone(LENGTH, ONSET, rate=22_050, hz=880.0)
    stereo = np.stack([sound, sound])
    second = write_media(tmp_path / "2.mp3", stereo, codec="libmp3lame", rate=22_050)
    path = tmp_path / "joined.mp3"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    with Recording(path) as recording:
        samples = np.concatenate(list(recording))
    assert len(samples) / SAMPLE_RATE == pytest.approx(2.0 + LENGTH, abs=0.2)
    assert np.argmax(np.abs(np.fft.rfft(samples[-SAMPLE_RATE:]))) == pytest.approx(880, abs=2)


def test_track_is_chosen_by_number_and_by_default_disposition(tmp_path: Path) -> None:
    sounds = [tone(2.0, hz=hz, rate=48_000) for hz in (300.0, 600.0)]
    path = write_media(tmp_path / "two.mkv", sounds, codec="pcm_s16le")

    def pitch(track: int | None) -> float:
        return float(np.argmax(np.abs(np.fft.rfft(decoded(path, track=track)[:SAMPLE_RATE]))))

    assert (pitch(None), pitch(0), pitch(1)) == (300, 300, 600)


def test_author_s_default_track_is_preferred(tmp_path: Path) -> None:
    path = tmp_path / "default.mkv"
    with av.open(str(path), mode="w") as container:
        streams = [container.add_stream("pcm_s16le", rate=16_000, layout="mono") for _ in "ab"]
        streams[1].disposition = av.stream.Disposition.default
        for stream, hz in zip(streams, (300.0, 600.0), strict=True):
            plane = (tone(2.0, hz=hz) * 32767).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(plane, "s16p", "mono")
            frame.sample_rate = 16_000
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    assert np.argmax(np.abs(np.fft.rfft(decoded(path)[:SAMPLE_RATE]))) == 600


def test_blocks_are_contiguous_seconds_of_float32(tmp_path: Path) -> None:
    sound = late_tone(3.4, ONSET, rate=44_100)
    with Recording(write_wav(tmp_path / "a.wav", sound, rate=44_100)) as recording:
        assert recording.claimed_seconds == pytest.approx(3.4, abs=0.01)
        assert recording.seconds == 0.0
        blocks = list(recording)
    assert [len(block) for block in blocks[:-1]] == [BLOCK_SAMPLES] * 3
    assert 0 < len(blocks[-1]) < BLOCK_SAMPLES
    assert {block.dtype for block in blocks} == {np.dtype(np.float32)}
    assert recording.seconds == sum(map(len, blocks)) / SAMPLE_RATE


def test_recording_may_be_closed_early_and_twice(tmp_path: Path) -> None:
    recording = Recording(write_wav(tmp_path / "a.wav", tone(5.0)))
    assert len(next(iter(recording))) == BLOCK_SAMPLES
    recording.close()
    recording.close()


@hypothesis_settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(samples=st.integers(1_000, 100_000), rate=st.sampled_from([8_000, 16_000, 44_100, 48_000]))
def test_length_is_kept_for_every_number_of_samples(
    tmp_path: Path, samples: int, rate: int
) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav_bytes(np.full(samples, 0.5), rate=rate))
    assert len(decoded(path)) == pytest.approx(samples * SAMPLE_RATE / rate, abs=32)


PEAK_OF_DECODING = """
import sys
from pathlib import Path
from stenopool.audio.media import MEDIA_TRUNCATED, Recording
with Recording(Path(sys.argv[1])) as recording:
    for block in recording:
        pass
status = Path("/proc/self/status").read_text()
print(int(recording.seconds), status.split("VmHWM:")[1].split()[0])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    peaks = []
    for minutes in (10, 60):
        path = tmp_path / f"{minutes}.wav"
        silence = minutes * 60 * 8_000
        path.write_bytes(wav_bytes(np.zeros(0), rate=8_000, form="u8", claimed_bytes=silence))
        with path.open("r+b") as file:
            file.truncate(44 + silence)
        command = [sys.executable, "-c", PEAK_OF_DECODING, str(path)]
        seconds, kilobytes = subprocess.check_output(command, text=True).split()
        assert int(seconds) == minutes * 60
        peaks.append(int(kilobytes) / 1024)
    assert peaks[1] - peaks[0] < 15


@pytest.mark.parametrize(("first", "second"), [(36_000.0, 0.0), (0.0, 36_000.0)])
def test_joined_broadcasts_have_no_hours_of_silence_between_them(
    tmp_path: Path, first: float, second: float
) -> None:
    joined = tmp_path / "joined.ts"
    for start in (first, second):
        part = write_media(
            tmp_path / f"{start}.ts",
            late_tone(4.0, 1.0, rate=48_000),
            codec="aac",
            shift=Shift(start=start),
        )
        with joined.open("ab") as file:
            file.write(part.read_bytes())
    with Recording(joined) as recording:
        samples = np.concatenate(list(recording))
        flags = recording.flags
    assert len(samples) / SAMPLE_RATE == pytest.approx(8.0, abs=0.3)
    assert onset(samples[4 * SAMPLE_RATE + 8000 :]) == pytest.approx(0.5, abs=0.2)
    assert MEDIA_TRUNCATED not in flags
