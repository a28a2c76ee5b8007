"""Word error rate and speed beside faster-whisper, on the same weights, files and threads.

    python benchmarks/peers.py DATA/manifest.jsonl --model tiny.en --rounds 3

Rounds alternate between the systems (A B C A B C …), so that what else the machine does hits all of
them; speed is the median over rounds and the ratio that of each round's pair.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jiwer
from faster_whisper import BatchedInferencePipeline, WhisperModel
from whisper_normalizer.english import EnglishTextNormalizer

from chapters import Chapter, joined_chapters
from stenopool import Options, Transcriber
from stenopool.engines import usable_cores

System = Callable[[str], str]


def main() -> None:
    """Print a line for each round and system, then the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--model", default="tiny.en")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--language", default="en")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        chapters = joined_chapters(arguments.manifest, Path(folder))
        systems = load(arguments.model, arguments.language)
        walls: dict[str, list[float]] = {name: [] for name in systems}
        for number in range(arguments.rounds):
            for name, system in systems.items():
                wall, texts = measured(system, chapters)
                walls[name].append(wall)
                print(f"round {number + 1}  {name:<28} {wall:7.1f} s  {errors(chapters, texts)}")
    seconds = sum(chapter.seconds for chapter in chapters)
    print(f"\n{arguments.model}, {seconds / 60:.0f} min, {usable_cores()} threads")
    first = walls[next(iter(walls))]
    for name, taken in walls.items():
        ratio = statistics.median(mine / theirs for mine, theirs in zip(first, taken, strict=True))
        median = statistics.median(taken)
        print(f"{name:<28} {seconds / median:6.1f} x real time; stenopool takes {ratio:.2f} of it")


def load(model: str, language: str) -> dict[str, System]:
    """The systems by name, each on all cores that this process may use."""
    ours = Transcriber(model)
    options = Options(language=language)
    cores = usable_cores()
    theirs = WhisperModel(str(ours.model.folder), "cpu", compute_type="int8", cpu_threads=cores)
    batched = BatchedInferencePipeline(theirs)

    def joined(segments: object) -> str:
        return " ".join(segment.text for segment in segments)  # type: ignore[attr-defined]

    return {
        "stenopool": lambda path: ours.transcribe(path, options).text,
        "faster-whisper batched": lambda path: joined(
            batched.transcribe(path, language=language, batch_size=8)[0]
        ),
        "faster-whisper sequential": lambda path: joined(
            theirs.transcribe(path, language=language)[0]
        ),
    }


def measured(system: System, chapters: list[Chapter]) -> tuple[float, list[str]]:
    """Wall seconds for all chapters, and their texts."""
    begun = time.perf_counter()
    texts = [system(str(chapter.path)) for chapter in chapters]
    return time.perf_counter() - begun, texts


def errors(chapters: list[Chapter], texts: list[str]) -> str:
    """Word error rate with its parts, after the Whisper normaliser."""
    normalise = EnglishTextNormalizer()
    found = jiwer.process_words(
        [normalise(chapter.text) for chapter in chapters], [normalise(text) for text in texts]
    )
    parts = f"{found.insertions} ins, {found.deletions} del, {found.substitutions} sub"
    return f"WER {100 * found.wer:.2f} % ({parts})"


if __name__ == "__main__":
    main()
