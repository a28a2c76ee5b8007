from __future__ import annotations

import ctypes
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sounds import Shift, late_tone, noise, onset, tone, wav_bytes, write_media, write_wav
from stenopool.audio import SAMPLE_RATE, Samples
from stenopool.audio.media import INVALID_SAMPLES, MEDIA_DAMAGED, MEDIA_TRUNCATED, Recording
from stenopool.errors import (
    InputEmpty,
    InputError,
    InputNotAFile,
    InputNotFound,
    InputUnreadable,
    NoAudio,
    NoSamples,
    NotMedia,
    RecordingTooLong,
)

RATE = 48_000
DESCRIPTORS = Path("/proc/self/fd")  # of this process, on Linux


def decoded(path: Path, *, max_hours: float = 48.0) -> tuple[Samples, list[str]]:
    with Recording(path, max_hours=max_hours) as recording:
        blocks = list(recording)
    return np.concatenate(blocks), recording.flags


def refusal(path: Path, expected: type[InputError], *, track: int | None = None) -> str:
    """The message of the error that a recording must cause, here or while decoding."""
    with pytest.raises(expected) as caught, Recording(path, track=track) as recording:
        list(recording)
    assert type(caught.value) is expected
    assert os.fsdecode(path) in caught.value.what
    assert caught.value.do
    assert caught.value.exit_status == 3
    return caught.value.what


def test_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    refusal(tmp_path / "gone.wav", InputNotFound)


def test_path_through_a_file_is_refused_as_missing(tmp_path: Path) -> None:
    refusal(write_wav(tmp_path / "a.wav", tone(1.0)) / "b.wav", InputNotFound)


def test_dangling_link_is_refused_as_missing(tmp_path: Path) -> None:
    link = tmp_path / "link.wav"
    link.symlink_to(tmp_path / "gone.wav")
    refusal(link, InputNotFound)


def test_name_that_is_too_long_or_impossible_is_refused(tmp_path: Path) -> None:
    refusal(tmp_path / ("x" * 300), InputUnreadable)
    refusal(tmp_path / "nul\0byte.wav", InputUnreadable)


def test_folder_is_refused_and_the_hint_says_what_to_name(tmp_path: Path) -> None:
    assert "folder" in refusal(tmp_path, InputNotAFile)


def test_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.wav"
    os.mkfifo(pipe)
    refusal(pipe, InputNotAFile)


def test_device_is_refused() -> None:
    refusal(Path("/dev/zero"), InputNotAFile)


def test_unreadable_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_wav(tmp_path / "locked.wav", tone(1.0))
    path.chmod(0)
    if os.access(path, os.R_OK):  # root reads everything

        def denied(self: Path, mode: str) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", denied)
    assert "Permission denied" in refusal(path, InputUnreadable)


def test_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.mp3"
    path.touch()
    refusal(path, InputEmpty)


