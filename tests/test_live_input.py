from __future__ import annotations

from typing import Any

import av
import numpy as np
import pytest

from stenopool.audio.live_input import Format, LiveInput
from stenopool.errors import UsageError

SECONDS = 1.0


def tone(rate: int) -> np.ndarray[Any, np.dtype[np.int16]]:
    time = np.arange(round(rate * SECONDS)) / rate
    return (8000 * np.sin(2 * np.pi * 440 * time)).astype(np.int16)


def encoded(codec: str, rate: int) -> list[bytes]:
    """Packets of a tone."""
    context: Any = av.CodecContext.create(codec, "w")
    context.sample_rate, context.layout = rate, "mono"
    context.format = context.codec.audio_formats[0]
    resampler = av.AudioResampler(context.format, "mono", rate, frame_size=960)
    frame = av.AudioFrame.from_ndarray(tone(rate)[None], "s16", "mono")
    frame.sample_rate = rate
    frames = [*resampler.resample(frame), *resampler.resample(None)]
    packets = [packet for one in frames for packet in context.encode(one)]
    return [bytes(packet) for packet in (*packets, *context.encode(None))]


def pitch(samples: bytes) -> float:
    """The strongest frequency, in Hz."""
    wave = np.frombuffer(samples, dtype="<i2").astype(float)
    return float(np.argmax(np.abs(np.fft.rfft(wave))) / (len(wave) / 16_000))


@pytest.mark.parametrize("rate", [8000, 16_000, 24_000, 44_100, 48_000])
def test_pcm_of_any_rate_becomes_16_khz(rate: int) -> None:
    source = LiveInput(Format("audio/pcm", rate))
    data = tone(rate).tobytes()
    # Odd sizes: networks cut where they like.
    samples = b"".join(source.take(data[at : at + 777]) for at in range(0, len(data), 777))
    assert len(samples) / 32_000 == pytest.approx(SECONDS, abs=0.01)
    assert pitch(samples) == pytest.approx(440, abs=3)


@pytest.mark.parametrize(
    ("kind", "codec", "rate"),
    [
        ("audio/pcmu", "pcm_mulaw", 8000),
        ("audio/pcma", "pcm_alaw", 8000),
        ("audio/opus", "libopus", 48_000),
    ],
)
def test_telephone_and_opus(kind: str, codec: str, rate: int) -> None:
    source = LiveInput(Format(kind, rate))
    samples = b"".join(source.take(packet) for packet in encoded(codec, rate))
    assert len(samples) / 32_000 == pytest.approx(SECONDS, abs=0.05)
    assert pitch(samples) == pytest.approx(440, abs=5)


def test_formats_are_known_by_both_names() -> None:
    assert Format.of("pcm16") == Format("audio/pcm", 24_000)
    assert Format.of("g711_ulaw") == Format("audio/pcmu", 8000)
    assert Format.of({"type": "audio/pcm", "rate": 16_000}) == Format("audio/pcm", 16_000)
    assert Format.of({"type": "audio/opus"}).rate == 48_000
    assert Format.of("pcm16").old_name == "pcm16"


@pytest.mark.parametrize(
    "given",
    [
        "mp3",
        7,
        {"type": "audio/wav"},
        {"type": "audio/pcm", "rate": 1},
        {"type": "audio/pcm", "rate": "24000"},
        {"type": "audio/pcm", "rate": True},
        {"type": "audio/pcmu", "rate": 16_000},
    ],
)
def test_other_formats_are_refused(given: object) -> None:
    with pytest.raises(UsageError):
        Format.of(given)
