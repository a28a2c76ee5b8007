"""What each part of a window of 30 s takes, and its share of what this machine can do at most.

    python benchmarks/roofline.py SPEECH.wav [--model base] [--threads 2]

The ceilings are measured on the spot: reading memory and the last cache, products in registers
(`ceilings.c`, compiled by `cc`), and products in OpenVINO of a size that suits it. Times are
medians of runs with nothing beside them, so that run together they are longer.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset15 as ops

from stenopool.audio import SAMPLE_RATE, Samples
from stenopool.audio.features import log_mel
from stenopool.audio.media import Recording
from stenopool.audio.vad import SpeechDetector
from stenopool.engines import choose
from stenopool.engines.alignment import starts
from stenopool.engines.openvino import OpenVINOEngine
from stenopool.engines.openvino.decoder import Decoder, Heard, Past, Rows
from stenopool.engines.openvino.engine import normalised
from stenopool.models import DETECTOR, Store
from stenopool.models.weights import AUDIO_POSITIONS, WhisperShape, inner_width, read_weights

WINDOW_SECONDS = 30
TEXT = 120  # tokens of a window
SIZE = 2048  # of OpenVINO's products
ROUNDS = 10_000_000  # of products in registers
READ_BYTES = 400_000_000  # that fit in no cache
NEAR_BYTES = 32_000_000  # that the last cache may hold


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("speech", type=Path)
    parser.add_argument("--model", default="base")
    parser.add_argument("--threads", type=int, default=0)
    given = parser.parse_args()
    choice = choose("openvino", threads=given.threads)
    folder = Store().resolve(given.model).folder
    engine = OpenVINOEngine(folder, precision=choice.precision, threads=choice.threads)
    weights = read_weights(folder)
    with Recording(given.speech) as recording:
        samples = np.concatenate(list(recording))[: WINDOW_SECONDS * SAMPLE_RATE]

    memory = read(READ_BYTES, choice.threads)
    near = read(NEAR_BYTES, choice.threads)
    print(f"{choice.threads} threads, {choice.precision}")
    print(f"reading memory: {memory:.0f} GB/s, the last cache {near:.0f} GB/s")
    products = {
        f"in OpenVINO, {kind}, of {SIZE} x {SIZE}": product(kind, choice.threads)
        for kind in ("f32", "bf16")
    }
    products |= registers(choice.threads)
    for kind, speed in products.items():
        print(f"products {kind}: {speed / 1e9:.0f} G operations/s")
    of_decoder(engine, weights.shape, inner_width(weights), memory)
    of_encoder(engine, weights.shape, inner_width(weights), samples, max(products.values()))
    of_sound(given.speech, samples, engine)


def of_encoder(
    engine: OpenVINOEngine, shape: WhisperShape, inner: int, samples: Samples, most: float
) -> None:
    """The encoder's time and its share of the ceiling for products in bfloat16."""
    group, features = engine._groups[0], log_mel(samples, shape.mel_bins)
    linear = (
        2 * AUDIO_POSITIONS * shape.encoder_layers * shape.width * (4 * shape.width + 2 * inner)
    )
    crossed = 2 * AUDIO_POSITIONS * shape.decoder_layers * shape.width * 2 * shape.width
    attention = 4 * AUDIO_POSITIONS**2 * shape.width * shape.encoder_layers
    flops = linear + crossed + attention
    seconds = median(lambda: group.encoder.run(features), 12)
    say("encoder", seconds, flops=flops, most=most)
    audio = group.encoder.run(features)
    say("packing its keys and values", median(lambda: group.decoder.hear(audio), 12))


