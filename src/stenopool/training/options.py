"""What a training can be told. One dataclass feeds Python, the command line and the records."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from stenopool.errors import UnknownName, UsageError

SKIP, STOP = "skip", "stop"
PRECISIONS = ("fp32", "bf16", "fp16")
TINY = "tiny"
AUTO = "auto"

# What may be another on resuming: nothing of the result follows from it.
IRRELEVANT = frozenset({"workers", "cache_mb", "keep"})


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopOptions:
    """How the loop goes, whatever is trained.

    Attributes:
        steps: Updates of the weights.
        learning_rate: The highest, reached after the warm-up.
        warmup: Share of the steps in which the learning rate rises from 0.
        weight_decay: Of matrices; biases and norms have none.
        clip: Longest gradient; longer ones are shortened to it.
        batch_seconds: Seconds of audio in a batch, padding included.
        accumulate: Batches for one update.
        evaluate_every: Steps between evaluations, each with a checkpoint.
        patience: Stop after so many evaluations without a better one; 0 never does.
        precision: fp32, or bf16 or fp16 for the products of matrices.
        checkpointing: Compute activations twice, to keep fewer of them in memory.
        seed: Of the order of the data and of all that is drawn.
        workers: Threads that decode audio ahead.
        cache_mb: Decoded audio that stays in memory for the next epoch.
        keep: Checkpoints that stay on the disk.
    """

    steps: int = 2000
    learning_rate: float = 1e-4
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    batch_seconds: float = 60.0
    accumulate: int = 1
    evaluate_every: int = 200
    patience: int = 0
    precision: str = "fp32"
    checkpointing: bool = False
    seed: int = 0
    workers: int = 2
    cache_mb: int = 512
    keep: int = 2

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "evaluate_every", "workers", "keep"):
            self._check(name, getattr(self, name) >= 1, "1 or more")
        for name in ("learning_rate", "batch_seconds", "clip"):
            self._check(name, 0 < getattr(self, name) < 1e9, "more than 0")
        for name in ("patience", "seed", "cache_mb", "weight_decay"):
            self._check(name, 0 <= getattr(self, name) < 2**63, "0 or more")
        self._check("warmup", 0 <= self.warmup <= 1, "a share from 0 to 1")
        self._check_name("precision", PRECISIONS)

    def learning_rate_at(self, step: int) -> float:
        """Rises in a line during the warm-up, then falls in a line to 0 at the last step."""
        rising = round(self.warmup * self.steps)
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        return self.learning_rate * (self.steps - step) / max(1, self.steps - rising)

    def _check(self, name: str, good: bool, wanted: str) -> None:
        if not good:
            raise UsageError(f"`{name}` cannot be {getattr(self, name)}", do=f"Give {wanted}")

    def _check_name(self, name: str, known: tuple[str, ...]) -> None:
        if (value := getattr(self, name)) not in known:
            raise UnknownName(f"`{name}` cannot be `{value}`", do=f"Use one of: {', '.join(known)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CtcOptions(LoopOptions):
    """How a CTC model is trained.

    Attributes:
        freeze: Leave the convolutions as they are; auto does for weights that are given, and
            does not where all begins at random.
        dropout: Of the transformer; below 0 is what the model's own configuration says.
        mask_time: Share of frames that SpecAugment begins a mask at; below 0 is the model's own.
        mask_feature: The same for features.
        join: Train on up to so many recordings of a speaker in a row, as if said in one breath.
        pause: Longest pause between them, in seconds.
        speed: Play each recording faster or slower by up to this share; 0 leaves it.
        min_seconds: Shorter recordings are left out of training.
        max_seconds: Longer ones are left out of training.
        on_bad: What becomes of recordings that cannot be used: skip counts them, stop names the
            first.
    """

    freeze: str = AUTO
    dropout: float = -1.0
    mask_time: float = -1.0
    mask_feature: float = -1.0
    join: int = 1
    pause: float = 0.3
    speed: float = 0.0
    min_seconds: float = 0.05
    max_seconds: float = 30.0
    on_bad: str = STOP

    def __post_init__(self) -> None:
        LoopOptions.__post_init__(self)  # `super()` knows no class that `slots` has made anew
        self._check_name("freeze", (AUTO, "yes", "no"))
        self._check_name("on_bad", (SKIP, STOP))
        self._check("join", self.join >= 1, "1 or more")
        for name in ("dropout", "mask_time", "mask_feature"):
            self._check(name, getattr(self, name) < 1, "a share below 1")
        self._check("speed", 0 <= self.speed < 1, "a share from 0 to below 1")
        self._check("pause", 0 <= self.pause <= 60, "0 to 60 seconds")
        self._check(
            "max_seconds",
            0 <= self.min_seconds < self.max_seconds < 3600,
            "more than `min_seconds`",
        )


def that_matter(options: LoopOptions) -> dict[str, Any]:
    """The options that the result depends on, as plain data."""
    names = (field.name for field in fields(options) if field.name not in IRRELEVANT)
    return {name: getattr(options, name) for name in names}
