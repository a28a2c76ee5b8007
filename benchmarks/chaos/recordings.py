"""Recordings of many lengths, cut and joined from speech; the same ones each time."""

from __future__ import annotations

import importlib.util
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

RATE = 16_000
SHORTEST, LONGEST_CUT = 3.0, 15.0  # seconds of speech that stay together
PAUSE = 0.6  # seconds between cuts
SUFFIXES = {".wav", ".flac"}
DEMO = Path(__file__).parent.parent.parent / "examples" / "demo.py"

Samples = NDArray[np.int16]


def lengths(count: int) -> list[float]:
    """Seconds: every tenth from 10 to 12 minutes, the others from 5 s to 5 minutes."""
    long = max(1, count // 10)
    short = [float(one) for one in np.geomspace(5, 300, count - long)]
    return [*short, *(float(one) for one in np.linspace(600, 720, long))]


def make(folder: Path, seconds: list[float], data: Path | None = None) -> list[Path]:
    """Write a recording of each length; those of equal lengths differ too.

    Args:
        data: folder with wav and flac files; None for the recording of `make demo`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    speech = samples(data)
    paths = []
    for number, length in enumerate(seconds):
        path = folder / f"{number:04d}-{round(length)}s.wav"
        write(path, joined(speech, length, number))
        paths.append(path)
    return paths


def joined(speech: Samples, seconds: float, seed: int) -> Samples:
    """Cuts of speech in a random order, with pauses, so many seconds in all."""
    random = np.random.default_rng(seed)
    wanted = round(seconds * RATE)
    pieces: list[Samples] = []
    while sum(map(len, pieces)) < wanted:
        length = round(random.uniform(SHORTEST, LONGEST_CUT) * RATE)
        start = int(random.integers(0, max(1, len(speech) - length)))
        pieces += [speech[start : start + length], np.zeros(round(PAUSE * RATE), np.int16)]
    return np.concatenate(pieces)[:wanted]


def samples(data: Path | None = None) -> Samples:
    """All speech there is, one file after the other: `(samples,)` int16 at 16 kHz."""
    if data is None:
        return decoded(_speech_of_the_demo())
    paths = sorted(path for path in data.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise SystemExit(f"no wav or flac file below `{data}`")
    return np.concatenate([decoded(path) for path in paths])


def decoded(path: Path) -> Samples:
    """A media file as `(samples,)` int16 at 16 kHz."""
    with av.open(str(path)) as media:
        return np.concatenate([*_blocks(media)])


def write(path: Path, sound: Samples) -> None:
    """Write a wav file."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(sound.astype("<i2").tobytes())


def seconds_of(paths: list[Path]) -> float:
    """Of wav files as `write` makes them, together."""
    return sum(path.stat().st_size for path in paths) / 2 / RATE


def _blocks(media: Any) -> Iterator[Samples]:  # noqa: ANN401  PyAV's input container
    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
    for frame in [*media.decode(audio=0), None]:
        for part in resampler.resample(frame):
            yield part.to_ndarray()[0]


def _speech_of_the_demo() -> Path:
    spec = importlib.util.spec_from_file_location("demo", DEMO)
    if spec is None or spec.loader is None:
        raise SystemExit(f"no such file: `{DEMO}`; give recordings with `--data`")
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    path: Path = demo.speech()
    return path
