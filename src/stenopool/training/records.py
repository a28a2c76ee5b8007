"""What is written down of a run: `metrics.jsonl`, `samples.jsonl`, TensorBoard's events, curves.

The first two are the truth, and on resuming lose what came after the checkpoint; the others are
made from them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil

from stenopool.files import output_error, write_whole
from stenopool.training.checkpoints import State
from stenopool.training.curves import draw
from stenopool.training.events import PREFIX, Events

METRICS, SAMPLES = "metrics.jsonl", "samples.jsonl"
EVERY = 10  # steps that one line of `metrics.jsonl` tells of
LONGEST_LINE = 1 << 24


@dataclass(slots=True)
class _Span:
    """Steps since the last line."""

    steps: int = 0
    loss: float = 0.0
    gradient: float = 0.0
    audio_seconds: float = 0.0
    seconds: float = 0.0
    waited: float = 0.0
    last: dict[str, float] = field(default_factory=dict)


class Records:
    """The records of a run, from a step on.

    Args:
        output: the folder of the run.
        step: updates that are done; lines of later ones are removed.

    Raises:
        OutputError: a file cannot be written.
    """

    def __init__(self, output: Path, step: int) -> None:
        self._output = output
        kept = _kept(output / METRICS, step)
        _kept(output / SAMPLES, step)
        for old in output.glob(f"{PREFIX}*"):
            old.unlink(missing_ok=True)
        self._span = _Span()
        self._process = psutil.Process()
        self._metrics = _Lines(output / METRICS)
        self._samples = _Lines(output / SAMPLES)
        self._events = Events(output)
        for line in kept:
            self._events.write(line["step"], _scalars(line))

    def step(
        self,
        step: int,
        *,
        epoch: int,
        loss: float,
        learning_rate: float,
        gradient: float,
        audio_seconds: float,
        seconds: float,
        waited: float,
    ) -> None:
        """Take note of a step; seconds are those of the clock, `waited` those without data."""
        span = self._span
        span.steps += 1
        span.loss += loss
        span.gradient += gradient
        span.audio_seconds += audio_seconds
        span.seconds += seconds
        span.waited += waited
        span.last = {"epoch": epoch, "learning_rate": learning_rate}
        if step % EVERY == 0:
            self._end_span(step)

    def evaluation(
        self, state: State, figures: Mapping[str, float], samples: Sequence[Mapping[str, str]]
    ) -> None:
        """Take note of an evaluation; the curves are drawn anew."""
        if self._span.steps:
            self._end_span(state.step)
        self._write(
            {
                "step": state.step,
                "valid": dict(figures),
                "best": state.best,
                "best_step": state.best_step,
                "wall_seconds": round(state.wall_seconds, 3),
                "memory_mb": round(self._process.memory_info().rss / 1e6, 1),
            }
        )
        for sample in samples:
            self._samples.write({"step": state.step, **sample})
        draw(self._output, _read(self._output / METRICS))

    def sync(self) -> None:
        """Let readers have what is written so far."""
        self._events.flush()

    def close(self) -> None:
        self._metrics.close()
        self._samples.close()
        self._events.close()

    def _end_span(self, step: int) -> None:
        span, self._span = self._span, _Span()
        self._write(
            {
                "step": step,
                "loss": span.loss / span.steps,
                "gradient": span.gradient / span.steps,
                **span.last,
                "audio_seconds": round(span.audio_seconds, 3),
                "step_seconds": round(span.seconds / span.steps, 4),
                "audio_per_second": round(span.audio_seconds / max(span.seconds, 1e-9), 2),
                "waiting": round(span.waited / max(span.seconds, 1e-9), 4),
            }
        )

    def _write(self, line: dict[str, Any]) -> None:
        self._metrics.write(line)
        self._events.write(line["step"], _scalars(line))


class _Lines:
    """JSON lines that are there as soon as they are written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes]
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise output_error(path, error) from error

    def write(self, line: Mapping[str, Any]) -> None:
        try:
            self._file.write(json.dumps(_plain(line), ensure_ascii=False).encode() + b"\n")
        except OSError as error:
            raise output_error(self._path, error) from error

    def close(self) -> None:
        self._file.close()


def _plain(value: Any) -> Any:  # noqa: ANN401
    """JSON has no infinite numbers."""
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _scalars(line: Mapping[str, Any]) -> dict[str, float]:
    train = {f"train/{name}": one for name, one in line.items() if name not in _NOT_SHOWN}
    valid = {f"valid/{name}": one for name, one in line.get("valid", {}).items()}
    return {k: v for k, v in {**train, **valid}.items() if isinstance(v, int | float)}


_NOT_SHOWN = frozenset({"step", "valid", "best", "best_step"})


def _kept(path: Path, step: int) -> list[dict[str, Any]]:
    """The lines up to a step, which are then the only ones; a half-written one is none."""
    if not path.exists():
        return []
    lines = [line for line in _read(path) if line["step"] <= step]
    write_whole(path, "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines))
    return lines


def _read(path: Path) -> list[dict[str, Any]]:
    return list(_parsed(path.read_bytes().splitlines()))


def _parsed(lines: Iterable[bytes]) -> Iterable[dict[str, Any]]:
    for line in lines:
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict) and isinstance(found.get("step"), int):
            yield found
