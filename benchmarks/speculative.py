"""Speculative decoding beside greedy decoding of the same model: the same tokens, and how soon.

    python benchmarks/speculative.py MANIFEST --model base --assistant STUDENT

Each line of the manifest (`audio`) is a clip of at most 30 s, read at batch 1, first by the one and
then by the other, in turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clips import features_of, prompt_of, rows_of
from stenopool.engines import choose, load
from stenopool.engines.base import Engine, Search
from stenopool.models import Store

GREEDY = Search(beam_size=1)


@dataclass(frozen=True)
class Clip:
    """What became of one clip: tokens, and seconds of decoding and of all, audio to tokens."""

    tokens: tuple[int, ...]
    decoding: float
    whole: float


def read(engine: Engine, path: Path, prompt: list[int]) -> Clip:
    begun = time.perf_counter()
    encoded = engine.encode(features_of([path], engine.mel_bins))
    encoded_at = time.perf_counter()
    (found,) = engine.generate(encoded, [prompt], GREEDY)
    ended = time.perf_counter()
    return Clip(found.tokens, ended - encoded_at, ended - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--model", default="base")
    parser.add_argument("--assistant", required=True)
    parser.add_argument("--language", default="en")
    parser.add_argument("--timestamps", action="store_true")
    parser.add_argument("--clips", type=int, default=None)
    given = parser.parse_args()
    store = Store()
    model, assistant = store.resolve(given.model), store.resolve(given.assistant)
    choice = choose("torch")
    plain, assisted = load(model.folder, choice), load(model.folder, choice, assistant.folder)
    prompt = prompt_of(model.folder, plain, given.language, timestamps=given.timestamps)
    paths = [row["audio"] for row in rows_of(given.manifest, given.clips)]
    for engine in (plain, assisted):
        read(engine, paths[0], prompt)  # nothing is cold then
    pairs = [(read(plain, path, prompt), read(assisted, path, prompt)) for path in paths]
    same = sum(one.tokens == other.tokens for one, other in pairs)
    tokens = sum(len(one.tokens) for one, _ in pairs)
    print(f"{choice.device}, {choice.precision}, {choice.threads} threads; {tokens} tokens")
    print(f"the same tokens: {same} of {len(pairs)}")
    _print_ratio("decoding", pairs, lambda clip: clip.decoding)
    _print_ratio("end to end", pairs, lambda clip: clip.whole)


def _print_ratio(name: str, pairs: list[tuple[Clip, Clip]], of: Callable[[Clip], float]) -> None:
    ratios = [of(plain) / of(assisted) for plain, assisted in pairs]
    low, middle, high = statistics.quantiles(ratios, n=4)
    plain, assisted = (sum(of(pair[which]) for pair in pairs) for which in (0, 1))
    print(
        f"{name}: {plain:.1f} s and {assisted:.1f} s; speed ratio {middle:.2f} (median of the "
        f"clips; quartiles {low:.2f} and {high:.2f})"
    )


if __name__ == "__main__":
    main()
