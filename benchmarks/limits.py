"""Memory and speed on long recordings, and words that are written for sounds without speech.

python benchmarks/limits.py memory SPEECH.wav --model base
python benchmarks/limits.py hours SPEECH.wav --model base --hours 10
python benchmarks/limits.py silence --model base --minutes 10
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

RATE = 16_000
MEMORY_MINUTES = (30, 180)
HOUR = 3600


def main() -> None:
    """Run one of the measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["memory", "hours", "silence", "one"])
    parser.add_argument("speech", type=Path, nargs="?")
    parser.add_argument("--model", default="base")
    parser.add_argument("--minutes", type=int, default=10)
    parser.add_argument("--hours", type=int, default=10)
    arguments = parser.parse_args()
    if arguments.what == "one":
        one(arguments.speech, arguments.model)
        return
    with tempfile.TemporaryDirectory() as folder:
        if arguments.what == "memory":
            memory(arguments.speech, arguments.model, Path(folder))
        elif arguments.what == "hours":
            hours(arguments.speech, arguments.model, arguments.hours, Path(folder))
        else:
            silence(arguments.minutes, arguments.model, Path(folder))


def memory(speech: Path, model: str, folder: Path) -> None:
    """Repeat a recording to 30 minutes and 3 hours, and transcribe each in its own process."""
    for minutes in MEMORY_MINUTES:
        path = folder / f"{minutes}.wav"
        _repeat(speech, path, minutes * 60)
        print(f"{minutes:4} min  ", end="", flush=True)
        _in_process(path, model)


def hours(speech: Path, model: str, count: int, folder: Path) -> None:
    """How long each hour of one recording takes, and the memory of the process after it.

    The hours are counted from the first text on: before it, models are loaded and the first
    windows fill the batch, which no later hour does.
    """
    from stenopool import Options, Transcriber

    path = folder / "hours.wav"
    _repeat(speech, path, count * HOUR)
    transcriber = Transcriber(model)
    began = time.perf_counter()
    marks: list[tuple[float, float]] = []  # seconds of audio done, and when

    def told(done: float, _total: float | None) -> None:
        now = time.perf_counter()
        if not marks:
            print(f"first text  {now - began:4.1f} s  {_resident_mib():5.0f} MiB", flush=True)
            marks.append((done, now))
        while done >= marks[0][0] + len(marks) * HOUR:
            marks.append((done, now))
            took = now - marks[-2][1]
            print(f"hour {len(marks) - 1:3}  {took:6.1f} s  {_resident_mib():5.0f} MiB", flush=True)

    transcript = transcriber.transcribe(path, Options(language="en"), progress=told)
    took = np.diff([when for _, when in marks])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{transcript.duration / HOUR:.2f} h, {len(transcript.text.split())} words")
    print(f"peak {peak:.0f} MiB; the last hour took {took[-1] / took[0]:.3f} times the first")


def _repeat(speech: Path, path: Path, seconds: int) -> None:
    samples, rate = soundfile.read(speech, dtype="int16")
    with soundfile.SoundFile(path, "w", rate, 1) as file:
        while file.frames < seconds * rate:
            file.write(samples)


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


def silence(minutes: int, model: str, folder: Path) -> None:
    """Digital silence, white and pink noise, hum and a chord."""
    for name, make in SOUNDS.items():
        path = folder / f"{name}.wav"
        with soundfile.SoundFile(path, "w", RATE, 1) as file:
            for number in range(minutes * 6):
                file.write(make(np.arange(10 * RATE) + number * 10 * RATE))
        print(f"{name:<8}  ", end="", flush=True)
        _in_process(path, model)


def _in_process(path: Path, model: str) -> None:
    command = [sys.executable, __file__, "one", str(path), "--model", model]
    subprocess.run(command, check=True)


def one(path: Path, model: str) -> None:
    """Transcribe a file and print words, peak memory and speed."""
    from stenopool import Options, Transcriber

    transcript = Transcriber(model).transcribe(path, Options(language="en"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    print(
        f"{len(transcript.text.split()):6} words  peak {peak:5.0f} MiB  "
        f"real-time factor {transcript.timing.real_time_factor:.4f}  {transcript.flags}"
    )


Sound = Callable[[NDArray[np.int64]], NDArray[np.float64]]


def _tones(*hertz: float) -> Sound:
    def make(at: NDArray[np.int64]) -> NDArray[np.float64]:
        waves = [np.sin(2 * np.pi * tone * at / RATE) for tone in hertz]
        return np.asarray(0.3 * np.sum(waves, axis=0) / len(waves))

    return make


def _white() -> Iterator[NDArray[np.float64]]:
    random = np.random.default_rng(1)
    while True:
        yield random.normal(0, 0.1, 10 * RATE)


def _pink() -> Iterator[NDArray[np.float64]]:
    for white in _white():
        spectrum = np.fft.rfft(white)
        pink = np.fft.irfft(spectrum / np.sqrt(np.maximum(1, np.arange(len(spectrum)))))
        yield 0.1 * pink / np.std(pink)


_WHITE, _PINK = _white(), _pink()

SOUNDS: dict[str, Sound] = {
    "digital": lambda at: np.zeros(len(at)),
    "white": lambda at: next(_WHITE),
    "pink": lambda at: next(_PINK),
    "hum": _tones(50, 100, 150),
    "chord": _tones(261.6, 329.6, 392.0),
}


if __name__ == "__main__":
    main()
