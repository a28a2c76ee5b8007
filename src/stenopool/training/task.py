"""What the loop asks of that which is trained, and what it tells."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from stenopool.training.checkpoints import State

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

Held = TypeVar("Held")  # a batch, as its task has it


@dataclass(frozen=True, slots=True)
class Work(Generic[Held]):
    """The batches of one update, decoded.

    Attributes:
        batches: of this process.
        units: what the loss is a mean of (characters, tokens), over the batches of all processes.
        seconds: of audio, of all processes.
    """

    number: int
    epoch: int
    batches: Sequence[Held]
    units: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How good the model is.

    Attributes:
        figure: what is to become low.
        figures: all that is measured, by name.
        samples: some references beside what the model makes of the audio.
    """

    figure: float
    figures: Mapping[str, float]
    samples: Sequence[Mapping[str, str]]


class Task(Protocol[Held]):
    """What is trained."""

    model: torch.nn.Module

    def work(self, first: int, accelerator: Accelerator) -> Generator[Work[Held], None, None]:
        """The work of all steps from `first` on."""
        ...

    def loss(self, model: torch.nn.Module, batch: Held) -> torch.Tensor:
        """The loss of a batch, as a sum over its units."""
        ...

    def evaluate(self, model: torch.nn.Module, accelerator: Accelerator) -> Evaluation:
        """Called in every process; the result counts in the first one."""
        ...

    def save(self, folder: Path) -> None:
        """Write all that is needed to use the model, weights in `model.safetensors`."""
        ...


@dataclass(frozen=True, slots=True)
class Progress:
    """What to show: the state, the loss of the last steps, the last evaluation if there was one."""

    state: State
    steps: int
    loss: float
    evaluation: Evaluation | None = None
