"""Any recording in, 16 kHz mono out: decoded, mixed, resampled block by block with PyAV (FFmpeg).

Times are kept: sample n of the output is heard n / 16000 seconds after the start of the file, also
when the audio track begins later than the video or has holes.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Self, cast

import av
import av.error
import numpy as np
from av.format import Flags

from stenopool.audio import SAMPLE_RATE, Samples, regrouped
from stenopool.audio.downmix import Downmix
from stenopool.errors import (
    InputEmpty,
    InputNotAFile,
    InputNotFound,
    InputUnreadable,
    NoAudio,
    NoSamples,
    NotMedia,
    RecordingTooLong,
)

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container.input import InputContainer
    from av.packet import Packet

BLOCK_SAMPLES = SAMPLE_RATE  # blocks of one second
GAP_SECONDS = 0.1  # smaller differences between a frame's time and ours are jitter
DISCONTINUITY_SECONDS = 10.0  # a larger jump in a broadcast stream is a new clock, not a hole
LOWEST_RATE = 1000  # samples a second; one frame of a slower track could be hours of sound
PLAUSIBLE_GAP_SECONDS = 3600.0  # a hole may be this long where the container claims no duration
TRUNCATED_SECONDS = 1.0  # a recording that ends this much before its claimed end was cut off
READ_BYTES = 1 << 18
WAV_HEADER_BYTES = 1 << 16
WAV_LENGTH_UNKNOWN = 0x7FFF_0000  # programs that write to a pipe claim this or more

# A playlist inside a "recording" must not make FFmpeg open other files or addresses.
_REFERRING_FORMATS = frozenset(
    {"hls", "dash", "concat", "sdp", "rtsp", "imf", "image2", "tedcaptions"}
)

# Their length is FFmpeg's guess from the bit rate: nothing follows from its being wrong.
_GUESSED_LENGTH = frozenset({"aac", "ac3", "amr", "dts", "eac3", "loas"})

MEDIA_DAMAGED = "media_damaged"
MEDIA_TRUNCATED = "media_truncated"
INVALID_SAMPLES = "invalid_samples"


def open_file(path: Path) -> BinaryIO:
    """Open a recording for reading, or say why it cannot be.

    Raises:
        InputNotFound, InputNotAFile, InputUnreadable, InputEmpty: by name.
    """
    shown = os.fsdecode(path)
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputNotFound(f"no such file: `{shown}`", do="Check the path") from error
    except (OSError, ValueError) as error:
        raise InputUnreadable(f"cannot read `{shown}`: {error}", do="Check the path") from error
    if not stat.S_ISREG(status.st_mode):
        if not stat.S_ISDIR(status.st_mode):
            raise InputNotAFile(
                f"`{shown}` is a pipe or a device", do="Save the recording to a file first"
            )
        raise InputNotAFile(
            f"`{shown}` is a folder",
            do="Name the recordings inside it, or use `steno run --bucket` for a whole folder",
        )
    if status.st_size == 0:
        raise InputEmpty(f"`{shown}` has no bytes", do="Copy or record the file again")
    try:
        return path.open("rb")
    except OSError as error:
        raise InputUnreadable(
            f"cannot read `{shown}`: {error.strerror}", do="Check the file's permissions"
        ) from error


class Recording:
    """An open recording; iterate over it once for blocks of samples.

    Args:
        path: a local file of any container and codec that FFmpeg reads.
        track: which audio track, from 0; `None` is the default track.
        max_hours: decoding stops with an error beyond this.

    Attributes:
        claimed_seconds: where the file says that the track ends; `None` when it does not.
        seconds: length of what has been decoded so far.
        flags: what was wrong with the media, complete once the iteration has ended.

    Raises:
        InputError: one of its classes, here or while iterating.
    """

    def __init__(self, path: Path, *, track: int | None = None, max_hours: float = 48.0) -> None:
        self.name = os.fsdecode(path)
        self.flags: list[str] = []
        self._max_samples = int(max_hours * 3600 * SAMPLE_RATE)
        self._emitted = 0
        self._file = open_file(path)
        try:
            self._cut_wav_seconds = _cut_wav_seconds(self._file)
            self._container = self._open()
            self._stream = self._choose(track)
        except BaseException:
            self._file.close()
            raise
        self._clock_may_jump = bool(
            self._container.format.flags & cast(int, Flags.ts_discont.value)
        )
        self._clock_jumped = False
        self._origin = (self._container.start_time or 0) / av.time_base
        self.claimed_seconds = self._claimed()
        self._mix = Downmix()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the decoder and the file; safe to call twice."""
        self._container.close()
        self._file.close()

    @property
    def seconds(self) -> float:
        return self._emitted / SAMPLE_RATE

    def __iter__(self) -> Iterator[Samples]:
        """Yield float32 arrays of one second (the last may be shorter), contiguous from time 0."""
        for block in regrouped(self._pieces(), BLOCK_SAMPLES):
            yield self._emit(block)
        self._check_end()

    def _emit(self, block: Samples) -> Samples:
        self._emitted += len(block)
        if self._emitted > self._max_samples:
            raise RecordingTooLong(
                f"`{self.name}` decodes to more than {self._max_samples / SAMPLE_RATE / 3600:g} h",
                do="Split it, or raise `STENO_MAX_HOURS`",
            )
        return block

    def _open(self) -> InputContainer:
        try:
            container = av.open(
                self._file,
                mode="r",
                options={"protocol_whitelist": ""},
                metadata_errors="replace",
                buffer_size=READ_BYTES,
            )
        except (av.error.FFmpegError, ValueError, UnicodeError) as error:
            raise NotMedia(
                f"`{self.name}` is not a recording that FFmpeg can read: {_reason(error)}",
                do="Check that the file is whole and plays; an interrupted copy or recording "
                "often lacks its index",
            ) from error
        if _REFERRING_FORMATS & set(container.format.name.split(",")):
            container.close()
            raise NotMedia(
                f"`{self.name}` is a list of other files ({container.format.name}), no recording",
                do="Give the recordings themselves",
            )
        return container

    def _choose(self, track: int | None) -> AudioStream:
        tracks = self._container.streams.audio
        if not tracks:
            self._container.close()
            raise NoAudio(
                f"`{self.name}` has no audio track", do="Check that sound was recorded or exported"
            )
        if track is not None and not 0 <= track < len(tracks):
            self._container.close()
            raise NoAudio(
                f"`{self.name}` has no audio track {track}: it has {len(tracks)}",
                do=f"Choose a track from 0 to {len(tracks) - 1}",
            )
        chosen = tracks[track] if track is not None else self._default(tracks)
        if chosen.rate and chosen.rate < LOWEST_RATE:
            self._container.close()
            raise NotMedia(
                f"`{self.name}` has {chosen.rate} samples a second, too few for speech",
                do="Export it again with 8000 or more",
            )
        return chosen

    def _default(self, tracks: Sequence[AudioStream]) -> AudioStream:
        # FFmpeg's own "best" prefers the most channels; the author's default is a better guess.
        marked = (s for s in tracks if s.disposition & s.disposition.__class__.default)
        return next(marked, tracks[0])

    def _claimed(self) -> float | None:
        """The end of the track where it is known: a picture may go on for longer."""
        track = self._stream
        if self._cut_wav_seconds is not None:
            return self._cut_wav_seconds
        if track.duration and track.time_base:
            end = (track.start_time or 0) + track.duration
            return float(end * track.time_base) - self._origin
        whole = _clock_seconds(track.metadata.get("DURATION", ""))
        return whole - self._origin if whole else self._container_seconds()

    def _container_seconds(self) -> float | None:
        duration = self._container.duration
        return duration / av.time_base if duration and duration > 0 else None

    def _pieces(self) -> Iterator[Samples]:
        """Mixed samples at 16 kHz, silence put where the track has holes."""
        resampler = _Resampler()
        produced = 0  # samples at 16 kHz given out, silence included
        for frame in self._frames():
            hole = self._hole(frame, produced + resampler.delay_samples)
            if hole:
                for part in resampler.flush():
                    produced += part.shape[1]
                    yield self._mixed(part)
                yield from _silence(hole)
                produced += hole
            for part in resampler.push(frame):
                produced += part.shape[1]
                yield self._mixed(part)
        yield from (self._mixed(part) for part in resampler.flush())

    def _mixed(self, channels: Samples) -> Samples:
        mono = self._mix(channels)
        if self._mix.invalid:
            self._flag(INVALID_SAMPLES)
        return mono

    def _hole(self, frame: AudioFrame, position: int) -> int:
        """Samples of silence missing before this frame (0: none, or not to be believed)."""
        if frame.time is None:
            return 0
        time = frame.time - self._origin
        gap = time - position / SAMPLE_RATE
        if position and abs(gap) > DISCONTINUITY_SECONDS and self._clock_may_jump:
            self._origin += gap
            self._clock_jumped = True
            return 0
        latest = self._container_seconds() or position / SAMPLE_RATE + PLAUSIBLE_GAP_SECONDS
        if not math.isfinite(time) or gap < GAP_SECONDS or time > latest:
            return 0
        return round(gap * SAMPLE_RATE)

    def _frames(self) -> Iterator[AudioFrame]:
        """Decoded frames; broken packets are skipped and flagged."""
        for packet in self._packets():
            try:
                yield from packet.decode()
            except av.error.FFmpegError:
                self._flag(MEDIA_DAMAGED)

    def _packets(self) -> Iterator[Packet[AudioStream]]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except (StopIteration, av.error.EOFError):
                return
            except av.error.FFmpegError:
                self._flag(MEDIA_DAMAGED)
                return
            yield packet

    def _flag(self, flag: str) -> None:
        if flag not in self.flags:
            self.flags.append(flag)

    def _check_end(self) -> None:
        if self._emitted == 0 or not self._mix.any_valid:
            raise NoSamples(
                f"`{self.name}` holds no valid audio sample",
                do="Check that the recording is not empty and was exported whole",
            )
        unknown = self._clock_jumped or self._container.format.name in _GUESSED_LENGTH
        claimed = None if unknown else self.claimed_seconds
        if claimed and claimed - self.seconds > max(TRUNCATED_SECONDS, 0.02 * claimed):
            self._flag(MEDIA_TRUNCATED)


