"""A distilled student beside its teacher: a decoder's step, and whole transcriptions, in turns.

    python benchmarks/distilled.py MANIFEST --teacher base --student FOLDER

Each line of the manifest has `audio` and `duration`. Steps are those of greedy search on as many
clips at a time as `--batch` says; the rate is that of all clips in one call, with the options that
`steno transcribe` has by default.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

from clips import features_of, prompt_of, rows_of
from stenopool import Options, Transcriber
from stenopool.audio.features import Features
from stenopool.engines.base import Engine, Search
from stenopool.errors import StenoError

TEACHER, STUDENT = "teacher", "student"


def step_milliseconds(engine: Engine, prompt: list[int], features: Features) -> float:
    """Of one token of all clips."""
    encoded = engine.encode(features)
    begun = time.perf_counter()
    found = engine.generate(encoded, [prompt] * len(features), Search(beam_size=1))
    steps = max(len(one.tokens) for one in found) + 1
    return 1000 * (time.perf_counter() - begun) / steps


def whole_seconds(transcriber: Transcriber, paths: list[Path], options: Options) -> float:
    begun = time.perf_counter()
    for one in transcriber.transcribe_many(paths, options):
        if isinstance(one, StenoError):
            raise one
    return time.perf_counter() - begun


def compare(what: str, rounds: int, measure: Callable[[str], float]) -> None:
    """Measure both in turns, A B B A and so on, after a turn that warms up; print the ratios."""
    taken: dict[str, list[float]] = {TEACHER: [], STUDENT: []}
    for number in range(rounds + 1):
        for name in (TEACHER, STUDENT) if number % 2 else (STUDENT, TEACHER):
            found = measure(name)
            if number:
                taken[name].append(found)
    middle = {name: statistics.median(found) for name, found in taken.items()}
    ratios = [one / other for one, other in zip(taken[TEACHER], taken[STUDENT], strict=True)]
    shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(
        f"{what}: teacher {middle[TEACHER]:.2f}, student {middle[STUDENT]:.2f}; "
        f"{statistics.median(ratios):.2f} times as fast (turns: {shown})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--teacher", default="base")
    parser.add_argument("--student", required=True)
    parser.add_argument("--language", default="en")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--clips", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=4)
    given = parser.parse_args()
    rows = rows_of(given.manifest, given.clips)
    paths = [row["audio"] for row in rows]
    models = {TEACHER: Transcriber(given.teacher), STUDENT: Transcriber(given.student)}
    engines = {name: cast("Engine", one.engine) for name, one in models.items()}
    teacher, folder = engines[TEACHER], models[TEACHER].model.folder
    prompt = prompt_of(folder, teacher, given.language, timestamps=False)
    for size in given.batch:
        features = features_of(paths[:size], teacher.mel_bins)

        def step(name: str, features: Features = features) -> float:
            return step_milliseconds(engines[name], prompt, features)

        compare(f"a step of {size} clips, ms", given.rounds, step)
    options = Options(language=given.language)
    seconds = sum(row["duration"] for row in rows)

    def whole(name: str) -> float:
        return whole_seconds(models[name], paths, options)

    compare(f"{seconds:.0f} s of sound, s", given.rounds, whole)


if __name__ == "__main__":
    main()
