"""What all trainings begin with: a device, a folder of their own, and a record of what they are."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stenopool.errors import ResumeRefused, UsageError
from stenopool.files import make_folder, write_whole
from stenopool.training import checkpoints
from stenopool.training.checkpoints import State
from stenopool.training.examples import Bad
from stenopool.training.options import LoopOptions

if TYPE_CHECKING:
    from accelerate import Accelerator

    from stenopool.training.task import Held, Progress, Task

HYPERPARAMETERS, BAD = "hyperparameters.json", "left-out.json"
PACKAGES = ("stenopool", "torch", "transformers", "accelerate", "numpy")
_MIXED = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a training ended.

    Attributes:
        model: the folder with the best model.
        left_out: recordings that could not be used, by reason.
        main: whether this process is the one of several that writes and speaks.
    """

    model: Path
    state: State
    left_out: Mapping[str, int]
    main: bool = True


def accelerator_for(options: LoopOptions, device: str) -> Accelerator:
    """What spreads the work over the devices.

    Raises:
        UsageError: there is no such device, or it does not know the precision.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"unknown device: `{device}`", do="Use one of: auto, cpu, cuda")
    AcceleratorState._reset_state()  # else a process could not train in two precisions
    try:
        return Accelerator(mixed_precision=_MIXED[options.precision], cpu=device == "cpu")
    except (ValueError, RuntimeError) as error:
        raise UsageError(
            f"`{options.precision}` does not work on this device: {error!s:.200}",
            do="Use `--precision fp32` or `bf16`",
        ) from error


def refuse_what_is_there(output: Path, *, resume: bool) -> None:
    """A training begins in a folder of its own.

    Raises:
        UsageError: the folder holds one already.
    """
    there = [name for name in (HYPERPARAMETERS, "config.json") if (output / name).exists()]
    if there and not resume:
        raise UsageError(
            f"`{output}` holds a training or a model already: `{there[0]}`",
            do="Give `--resume` to go on with it, or another folder",
        )


def check_same(output: Path, record: Mapping[str, Any]) -> None:
    """Only what was begun can be gone on with.

    Raises:
        ResumeRefused: names what is different.
    """
    path = output / HYPERPARAMETERS
    if not path.exists() or checkpoints.latest(output) is None:
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        found = [_difference(name, before.get(name), value) for name, value in record.items()]
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise ResumeRefused(
            f"`{path}` is damaged: {error!s:.200}", do="Begin anew in another folder"
        ) from error
    if different := [one for one in found if one]:
        raise ResumeRefused(
            f"`{output}` was begun otherwise: {'; '.join(different)}",
            do="Give what it was begun with, or begin anew in another folder",
        )


def _difference(name: str, before: object, now: object) -> str:
    """What is different, as few words as possible; empty if nothing is."""
    now = json.loads(json.dumps(now))
    if before == now:
        return ""
    if isinstance(before, dict) and isinstance(now, dict):
        names = [one for one in {**before, **now} if before.get(one) != now.get(one)]
        shown = [
            f"`{one}` was {before.get(one)!s:.40} and is {now.get(one)!s:.40}" for one in names
        ]
        return shown[0] if name == "options" and len(shown) == 1 else f"{name}: {', '.join(shown)}"
    return f"`{name}` was {before!s:.40} and is {now!s:.40}"


def begin(
    output: Path, record: Mapping[str, Any], told: Mapping[str, Any], bad: tuple[Bad, Bad]
) -> None:
    """Write down what a training is, unless it cannot be gone on with.

    Args:
        record: what a training must be begun with again to go on with it.
        told: that and more.
        bad: what could not be used of training and validation.

    Raises:
        ResumeRefused: the folder holds another one.
        OutputError: it cannot be written.
    """
    make_folder(output)
    check_same(output, record)
    checkpoints.clean(output)
    write_whole(output / HYPERPARAMETERS, document(told))
    write_bad(output, *bad)


def run(
    task: Task[Held],
    options: LoopOptions,
    output: Path,
    accelerator: Accelerator,
    report: Callable[[Progress], None],
    bad: tuple[Bad, Bad],
) -> Outcome:
    """Train; what could not be used meanwhile is listed however it ends."""
    from stenopool.training.loop import train

    main = accelerator.is_main_process
    try:
        state = train(task, options, output, accelerator, report)
    finally:
        if main:
            write_bad(output, *bad)
    return Outcome(output, state, dict(bad[0].counts + bad[1].counts), main)


def versions() -> dict[str, str]:
    """Of the packages that a result may depend on."""
    return {name: version(name) for name in PACKAGES}


def write_bad(output: Path, train: Bad, valid: Bad) -> None:
    """List what could not be used, and why."""
    data = {
        "train": {"counts": dict(train.counts), "reasons": train.reasons},
        "valid": {"counts": dict(valid.counts), "reasons": valid.reasons},
    }
    write_whole(output / BAD, document(data))


def say_left_out(say: Callable[[str], None], train: Bad, valid: Bad) -> None:
    """What could not be used, in a line each."""
    for kind, one in (("training", train), ("validation", valid)):
        if count := one.counts.total():
            why = ", ".join(f"{number} {name}" for name, number in sorted(one.counts.items()))
            say(f"left out of {kind}: {count} ({why}); listed in {BAD}")


def document(data: Mapping[str, Any]) -> str:
    """JSON for people; what is no number is null."""
    return json.dumps(data, ensure_ascii=False, indent=2, default=_number) + "\n"


def _number(value: object) -> object:
    return None if isinstance(value, float) and math.isnan(value) else str(value)