def of_decoder(engine: OpenVINOEngine, shape: WhisperShape, inner: int, memory: float) -> None:
    """Steps of some windows and lanes after half a text, and what they read."""
    group, width = engine._groups[0], shape.width
    decoder = group.decoder
    quiet = np.zeros((shape.mel_bins, 3000), np.float32)
    heard = [decoder.hear(group.encoder.run(quiet)) for _ in range(8)]
    numbers = shape.decoder_layers * width * (6 * width + 2 * inner) + shape.vocabulary * width
    size = 1 if decoder._packed.int8 else 4
    for windows, lanes in ((1, 1), (1, 3), (8, 1), (8, 2), (8, 3)):
        pasts = [decoder.past() for _ in range(windows)]
        run = partial(step, decoder, heard, pasts, lanes)
        for _ in range(TEXT // 2):
            run()
        past = 2 * shape.decoder_layers * width * 2 * size * (TEXT // 2) * lanes
        reads = size * numbers + windows * (len(heard[0].block) + past)
        say(f"step, {windows} windows, {lanes} lanes", median(run, 30), reads=reads, memory=memory)
    tokens = [engine._special.start, *range(TEXT)]
    align = partial(decoder.attention, heard[0], tokens, AUDIO_POSITIONS, engine._heads)
    say(f"attention of {TEXT} tokens", median(align, 12))


def step(decoder: Decoder, heard: list[Heard], pasts: list[Past], lanes: int) -> None:
    """One more token in every lane."""
    rows = []
    for window, past in zip(heard, pasts, strict=False):
        past.grow([0] * lanes, 1)
        rows.append(Rows(window, past, [1000 + lane for lane in range(lanes)], range(lanes)))
    decoder.step(rows)


def of_sound(speech: Path, samples: Samples, engine: OpenVINOEngine) -> None:
    """What runs on threads of its own, each on one core."""

    def decode() -> float:
        with Recording(speech) as recording:
            return sum(len(block) for block in recording) / SAMPLE_RATE

    share = WINDOW_SECONDS / decode()
    say("media decoding", median(decode, 5) * share)
    detector = SpeechDetector(Store().resolve(DETECTOR).weights)
    blocks = np.array_split(samples, WINDOW_SECONDS)
    say("voice activity", median(lambda: list(detector.probabilities(blocks)), 12))
    say("log-mel", median(lambda: log_mel(samples, engine.mel_bins), 12))
    noise = np.random.default_rng(0).random((len(engine._heads), TEXT, AUDIO_POSITIONS), np.float32)
    say("attention to word times", median(lambda: starts(normalised(noise)), 12))


def say(
    what: str,
    seconds: float,
    *,
    flops: float = 0,
    most: float = 0,
    reads: float = 0,
    memory: float = 0,
) -> None:
    """A line of the table."""
    line = f"{what:30} {1000 * seconds:7.1f} ms"
    if flops:
        line += f"  {flops / 1e9:5.1f} G operations, {flops / seconds / most:.0%} of the most"
    if reads:
        line += f"  {reads / 1e6:5.0f} MB, {reads / seconds / 1e9 / memory:.0%} of the memory"
    print(line, flush=True)


def median(run: Callable[[], object], times: int) -> float:
    """Seconds of a run, after one that warms."""
    taken = []
    for _ in range(times + 1):
        begun = time.perf_counter()
        run()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken[1:])


def read(size: int, threads: int) -> float:
    """GB a second that all threads together read, each its own part."""
    parts = np.array_split(np.ones(size // 8), threads)
    with ThreadPoolExecutor(threads) as pool:
        return size / median(lambda: list(pool.map(np.max, parts)), 9) / 1e9


def registers(threads: int) -> dict[str, float]:
    """Operations a second of products that read no memory, of the kinds that the CPU has."""
    source = Path(__file__).with_name("ceilings.c")
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(threads) as pool:
        compiled = Path(folder) / "ceilings.so"
        flags = ["-O2", "-march=native", "-shared", "-fPIC"]
        subprocess.run(["cc", *flags, "-o", compiled, source], check=True)
        opened = ctypes.CDLL(str(compiled))
        found = {}
        for name in ("bfloat16_tiles", "int8_vectors"):
            function = getattr(opened, name)
            function.restype, function.argtypes = ctypes.c_double, [ctypes.c_long]
            run = partial(lambda do: sum(pool.map(do, [ROUNDS] * threads)), function)
            if done := run():
                found[f"in registers, {name.replace('_', ' ')}"] = done / median(run, 5)
        return found


def product(kind: str, threads: int) -> float:
    """Operations a second of a square product in OpenVINO."""
    x = ops.parameter([SIZE, SIZE], ov.Type.f32)
    weight = ops.constant(np.random.default_rng(0).random((SIZE, SIZE), np.float32))
    model = ov.Model([ops.matmul(x, weight, False, True)], [x], "product")
    options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": kind}
    request = ov.Core().compile_model(model, "CPU", options).create_infer_request()
    request.set_input_tensor(ov.Tensor(np.ones((SIZE, SIZE), np.float32)))
    return 2 * SIZE**3 / median(request.infer, 9)


if __name__ == "__main__":
    main()