class _Resampler:
    """To float at 16 kHz, rebuilt when a stream changes its format on the way."""

    def __init__(self) -> None:
        self._inner: av.AudioResampler | None = None
        self._shape: tuple[str, str, int] | None = None
        self._in = 0.0  # seconds pushed
        self._out = 0  # samples given out

    @property
    def delay_samples(self) -> int:
        """Samples that were pushed and not yet given out."""
        return max(0, round(self._in * SAMPLE_RATE) - self._out)

    def push(self, frame: AudioFrame) -> list[Samples]:
        """Channels of 16 kHz samples, each (channels, samples) float32."""
        shape = (frame.format.name, frame.layout.name, frame.sample_rate)
        parts = self.flush() if self._shape not in (None, shape) else []
        if self._inner is None:
            # Not planar: PyAV reads past the plane pointers of frames with 8 channels or more.
            # A second at a time: work in Python for each of a codec's small frames took as long as
            # the network that finds speech.
            self._inner = av.AudioResampler(
                format="flt", layout=frame.layout, rate=SAMPLE_RATE, frame_size=BLOCK_SAMPLES
            )
            self._shape = shape
        self._in += frame.samples / frame.sample_rate
        # Times are kept by the caller: the resampler must neither stretch nor drop to follow them.
        frame.pts = None
        return parts + self._arrays(self._inner.resample(frame))

    def flush(self) -> list[Samples]:
        """What is still held; the resampler starts anew afterwards."""
        if self._inner is None:
            return []
        parts = self._arrays(self._inner.resample(None))
        self._inner, self._shape, self._in, self._out = None, None, 0.0, 0
        return parts

    def _arrays(self, frames: list[AudioFrame]) -> list[Samples]:
        arrays = [
            np.asarray(frame.to_ndarray(), dtype=np.float32).reshape(frame.samples, -1).T
            for frame in frames
        ]
        self._out += sum(array.shape[1] for array in arrays)
        return arrays


