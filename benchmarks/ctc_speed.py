"""How fast a CTC model is beside Transformers' pipeline, with the same weights in one run.

    python benchmarks/ctc_speed.py MANIFEST [CLIPS] [ROUNDS]

The model has the shape of `wav2vec2-base` and random weights: speed does not depend on them. Clips
are recordings of 5 to 15 s. The systems take turns (A B A B …); the first round warms up and does
not count.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from stenopool.audio import SAMPLE_RATE, Samples
from stenopool.audio.media import Recording
from stenopool.data.sources import read
from stenopool.decoding.ctc.alphabet import Alphabet
from stenopool.decoding.ctc.path import best_path, words_of
from stenopool.engines import usable_cores
from stenopool.engines.ctc.openvino import OpenVinoCtcEngine

# Untyped, as they are meant to be used here.
torch: Any = import_module("torch")
transformers: Any = import_module("transformers")

SYMBOLS = ["[PAD]", "[UNK]", "|", *"abcdefghijklmnopqrstuvwxyz'"]
PRECISIONS = ("float32", "bfloat16", "int8")
BATCHES = (1, 4)  # of the pipeline


def written(folder: Path) -> tuple[Any, Any, Any]:
    """A model in Transformers' layout: the model, its feature extractor, its tokenizer."""
    torch.manual_seed(0)
    file = folder / "symbols.json"
    file.write_text(json.dumps({one: number for number, one in enumerate(SYMBOLS)}))
    config = transformers.Wav2Vec2Config(vocab_size=len(SYMBOLS), pad_token_id=0)
    model = transformers.Wav2Vec2ForCTC(config).eval()
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "word_delimiter_token": "|"}
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(file), **special)
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=False)
    transformers.Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)
    model.save_pretrained(folder)
    return model, extractor, tokenizer


def clips(manifest: str, count: int) -> list[Samples]:
    found: list[Samples] = []
    for one in read(manifest):
        if len(found) == count:
            break
        with Recording(Path(one.audio)) as recording:
            samples = np.concatenate(list(recording))
        if 5 <= len(samples) / SAMPLE_RATE <= 15:
            found.append(samples)
    return found


def theirs(pipeline: Any, sounds: list[Samples], size: int) -> list[str]:  # noqa: ANN401
    copies = [one.copy() for one in sounds]  # it may change what it is given
    return [one["text"] for one in pipeline(copies, batch_size=size)]


def ours(engine: OpenVinoCtcEngine, alphabet: Alphabet, sounds: list[Samples]) -> list[str]:
    texts = []
    for emissions in engine.emissions(sounds):
        words = words_of(best_path(emissions, alphabet.blank), alphabet)
        spelled = (alphabet.text([one.symbol for one in word.symbols]) for word in words)
        texts.append(" ".join(spelled))
    return texts


def main(manifest: str, count: int = 24, rounds: int = 4) -> None:
    threads = usable_cores()
    torch.set_num_threads(threads)
    sounds = clips(manifest, count)
    total = sum(map(len, sounds)) / SAMPLE_RATE
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        model, extractor, tokenizer = written(folder)
        pipeline = transformers.pipeline(
            "automatic-speech-recognition",
            model=model,
            feature_extractor=extractor,
            tokenizer=tokenizer,
            device="cpu",
        )
        systems: dict[str, Callable[[], list[str]]] = {}
        for size in BATCHES:
            systems[f"transformers, batches of {size}"] = partial(theirs, pipeline, sounds, size)
        for precision in PRECISIONS:
            engine = OpenVinoCtcEngine(folder, precision=precision, threads=threads)
            alphabet = Alphabet.read(folder, engine.symbols, engine.blank)
            systems[f"stenopool, {precision}"] = partial(ours, engine, alphabet, sounds)
        seconds: dict[str, list[float]] = {name: [] for name in systems}
        for number in range(rounds):
            for name, run in systems.items():
                begun = time.perf_counter()
                run()
                if number:
                    seconds[name].append(time.perf_counter() - begun)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    peer = min(taken for name, taken in medians.items() if name.startswith("transformers"))
    print(f"{len(sounds)} clips, {total:.0f} s, {threads} threads")
    for name, taken in medians.items():
        factor = taken / total
        print(
            f"{name}: {taken:.2f} s, real-time factor {factor:.4f}, {total / taken:.0f} times "
            f"real time, {peer / taken:.2f} times the pipeline"
        )


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main(sys.argv[1], *map(int, sys.argv[2:]))
