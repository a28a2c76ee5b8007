"""wav2vec 2.0 on OpenVINO for x86 CPUs. See `base.CtcEngine`.

Stretches of sound are put in batches by their length, each batch padded to whole seconds: OpenVINO
prepares itself for every shape that it meets, which takes as long as a second of sound.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from stenopool.audio import SAMPLE_RATE, Samples
from stenopool.engines.base import overflowed
from stenopool.engines.ctc.base import Emissions
from stenopool.engines.ctc.cache import Compiled
from stenopool.engines.ctc.graph import acoustic
from stenopool.engines.ctc.inference import failures, infer
from stenopool.engines.ctc.levels import Levels
from stenopool.engines.openvino.groups import Groups, groups_of
from stenopool.engines.openvino.memory import give_back_freed_memory
from stenopool.engines.openvino.processor import FLOAT32, INT8
from stenopool.engines.openvino.turns import Turns
from stenopool.models.wav2vec2 import WEIGHTS, read_wav2vec2

PADDED_TO = SAMPLE_RATE  # samples
BATCH_SAMPLES = 32 * SAMPLE_RATE  # of a batch with its padding: more is not faster, only larger
KEPT_SHAPES = 100  # instead of 5,000: OpenVINO keeps a megabyte for each; it is not slower
BFLOAT16 = "bfloat16"
_QUIETEST = 1e-7  # variance that the feature extractor adds


class OpenVinoCtcEngine:
    """A model in a folder.

    Args:
        folder: see `models.wav2vec2`.
        precision: `float32`, `bfloat16`, or `int8` for the layers of the transformer.
        threads: cores to use; each four of them run a batch of their own, up to four batches.

    Raises:
        ModelDamaged: the files are not those of a wav2vec 2.0 model with a CTC head.
        EngineFailed: OpenVINO cannot build the graph.
    """

    name = "openvino"
    device = "cpu"
    batch_size = 4  # windows

    def __init__(self, folder: Path, *, precision: str, threads: int) -> None:
        give_back_freed_memory()
        weights = read_wav2vec2(folder)
        self._shape = weights.shape
        self._normalised = weights.normalised
        self._levels = None if weights.shape.layer_norm else Levels(weights)
        self.precision = precision
        self.stride = weights.shape.stride
        self.symbols, self.blank = weights.shape.vocabulary, weights.shape.blank
        groups = groups_of(threads)
        self.workers = groups + 1  # one decodes while the others infer
        floating = "bf16" if precision != FLOAT32 and has_bfloat16() else "f32"
        options: dict[str, str | int] = {
            "NUM_STREAMS": groups,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": floating,
            "CPU_RUNTIME_CACHE_CAPACITY": KEPT_SHAPES,
        }
        with failures():
            made = f"{precision} {hashlib.sha256(repr(weights.shape).encode()).hexdigest()}"
            compiled = Compiled(folder / WEIGHTS, options, made)
            model = compiled.graph("acoustic", lambda: acoustic(weights, int8=precision == INT8))
            self._groups = Groups([_Group(model) for _ in range(groups)])

    def emissions(self, samples: Sequence[Samples]) -> list[Emissions]:
        return [log_softmax(one) for one in self.logits(samples)]

    def logits(self, samples: Sequence[Samples]) -> list[NDArray[np.float32]]:
        """Like `emissions`, before the probabilities are made: what Transformers calls `logits`."""
        found = [np.zeros((0, self.symbols), dtype=np.float32)] * len(samples)
        for batch in self._batches(samples):
            logits = self._logits([samples[one] for one in batch])
            for number, one in zip(batch, logits, strict=True):
                found[number] = one
        return found

    def _batches(self, samples: Sequence[Samples]) -> Iterator[list[int]]:
        """Numbers of the stretches that are long enough, those of like length together."""
        batch: list[int] = []
        for number in sorted(range(len(samples)), key=lambda one: len(samples[one])):
            length = len(samples[number])
            if length < self._shape.field:
                continue
            if batch and _padded(length) * (len(batch) + 1) > BATCH_SAMPLES:
                yield batch
                batch = []
            batch.append(number)
        if batch:
            yield batch

    def _logits(self, stretches: Sequence[Samples]) -> list[NDArray[np.float32]]:
        lengths = [len(one) for one in stretches]
        padded = np.zeros((len(stretches), _padded(max(lengths))), dtype=np.float32)
        for row, one in zip(padded, stretches, strict=True):
            row[: len(one)] = self._levelled(one)
        frames = [self._shape.frames_of(length) for length in lengths]
        inputs = {"samples": padded}
        inputs["heard"] = _marks(frames, self._shape.frames_of(padded.shape[1]))[..., None]
        if self._levels:
            levels = [
                self._levels.of(row[:length]) for row, length in zip(padded, lengths, strict=True)
            ]
            scale, shift = np.array(levels, dtype=np.float32).transpose(1, 0, 2)[..., None]
            inputs |= {"scale": scale, "shift": shift}
        with self._groups.one() as group:
            logits = group.infer(inputs)
        found = [row[:count] for row, count in zip(logits, frames, strict=True)]
        if not all(np.isfinite(row).all() for row in found):
            raise overflowed()
        return found

    def _levelled(self, samples: Samples) -> Samples:
        """As the feature extractor does it."""
        if not self._normalised:
            return samples
        spread = np.sqrt(samples.var(dtype=np.float64) + _QUIETEST)
        levelled: Samples = ((samples - samples.mean(dtype=np.float64)) / spread).astype(np.float32)
        return levelled


class _Group:
    """The cores that run one batch."""

    def __init__(self, model: ov.CompiledModel) -> None:
        self._turns = Turns()
        self._request = model.create_infer_request()

    def infer(self, inputs: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        with self._turns:
            infer(self._request, inputs)
            found: NDArray[np.float32] = np.array(
                self._request.get_output_tensor(0).data, dtype=np.float32
            )
            return found


def precision() -> str:
    """`bfloat16` where the CPU has it, else `float32`.

    Not int8 by itself: it is the user's to measure whether a model that was trained on an hour of
    speech bears it (`STENO_CTC_PRECISION`).
    """
    return BFLOAT16 if has_bfloat16() else FLOAT32


@cache
def has_bfloat16() -> bool:
    """Whether products of bfloat16 are in the CPU (Zen 4, Sapphire Rapids and later)."""
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def log_softmax(logits: NDArray[np.float32]) -> Emissions:
    """Logarithms of the probabilities of each row."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    total = np.log(np.exp(shifted).sum(axis=-1, keepdims=True, dtype=np.float64))
    return np.asarray(shifted - total, dtype=np.float32)


def _padded(samples: int) -> int:
    return -(-samples // PADDED_TO) * PADDED_TO


def _marks(counts: Sequence[int], length: int) -> NDArray[np.float32]:
    """(rows, length) float32: so many ones in each row, then zeros."""
    return (np.arange(length)[None] < np.array(counts)[:, None]).astype(np.float32)
