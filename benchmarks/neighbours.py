"""Does an utterance's text depend on what is read beside it?

    python benchmarks/neighbours.py MANIFEST [--model base] [--language en] [--clips N]

Reads all together and each alone, and counts the texts that differ. Probabilities are compared
word by word where the text is the same.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from clips import rows_of
from stenopool import Options, Transcriber
from stenopool.errors import StenoError
from stenopool.transcript import Transcript


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--model", default="base")
    parser.add_argument("--language", default="en")
    parser.add_argument("--clips", type=int, metavar="N", help="only the first ones")
    given = parser.parse_args()
    paths = [row["audio"] for row in rows_of(given.manifest, given.clips)]
    transcriber = Transcriber(given.model)
    options = Options(language=given.language)

    transcriber.transcribe(paths[0], options)  # warm
    started = time.perf_counter()
    together = [_read(result) for result in transcriber.transcribe_many(paths, options)]
    batched = time.perf_counter()
    alone = [transcriber.transcribe(path, options) for path in paths]
    ended = time.perf_counter()

    pairs = list(zip(together, alone, strict=True))
    other = [path for path, (one, two) in zip(paths, pairs, strict=True) if one.text != two.text]
    furthest = max((_distance(one, two) for one, two in pairs if one.text == two.text), default=0.0)
    for path in other:
        print(f"another text: {path}")
    print(f"{len(pairs) - len(other)} of {len(pairs)} texts are the same alone and together")
    print(f"largest difference of a word's probability where they are: {furthest:.6f}")
    print(f"together {batched - started:.1f} s, one by one {ended - batched:.1f} s")
    return 1 if other else 0


def _read(result: Transcript | StenoError) -> Transcript:
    if isinstance(result, StenoError):
        raise result
    return result


def _distance(one: Transcript, two: Transcript) -> float:
    words = (
        [word for segment in transcript.segments for word in segment.words]
        for transcript in (one, two)
    )
    return max((abs(a.probability - b.probability) for a, b in zip(*words, strict=True)), default=0)


if __name__ == "__main__":
    raise SystemExit(main())