def _silence(samples: int) -> Iterator[Samples]:
    for start in range(0, samples, BLOCK_SAMPLES):
        yield np.zeros(min(BLOCK_SAMPLES, samples - start), dtype=np.float32)


def _cut_wav_seconds(file: BinaryIO) -> float | None:
    """Seconds that a wav header claims where the file ends before that; otherwise `None`.

    FFmpeg corrects such a header in silence.
    """
    size = os.fstat(file.fileno()).st_size
    start = file.read(WAV_HEADER_BYTES)
    file.seek(0)
    if start[:4] != b"RIFF" or start[8:12] != b"WAVE":
        return None
    at, bytes_per_second = 12, 0
    while at + 16 <= len(start):
        name, length = start[at : at + 4], int.from_bytes(start[at + 4 : at + 8], "little")
        at += 8
        if name == b"fmt ":
            bytes_per_second = int.from_bytes(start[at + 8 : at + 12], "little")
        if name == b"data":
            cut = bytes_per_second > 0 and size - at < length < WAV_LENGTH_UNKNOWN
            return length / bytes_per_second if cut else None
        at += length + length % 2
    return None


def _clock_seconds(text: str) -> float | None:
    """Seconds of Matroska's `00:00:04.021000000`."""
    try:
        hours, minutes, seconds = (float(part) for part in text.split(":"))
    except ValueError:
        return None
    return hours * 3600 + minutes * 60 + seconds


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
