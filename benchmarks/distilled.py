"""A distilled student beside its teacher: a decoder's step, and whole transcriptions, in turns.

    python benchmarks/distilled.py MANIFEST --teacher base --student FOLDER

Each line of the manifest has `audio` and `duration`. Steps are those of greedy search on as many
clips at a time as `--batch` says; the rate is that of all clips in one call, with the options that
`steno transcribe` has by default.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from itertools import chain
from pathlib import Path

import numpy as np

from stenopool import Options, Transcriber
from stenopool.audio.features import WINDOW_SAMPLES, Features, log_mel
from stenopool.audio.media import Recording
from stenopool.decoding.tokens import Vocabulary
from stenopool.engines import choose, load
from stenopool.engines.base import Engine, Search
from stenopool.errors import StenoError
from stenopool.models import Store


def heard(paths: list[Path], mel_bins: int) -> Features:
    """(clips, mel bins, frames)."""
    sounds = []
    for path in paths:
        with Recording(path) as recording:
            sounds.append(np.concatenate(list(recording))[:WINDOW_SAMPLES])
    return np.stack([log_mel(sound, mel_bins) for sound in sounds])


def step_seconds(engine: Engine, prompt: list[int], features: Features) -> float:
    """Of one token of all clips."""
    encoded = engine.encode(features)
    begun = time.perf_counter()
    found = engine.generate(encoded, [prompt] * len(features), Search(beam_size=1))
    steps = max(len(one.tokens) for one in found) + 1
    return (time.perf_counter() - begun) / steps


def whole_seconds(transcriber: Transcriber, paths: list[Path], options: Options) -> float:
    begun = time.perf_counter()
    for one in transcriber.transcribe_many(paths, options):
        if isinstance(one, StenoError):
            raise one
    return time.perf_counter() - begun


def turns(names: tuple[str, str], rounds: int) -> list[str]:
    """A, B, B, A, …; first both once, to warm up."""
    order = chain.from_iterable(names if one % 2 else names[::-1] for one in range(1, rounds + 1))
    return [*names, *order]


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
    lines = given.manifest.read_text(encoding="utf-8").splitlines()[: given.clips]
    rows = [json.loads(line) for line in lines]
    paths = [given.manifest.parent / row["audio"] for row in rows]
    seconds = sum(row["duration"] for row in rows)
    store = Store()
    folders = {
        name: store.resolve(model).folder
        for name, model in (("teacher", given.teacher), ("student", given.student))
    }
    names = ("teacher", "student")
    engines = {name: load(folder, choose("openvino")) for name, folder in folders.items()}
    vocabulary = Vocabulary(folders["teacher"] / "tokenizer.json")
    language = given.language if engines["teacher"].multilingual else None
    prompt = vocabulary.prompt(vocabulary.head(language, "transcribe"), (), timestamps=False)
    for size in given.batch:
        features = heard(paths[:size], engines["teacher"].mel_bins)
        taken: dict[str, list[float]] = {name: [] for name in names}
        for name in turns(names, given.rounds):
            taken[name].append(1000 * step_seconds(engines[name], prompt, features))
        print_ratio(f"a step of {size} clips, ms", {n: found[1:] for n, found in taken.items()})
    del engines
    transcribers = {name: Transcriber(folder) for name, folder in folders.items()}
    options = Options(language=given.language)
    taken = {name: [] for name in names}
    for name in turns(names, given.rounds):
        taken[name].append(whole_seconds(transcribers[name], paths, options))
    print_ratio(f"{seconds:.0f} s of sound, s", {n: found[1:] for n, found in taken.items()})


def print_ratio(what: str, taken: dict[str, list[float]]) -> None:
    """Medians of the turns, and the ratio of each pair of them."""
    middle = {name: statistics.median(found) for name, found in taken.items()}
    ratios = [one / other for one, other in zip(taken["teacher"], taken["student"], strict=True)]
    shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(
        f"{what}: teacher {middle['teacher']:.2f}, student {middle['student']:.2f}; "
        f"{statistics.median(ratios):.2f} times as fast (turns: {shown})"
    )


if __name__ == "__main__":
    main()
