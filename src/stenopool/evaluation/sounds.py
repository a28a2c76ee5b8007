"""What happens to sound on its way: noise, rooms, telephones; block by block, 16 kHz mono."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stenopool.audio import SAMPLE_RATE, Samples, regrouped

BLOCK = 1 << 16  # samples of one Fourier transform of noise or of a filter
FRAME = SAMPLE_RATE * 32 // 1000  # samples whose loudness is taken together
SPEECH_RANGE = 30.0  # dB below the loudest frames in which a frame is still speech
LOUDEST = 0.95  # quantile of the frames' power that is taken as the loudest: one click is not

# Telephone: the band of ITU-T G.712, and the companding of ITU-T G.711, mu-law.
BAND = (300.0, 3400.0)  # Hz
BAND_TAPS = 511
MU_LAW_BIAS, MU_LAW_SEGMENTS, MU_LAW_STEPS, MU_LAW_SCALE = 33, 8, 16, 8192

AUDIBLE = 20.0  # Hz; what lies below would take power from the noise that is heard

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Survey:
    """What has to be known of a recording before noise can be put to it.

    Attributes:
        samples: how many there are.
        peak: largest absolute value.
        level: root mean square of the frames with speech; 0 in digital silence.
        powers: (frames,) float64, the mean square of each frame of 32 ms.
    """

    samples: int
    peak: float
    level: float
    powers: Floats


def survey(blocks: Iterable[Samples]) -> Survey:
    """Measure a recording; the speech level is that of frames within 30 dB of the loudest."""
    count, peak, powers = 0, 0.0, []
    for block in regrouped(blocks, FRAME * 64):
        count += len(block)
        peak = max(peak, float(np.abs(block).max()))
        whole = np.pad(block, (0, -len(block) % FRAME)).reshape(-1, FRAME).astype(np.float64)
        lengths = np.full(len(whole), FRAME)
        lengths[-1] -= -len(block) % FRAME
        powers.append((whole**2).sum(axis=1) / lengths)
    frames = np.concatenate(powers) if powers else np.zeros(0)
    return Survey(count, peak, _speech_level(frames), frames)


def _speech_level(powers: Floats) -> float:
    if not len(powers) or not powers.any():
        return 0.0
    loudest = np.quantile(powers[powers > 0], LOUDEST)
    speech = powers[powers >= loudest * 10 ** (-SPEECH_RANGE / 10)]
    return float(np.sqrt(speech.mean()))


def white_noise(random: np.random.Generator) -> Iterator[Samples]:
    """Endless noise with the same power at all frequencies; its root mean square is 1."""
    while True:
        yield random.standard_normal(BLOCK, dtype=np.float32)


def pink_noise(random: np.random.Generator) -> Iterator[Samples]:
    """Endless noise whose power density falls by half with each octave from 20 Hz on; its root mean
    square is 1.

    Blocks overlap by half under windows whose squares add up to one, so that borders are not heard.
    """
    window = np.sin(np.pi * (np.arange(BLOCK) + 0.5) / BLOCK)
    rest = np.zeros(BLOCK // 2)
    amplitude = 1 / np.sqrt(np.maximum(1.0, np.arange(BLOCK // 2 + 1)))
    amplitude[: round(AUDIBLE * BLOCK / SAMPLE_RATE)] = 0.0
    scale = math.sqrt(BLOCK / (2 * np.sum(amplitude**2)))
    first = True
    while True:
        spectrum = np.fft.rfft(random.standard_normal(BLOCK)) * amplitude * scale
        block = np.fft.irfft(spectrum, BLOCK) * window
        if not first:  # the first half of the first block has no partner
            yield (block[: BLOCK // 2] + rest).astype(np.float32)
        first, rest = False, block[BLOCK // 2 :]


def repeated(sound: Samples, start: int) -> Iterator[Samples]:
    """A sound over and over, from one of its samples on."""
    while True:
        yield sound[start:]
        start = 0


def mixed(
    blocks: Iterable[Samples], noise: Iterator[Samples], gain: float, scale: float
) -> Iterator[Samples]:
    """`scale` times the sum of a sound and of `gain` times an endless noise."""
    held = np.zeros(0, dtype=np.float32)
    for block in blocks:
        while len(held) < len(block):
            held = np.concatenate([held, next(noise)])
        yield ((block + gain * held[: len(block)]) * scale).astype(np.float32)
        held = held[len(block) :]


def convolved(blocks: Iterable[Samples], kernel: Floats, *, skip: int = 0) -> Iterator[Samples]:
    """A sound through a filter, by overlapping Fourier transforms.

    Args:
        blocks: any sizes.
        kernel: (taps,) impulse response.
        skip: samples of delay to take away; as many are given after the end of the sound.

    Yields:
        in all as many samples as came in and `len(kernel) - 1 - skip` more.
    """
    tail = len(kernel) - 1
    size = 1 << (max(BLOCK, 4 * tail) - 1).bit_length()
    spectrum = np.fft.rfft(kernel, size)
    rest = np.zeros(tail)
    for block in regrouped(blocks, size - tail):
        whole = np.fft.irfft(np.fft.rfft(block, size) * spectrum, size)[: len(block) + tail]
        whole[:tail] += rest
        ready, rest = whole[: len(block)], whole[len(block) :]
        yield ready[skip:].astype(np.float32)
        skip = max(0, skip - len(ready))
    yield rest[skip:].astype(np.float32)


def telephone(blocks: Iterable[Samples]) -> Iterator[Samples]:
    """A sound as a telephone line carries it: 300 to 3400 Hz, 8 kHz, 8 bits of mu-law."""
    half = BAND_TAPS // 2
    narrow = regrouped(_cut(convolved(blocks, _band_pass(BAND), skip=half), half), BLOCK)
    stuffed = (_stuffed(mu_law(block[::2])) for block in narrow)
    low_pass = 2 * _band_pass((0.0, BAND[1]))  # half the samples are zeros
    yield from _cut(convolved(stuffed, low_pass, skip=half), half)


def mu_law(samples: Samples) -> Samples:
    """Each sample as the nearest of the 255 values that G.711 has for it."""
    levels = _mu_law_levels()
    nearest = np.searchsorted((levels[1:] + levels[:-1]) / 2, samples)
    return np.asarray(levels[nearest], dtype=np.float32)


def _mu_law_levels() -> Floats:
    steps = 2 * np.arange(MU_LAW_STEPS) + MU_LAW_BIAS
    segments = [(steps << segment) - MU_LAW_BIAS for segment in range(MU_LAW_SEGMENTS)]
    positive = np.concatenate(segments) / MU_LAW_SCALE
    return np.unique(np.concatenate([-positive, positive]))


def _stuffed(block: Samples) -> Samples:
    """A zero after each sample."""
    return np.stack([block, np.zeros_like(block)], axis=1).reshape(-1)


def _band_pass(band: tuple[float, float]) -> Floats:
    """Linear-phase filter: a difference of two sincs under a Blackman window."""
    at = np.arange(BAND_TAPS) - BAND_TAPS // 2
    low, high = (2 * edge / SAMPLE_RATE for edge in band)
    ideal = high * np.sinc(high * at) - low * np.sinc(low * at)
    return np.asarray(ideal * np.blackman(BAND_TAPS))


def _cut(blocks: Iterable[Samples], count: int) -> Iterator[Samples]:
    """All but the last samples."""
    held = np.zeros(0, dtype=np.float32)
    for block in blocks:
        held = np.concatenate([held, block])
        if len(held) > count:
            yield held[: len(held) - count]
            held = held[len(held) - count :]


def room(random: np.random.Generator, *, rt60: float) -> Floats:
    """Impulse response of a room: the direct sound, then noise that decays by 60 dB in `rt60` s.

    Direct and reverberant sound have the same energy; together it is 1.
    """
    count = round(rt60 * SAMPLE_RATE)
    decay = 10 ** (-3 * np.arange(count) / count)
    tail = random.standard_normal(count) * decay
    tail[0] = 0.0
    tail *= math.sqrt(0.5 / np.sum(tail**2))
    tail[0] = math.sqrt(0.5)
    return tail


def clipped(blocks: Iterable[Samples], limit: float, scale: float) -> Iterator[Samples]:
    """A sound cut off at ±`limit`, then `scale` times as loud."""
    for block in blocks:
        yield np.clip(block, -limit, limit) * np.float32(scale)


def inserted(blocks: Iterable[Samples], gaps: Iterable[tuple[int, Samples]]) -> Iterator[Samples]:
    """A sound with others put into it, each before one of its samples; places ascend."""
    pending, at = list(gaps), 0
    for block in blocks:
        begun = 0
        while pending and pending[0][0] < at + len(block):
            place, sound = pending.pop(0)
            yield block[begun : place - at]
            yield sound
            begun = place - at
        yield block[begun:]
        at += len(block)


def music(random: np.random.Generator, *, seconds: float, level: float) -> Samples:
    """Chords of plucked strings, half a second each."""
    beats = []
    time = np.arange(SAMPLE_RATE // 2) / SAMPLE_RATE
    for _ in range(round(seconds * 2)):
        root = 110.0 * 2 ** (random.integers(0, 24) / 12)
        notes = [root, root * 2 ** ((3 + random.integers(0, 2)) / 12), root * 2 ** (7 / 12)]
        waves = [
            np.sin(2 * np.pi * note * harmonic * time) * np.exp(-3 * harmonic * time) / harmonic
            for note in notes
            for harmonic in range(1, 6)
        ]
        beats.append(np.sum(waves, axis=0))
    sound = np.concatenate(beats)
    return np.asarray(sound * level / np.sqrt(np.mean(sound**2)), dtype=np.float32)
