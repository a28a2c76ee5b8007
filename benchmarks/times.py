"""How far word times are from where speech was heard, on chapters with known utterance borders.

    python benchmarks/times.py DATA/manifest.jsonl --model tiny.en

The first and the last word of each utterance that was recognised are compared with the utterance's
borders (which include the silence that the recording has there, some 0.3 s) and with the first and
last sound inside them (25 dB below the loud parts of the utterance).
"""

from __future__ import annotations

import argparse
import tempfile
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import soundfile
from whisper_normalizer.basic import BasicTextNormalizer

from chapters import Chapter, Utterance, joined_chapters
from stenopool import Options, Transcriber, Transcript

FRAME_SECONDS = 0.01
QUIETER_DB = 25.0
RUN_FRAMES = 5

Pair = tuple[float, float]


def main() -> None:
    """Print median and 95th percentile of the absolute differences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--model", default="tiny.en")
    arguments = parser.parse_args()
    transcriber = Transcriber(arguments.model)
    differences: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for chapter in joined_chapters(arguments.manifest, Path(folder)):
            transcript = transcriber.transcribe(chapter.path, Options(language="en"))
            for spoken, utterance in matched(chapter, transcript):
                heard = sound(chapter.path, utterance)
                for end, name in enumerate(("start", "end")):
                    border = (utterance.start, utterance.end)[end]
                    if spoken[end] is not None:
                        time = float(spoken[end] or 0)
                        differences.setdefault(f"{name}, border", []).append(time - border)
                        differences.setdefault(f"{name}, sound", []).append(time - heard[end])
    for name, values in differences.items():
        absolute = np.abs(values)
        median, high = np.median(absolute), np.percentile(absolute, 95)
        print(
            f"{name:<14} {len(values)} words  median {median:.3f} s  95th percentile {high:.3f} s"
        )


def matched(
    chapter: Chapter, transcript: Transcript
) -> list[tuple[tuple[float | None, float | None], Utterance]]:
    """For each utterance the start of its first word and the end of its last, where recognised."""
    normalise = BasicTextNormalizer()
    reference = [normalise(one.text).split() for one in chapter.utterances]
    words = [
        (plain, word)
        for segment in transcript.segments
        for word in segment.words
        for plain in normalise(word.word).split()
    ]
    flat = [word for utterance in reference for word in utterance]
    found = {
        block.a + step: words[block.b + step][1]
        for block in SequenceMatcher(
            None, flat, [plain for plain, _ in words], autojunk=False
        ).get_matching_blocks()
        for step in range(block.size)
    }
    result, at = [], 0
    for utterance, plain in zip(chapter.utterances, reference, strict=True):
        first, last = found.get(at), found.get(at + len(plain) - 1)
        start, end = first.start if first else None, last.end if last else None
        result.append(((start, end), utterance))
        at += len(plain)
    return result


def sound(path: Path, utterance: Utterance) -> Pair:
    """First and last time inside an utterance at which there is sound for 50 ms."""
    rate = soundfile.info(path).samplerate
    first, last = round(utterance.start * rate), round(utterance.end * rate)
    samples, _ = soundfile.read(path, start=first, stop=last, dtype="float32")
    step = round(FRAME_SECONDS * rate)
    frames = samples[: len(samples) // step * step].reshape(-1, step)
    level = 10 * np.log10(np.mean(np.square(frames), axis=1) + 1e-10)
    loud = level > np.percentile(level, 95) - QUIETER_DB
    runs = np.lib.stride_tricks.sliding_window_view(loud, RUN_FRAMES).all(axis=1)
    at = np.flatnonzero(runs)
    return (
        utterance.start + float(at[0]) * FRAME_SECONDS,
        utterance.start + float(at[-1] + RUN_FRAMES) * FRAME_SECONDS,
    )


if __name__ == "__main__":
    main()