@pytest.mark.parametrize(
    "content",
    [
        b"These are the minutes of the meeting.\n" * 50,
        np.random.default_rng(7).bytes(100_000),
        bytes(100_000),
        b"\xff" * 5_000,
        b"RIFF",
        b"RIFF\x24\x00\x00\x00WAVE",
        b'{"speakers": []}',
        b"%PDF-1.7\n" + bytes(500),
    ],
    ids=["text", "random", "zeros", "ones", "riff", "riff-wave", "json", "pdf"],
)
@pytest.mark.parametrize("suffix", ["wav", "mp3", "mp4"])
def test_bytes_that_are_no_recording_are_refused(
    tmp_path: Path, content: bytes, suffix: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    with pytest.raises((NotMedia, NoAudio, NoSamples)) as caught, Recording(path) as recording:
        list(recording)
    assert str(path) in caught.value.what


def test_text_is_refused_as_not_media(tmp_path: Path) -> None:
    path = tmp_path / "minutes.wav"
    path.write_text("Present: all of the board.\n" * 30)
    refusal(path, NotMedia)


def video(path: Path, *, index_first: bool) -> Path:
    options = {"movflags": "+faststart"} if index_first else {}
    sound = late_tone(20.0, 2.0, rate=RATE) + noise(20.0, rate=RATE, level=0.01)
    return write_media(path, sound, codec="aac", video_seconds=20.0, options=options)


def cut(path: Path, share: float) -> None:
    os.truncate(path, int(path.stat().st_size * share))


def test_video_cut_before_its_index_is_refused(tmp_path: Path) -> None:
    path = video(tmp_path / "upload.mp4", index_first=False)
    cut(path, 0.6)
    refusal(path, NotMedia)


def test_video_cut_after_its_index_gives_what_is_there_and_says_so(tmp_path: Path) -> None:
    path = video(tmp_path / "upload.mp4", index_first=True)
    cut(path, 0.6)
    samples, flags = decoded(path)
    assert 5 < len(samples) / SAMPLE_RATE < 15
    assert onset(samples) == pytest.approx(2.0, abs=0.02)
    assert MEDIA_TRUNCATED in flags


@pytest.mark.parametrize(("suffix", "codec"), [("mp3", "libmp3lame"), ("flac", "flac")])
def test_cut_sound_file_gives_what_is_there_and_says_so(
    tmp_path: Path, suffix: str, codec: str
) -> None:
    path = write_media(tmp_path / f"a.{suffix}", noise(10.0, rate=RATE), codec=codec)
    cut(path, 0.5)
    samples, flags = decoded(path)
    assert len(samples) / SAMPLE_RATE == pytest.approx(5.0, abs=0.5)
    assert MEDIA_TRUNCATED in flags


def test_wav_cut_short_of_its_header_gives_what_is_there_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "cut.wav"
    path.write_bytes(wav_bytes(tone(5.0), claimed_bytes=10 * 2 * SAMPLE_RATE))
    samples, flags = decoded(path)
    assert len(samples) == 5 * SAMPLE_RATE
    assert flags == [MEDIA_TRUNCATED]


@pytest.mark.parametrize("claimed", [0, 0xFFFFFFFF, 0x7FFFFFFF])
def test_wav_of_a_stream_that_never_knew_its_length_is_whole(tmp_path: Path, claimed: int) -> None:
    path = tmp_path / "stream.wav"
    path.write_bytes(wav_bytes(tone(5.0), claimed_bytes=claimed))
    samples, flags = decoded(path)
    assert len(samples) == 5 * SAMPLE_RATE
    assert flags == []


def test_picture_that_outlasts_the_sound_is_no_damage(tmp_path: Path) -> None:
    for suffix in ("mp4", "mkv"):
        path = write_media(
            tmp_path / f"a.{suffix}", tone(4.0, rate=RATE), codec="aac", video_seconds=12.0
        )
        samples, flags = decoded(path)
        assert len(samples) / SAMPLE_RATE == pytest.approx(4.0, abs=0.05)
        assert flags == []


def test_damage_in_the_middle_is_skipped_and_flagged(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.m4a", noise(20.0, rate=RATE), codec="aac")
    content = bytearray(path.read_bytes())
    middle = len(content) // 3
    content[middle : middle + 4_000] = np.random.default_rng(3).bytes(4_000)
    path.write_bytes(content)
    samples, flags = decoded(path)
    assert len(samples) / SAMPLE_RATE == pytest.approx(20.0, abs=1.0)
    assert MEDIA_DAMAGED in flags


def test_video_without_sound_is_refused(tmp_path: Path) -> None:
    path = write_media(tmp_path / "mute.mp4", [], codec="aac", video_seconds=2.0)
    refusal(path, NoAudio)


@pytest.mark.parametrize("track", [1, 7, -1])
def test_track_that_is_not_there_is_refused_with_the_number_there_is(
    tmp_path: Path, track: int
) -> None:
    path = write_wav(tmp_path / "a.wav", tone(1.0))
    what = refusal(path, NoAudio, track=track)
    assert f"{track}: it has 1" in what


def test_track_without_samples_is_refused(tmp_path: Path) -> None:
    refusal(write_wav(tmp_path / "a.wav", np.zeros(0)), NoSamples)


def test_single_sample_is_decoded(tmp_path: Path) -> None:
    samples, flags = decoded(write_wav(tmp_path / "a.wav", np.array([0.5])))
    assert samples.tolist() == [pytest.approx(0.5, abs=1e-3)]
    assert flags == []


def test_recording_of_nothing_but_invalid_samples_is_refused(tmp_path: Path) -> None:
    for value in (np.nan, np.inf, -1e30):
        path = write_wav(tmp_path / "a.wav", np.full(SAMPLE_RATE, value), form="f32")
        refusal(path, NoSamples)


def test_invalid_samples_become_silence_and_are_flagged(tmp_path: Path) -> None:
    sound = tone(2.0)
    sound[100:103] = [np.nan, np.inf, -np.inf]
    samples, flags = decoded(write_wav(tmp_path / "a.wav", sound, form="f32"))
    assert samples[100:103].tolist() == [0, 0, 0]
    np.testing.assert_allclose(samples[103:], sound[103:], atol=1e-6)
    assert flags == [INVALID_SAMPLES]


def test_invalid_samples_at_another_rate_spoil_only_their_neighbourhood(tmp_path: Path) -> None:
    sound = tone(4.0, rate=RATE)
    sound[RATE] = np.nan
    samples, flags = decoded(write_wav(tmp_path / "a.wav", sound, rate=RATE, form="f32"))
    assert flags == [INVALID_SAMPLES]
    assert np.abs(samples[SAMPLE_RATE // 2 : SAMPLE_RATE - 500]).max() > 0.4
    assert np.abs(samples[SAMPLE_RATE + 500 :]).max() > 0.4


def test_recording_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "long.wav", tone(30.0))
    decoded(path, max_hours=30.5 / 3600)
    with pytest.raises(RecordingTooLong) as caught:
        decoded(path, max_hours=20 / 3600)
    assert str(path) in caught.value.what
    assert "STENO_MAX_HOURS" in caught.value.do


def test_limit_holds_for_silence_that_a_time_stamp_claims(tmp_path: Path) -> None:
    shift = Shift(hole_at=1.0, hole=3000.0)
    path = write_media(tmp_path / "a.mka", tone(2.0, rate=RATE), codec="pcm_s16le", shift=shift)
    with pytest.raises(RecordingTooLong):
        decoded(path, max_hours=0.5)


@pytest.mark.parametrize(
    "name",
    [
        "two words.wav",
        "new\nline.wav",
        'it\'s "quoted" `so`.wav',
        "-i.wav",
        "--help",
        "🎙️ réunion 会議.wav",
        "%d.wav",
        "file:a.wav",
        "pipe:0",
        "concat:a|b.wav",
        ".hidden",
        "x" * 255,
        os.fsdecode(b"latin-\xe9.wav"),
    ],
)
def test_names_are_only_names(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_wav(Path(name), tone(1.0))
    samples, _ = decoded(Path(name))
    assert len(samples) == SAMPLE_RATE


# --- lists of other files ---------------------------------------------------------------------


class Watch:
    """Counts how often a file is opened, by anybody (Linux inotify)."""

    OPENED = 0x20

    def __init__(self, path: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_NONBLOCK)
        libc.inotify_add_watch(self._descriptor, os.fsencode(path), self.OPENED)

    @property
    def opened(self) -> bool:
        try:
            return bool(os.read(self._descriptor, 4096))
        except BlockingIOError:
            return False

    def close(self) -> None:
        os.close(self._descriptor)


@pytest.fixture
def secret(tmp_path: Path) -> Iterator[tuple[Path, Watch]]:
    path = write_wav(tmp_path / "secret.wav", tone(3.0))
    watch = Watch(path)
    yield path, watch
    watch.close()


LISTS = {  # by suffix; TARGET is what they refer to
    "m3u8": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:3\n"
    "#EXTINF:3.0,\nTARGET\n#EXT-X-ENDLIST\n",
    "ffconcat": "ffconcat version 1.0\nfile 'TARGET'\nduration 3\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=TARGET\nc=IN IP4 127.0.0.1\nt=0 0\n"
    "m=audio 5004 RTP/AVP 0\na=rtpmap:0 PCMU/8000\n",
    "mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT3S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011">'
    '<Period><AdaptationSet mimeType="audio/wav"><Representation id="1" bandwidth="1">'
    "<BaseURL>TARGET</BaseURL></Representation></AdaptationSet></Period></MPD>",
}


@pytest.mark.skipif(not DESCRIPTORS.exists(), reason="inotify needs Linux")
@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("suffix", ["wav", "own"])
def test_list_of_other_files_is_refused_and_opens_none(
    tmp_path: Path, secret: tuple[Path, Watch], kind: str, suffix: str
) -> None:
    path = tmp_path / f"list.{kind if suffix == 'own' else suffix}"
    for target in (str(secret[0]), secret[0].name, f"file://{secret[0]}"):
        path.write_text(LISTS[kind].replace("TARGET", target))
        refusal(path, NotMedia)
    assert not secret[1].opened


def test_list_that_names_nothing_is_refused_as_a_list(tmp_path: Path) -> None:
    path = tmp_path / "nothing.wav"
    path.write_text("v=0\no=- 0 0 IN IP4 127.0.0.1\ns=-\nc=IN IP4 127.0.0.1\nt=0 0\n")
    assert "list of other files" in refusal(path, NotMedia)


@pytest.mark.skipif(not DESCRIPTORS.exists(), reason="inotify needs Linux")
def test_watch_notices_an_open_file(secret: tuple[Path, Watch]) -> None:
    secret[0].read_bytes()
    assert secret[1].opened


@pytest.mark.parametrize("kind", LISTS)
def test_list_of_addresses_is_refused_and_asks_nobody(tmp_path: Path, kind: str) -> None:
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        path = tmp_path / f"list.{kind}"
        address = f"http://127.0.0.1:{server.server_port}/a.wav"
        path.write_text(LISTS[kind].replace("TARGET", address))
        refusal(path, NotMedia)
        server.shutdown()
    assert asked == []


@pytest.mark.skipif(not DESCRIPTORS.exists(), reason="needs Linux")
def test_refused_recording_is_closed_and_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "text.wav"
    path.write_text("no sound")
    changed = path.stat().st_mtime_ns
    before = len(list(DESCRIPTORS.iterdir()))
    for _ in range(5):
        refusal(path, NotMedia)
    assert path.stat().st_mtime_ns == changed
    assert len(list(DESCRIPTORS.iterdir())) <= before


def test_track_of_a_few_samples_a_second_is_refused_before_it_fills_the_memory(
    tmp_path: Path,
) -> None:
    path = tmp_path / "slow.wav"
    path.write_bytes(wav_bytes(tone(5.0), rate=100))
    assert "100 samples a second" in refusal(path, NotMedia)


@pytest.mark.parametrize("value", [3_000.0, -9e5])
def test_one_absurd_sample_does_not_silence_the_rest(tmp_path: Path, value: float) -> None:
    sound = tone(5.0)
    sound[100] = value
    path = write_wav(tmp_path / "glitch.wav", sound, form="f32")
    samples, flags = decoded(path)
    assert flags == [INVALID_SAMPLES]
    np.testing.assert_allclose(
        np.abs(samples[SAMPLE_RATE:]).max(), np.abs(sound[200:]).max(), rtol=0.05
    )


def test_length_that_was_guessed_from_the_bit_rate_is_no_truncation(tmp_path: Path) -> None:
    sound = np.concatenate([np.zeros(30 * RATE), noise(3.0, rate=RATE)])
    path = write_media(tmp_path / "a.aac", sound, codec="aac")
    samples, flags = decoded(path)
    assert len(samples) / SAMPLE_RATE == pytest.approx(33.0, abs=0.2)
    assert flags == []


def test_late_track_that_is_whole_is_no_truncation(tmp_path: Path) -> None:
    path = write_media(
        tmp_path / "late.mka", noise(5.0, rate=RATE), codec="flac", shift=Shift(start=7.0)
    )
    _, flags = decoded(path)
    assert flags == []
