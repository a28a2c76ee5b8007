"""Sounds made of formulas, and files of many formats to hold them."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

Sound = NDArray[np.float64]  # (samples,) or (channels, samples), full scale is 1

WAV_FORMATS = {"u8": (1, 8), "s16": (1, 16), "s24": (1, 24), "f32": (3, 32), "f64": (3, 64)}


def tone(seconds: float, *, hz: float = 440.0, rate: int = 16_000, level: float = 0.5) -> Sound:
    """A sine."""
    time = np.arange(round(seconds * rate)) / rate
    return level * np.sin(2 * np.pi * hz * time)


def late_tone(seconds: float, at: float, *, hz: float = 440.0, rate: int = 16_000) -> Sound:
    """Silence with a tone from `at` seconds on."""
    return np.concatenate([np.zeros(round(at * rate)), tone(seconds - at, hz=hz, rate=rate)])


def noise(seconds: float, *, rate: int = 16_000, level: float = 0.1, seed: int = 1) -> Sound:
    """White noise; `level` is its standard deviation."""
    return level * np.random.default_rng(seed).standard_normal(round(seconds * rate))


def pink_noise(seconds: float, *, rate: int = 16_000, level: float = 0.1, seed: int = 1) -> Sound:
    """Noise whose power falls by half with each octave."""
    white = np.fft.rfft(noise(seconds, rate=rate, seed=seed))
    pink = np.fft.irfft(white / np.sqrt(np.arange(len(white)) + 1.0))
    return level * pink / np.std(pink)


def onset(samples: NDArray[np.float32], *, threshold: float = 0.1) -> float:
    """Seconds at which 16 kHz samples first become loud."""
    return float(np.argmax(np.abs(samples) > threshold)) / 16_000


def wav_bytes(
    sound: Sound, *, rate: int = 16_000, form: str = "s16", claimed_bytes: int | None = None
) -> bytes:
    """A RIFF file; `claimed_bytes` puts another size of the data in the header."""
    tag, bits = WAV_FORMATS[form]
    channels = 1 if sound.ndim == 1 else len(sound)
    data = _encoded(np.ascontiguousarray(np.atleast_2d(sound).T).ravel(), form)
    size = len(data) if claimed_bytes is None else claimed_bytes
    width = channels * bits // 8
    head = struct.pack("<HHIIHH", tag, channels, rate, rate * width, width, bits)
    return b"".join(
        [
            b"RIFF" + struct.pack("<I", min(36 + size, 2**32 - 1)) + b"WAVE",
            b"fmt " + struct.pack("<I", len(head)) + head,
            b"data" + struct.pack("<I", size) + data,
        ]
    )


def _encoded(interleaved: Sound, form: str) -> bytes:
    if form == "f64":
        return interleaved.astype("<f8").tobytes()
    if form == "f32":
        return interleaved.astype("<f4").tobytes()
    clipped = np.clip(interleaved, -1.0, 1.0)
    if form == "u8":
        return np.round(clipped * 127 + 128).astype(np.uint8).tobytes()
    if form == "s24":
        wide = np.round(clipped * (2**23 - 1)).astype("<i4")
        return wide.view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    return np.round(clipped * 32767).astype("<i2").tobytes()


def write_wav(path: Path, sound: Sound, *, rate: int = 16_000, form: str = "s16") -> Path:
    """A wav file of one of `WAV_FORMATS`."""
    path.write_bytes(wav_bytes(sound, rate=rate, form=form))
    return path


@dataclass(frozen=True, slots=True)
class Shift:
    """Times of an audio track: when it begins, and a hole in it. Seconds."""

    start: float = 0.0
    hole_at: float = float("inf")
    hole: float = 0.0

    def of(self, seconds: float) -> float:
        return self.start + (self.hole if seconds >= self.hole_at else 0.0)


def write_media(
    path: Path,
    sounds: Sound | list[Sound],
    *,
    codec: str,
    rate: int = 48_000,
    video_seconds: float = 0.0,
    shift: Shift | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """A file of any container (by its suffix) with one or more audio tracks, and video if asked."""
    tracks = sounds if isinstance(sounds, list) else [sounds]
    with av.open(str(path), mode="w", options=options or {}) as container:
        video = container.add_stream("mpeg4", rate=10) if video_seconds else None
        layouts = ["mono" if sound.ndim == 1 else "stereo" for sound in tracks]
        added = [container.add_stream(codec, rate=rate, layout=name) for name in layouts]
        streams = [stream for stream in added if isinstance(stream, av.AudioStream)]
        if video is not None:
            video.width = video.height = 32
            video.pix_fmt = "yuv420p"
            for _ in range(round(video_seconds * 10)):
                picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")
                container.mux(video.encode(picture))
            container.mux(video.encode(None))
        for stream, sound in zip(streams, tracks, strict=True):
            _mux_sound(container, stream, sound, rate, shift or Shift())
    return path


def _mux_sound(
    container: av.container.OutputContainer,
    stream: av.AudioStream,
    sound: Sound,
    rate: int,
    shift: Shift,
) -> None:
    planes = np.round(np.clip(np.atleast_2d(sound), -1, 1) * 32767).astype(np.int16)
    frames: list[av.AudioFrame | None] = [None]  # the last one flushes the encoder
    for at in range(0, planes.shape[1], rate):
        plane = np.ascontiguousarray(planes[:, at : at + rate])
        frame = av.AudioFrame.from_ndarray(plane, "s16p", "mono" if sound.ndim == 1 else "stereo")
        frame.sample_rate, frame.pts, frame.time_base = rate, at, Fraction(1, rate)
        frames.insert(-1, frame)
    for each in frames:
        for packet in stream.encode(each):
            if packet.pts is not None and packet.time_base is not None:
                moved = round(shift.of(float(packet.pts * packet.time_base)) / packet.time_base)
                packet.pts += moved
                packet.dts = packet.pts
            container.mux(packet)
