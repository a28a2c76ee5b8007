"""Which recordings are heard together, and in what order: a function of the seed and the epoch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from stenopool.audio import SAMPLE_RATE
from stenopool.errors import UsageError
from stenopool.training.examples import Example

# Recordings of nearly the same length come together, but not the same ones in every epoch.
BUCKET_JITTER = 0.1
LEAST_GRID = 512  # samples

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Utterance:
    """Recordings of one speaker, one after another.

    Attributes:
        pauses: seconds of silence before the second recording and each after it.
        speed: how many times as fast as recorded it is played.
    """

    parts: tuple[Example, ...]
    pauses: tuple[float, ...] = ()
    speed: float = 1.0

    @property
    def seconds(self) -> float:
        return (sum(part.seconds for part in self.parts) + sum(self.pauses)) / self.speed

    @property
    def id(self) -> str:
        return "+".join(part.id for part in self.parts)


Batch = tuple[Utterance, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """What one update is made of.

    Attributes:
        batches: of this process, one after another.
        everyone: batches of all processes, these included.
    """

    number: int
    epoch: int
    batches: tuple[Batch, ...]
    everyone: tuple[Batch, ...]


class Batches:
    """All batches of all epochs in an order that only the seed decides.

    Args:
        examples: at least one.
        seconds: most audio of a batch, padding included; a longer recording is a batch of its own.
        join: most recordings in one utterance.
        pause: longest pause between them, in seconds.
        longest: most seconds of a joined utterance.
        speed: share by which an utterance is played faster or slower at most.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        seconds: float,
        seed: int,
        join: int = 1,
        pause: float = 0.0,
        longest: float = 30.0,
        speed: float = 0.0,
    ) -> None:
        if not examples:
            raise UsageError("there is nothing to train on", do="Give recordings with texts")
        self._examples = list(examples)
        self._seconds = seconds
        self._seed = seed
        self._join, self._pause, self._longest = join, pause, longest
        self._speed = speed

    def epoch(self, number: int) -> list[Batch]:
        """The batches of an epoch, from 0."""
        random = np.random.default_rng([self._seed, number])
        utterances = self._utterances(random)
        if self._speed:
            speeds = random.uniform(1 - self._speed, 1 + self._speed, len(utterances))
            utterances = [
                replace(one, speed=float(speed))
                for one, speed in zip(utterances, speeds, strict=True)
            ]
        jitter = random.uniform(1 - BUCKET_JITTER, 1 + BUCKET_JITTER, len(utterances))
        order = sorted(range(len(utterances)), key=lambda at: utterances[at].seconds * jitter[at])
        batches = list(packed([utterances[at] for at in order], self._seconds))
        return [batches[at] for at in random.permutation(len(batches))]

    def steps(
        self, first: int, last: int, *, accumulate: int = 1, rank: int = 0, processes: int = 1
    ) -> Iterator[Step]:
        """The steps from `first` on, before `last`, for one of several processes.

        The batches of a step are dealt out in turn, so that which process hears what does not
        change what is heard.
        """
        for number, epoch, everyone in dealt(self.epoch, accumulate * processes, first, last):
            yield Step(number, epoch, everyone[rank::processes], everyone)

    def _utterances(self, random: np.random.Generator) -> list[Utterance]:
        shuffled = [self._examples[at] for at in random.permutation(len(self._examples))]
        if self._join == 1:
            return [Utterance((one,)) for one in shuffled]
        by_speaker: dict[str | None, list[Example]] = {}
        for one in shuffled:
            by_speaker.setdefault(one.speaker, []).append(one)
        return [joined for group in by_speaker.values() for joined in self._joined(group, random)]

    def _joined(self, group: list[Example], random: np.random.Generator) -> Iterator[Utterance]:
        while group:
            wanted = int(random.integers(1, self._join + 1))
            pauses = random.uniform(0, self._pause, wanted - 1)
            parts = [group.pop()]
            seconds = parts[0].seconds
            for pause in pauses:
                if not group or seconds + pause + group[-1].seconds > self._longest:
                    break
                parts.append(group.pop())
                seconds += pause + parts[-1].seconds
            yield Utterance(tuple(parts), tuple(map(float, pauses[: len(parts) - 1])))


def dealt(
    epoch: Callable[[int], Iterable[Item]], size: int, first: int, last: int
) -> Iterator[tuple[int, int, tuple[Item, ...]]]:
    """So many items for each step from `first` on, before `last`, one epoch after another.

    Args:
        epoch: the items of an epoch, from 0, in their order.

    Yields:
        the step, the epoch of its last item, and its items.
    """
    waiting: deque[Item] = deque()
    current = -1
    for number in range(last):
        while len(waiting) < size:
            current += 1
            waiting.extend(epoch(current))
        items = tuple(waiting.popleft() for _ in range(size))
        if number >= first:
            yield number, current, items


def padded(samples: int) -> int:
    """To how many samples a recording is padded at least: up to an eighth more.

    What libraries keep for each shape of a batch (kernels, memory) would grow with every new
    length; so there are only eight of them from each to its double.
    """
    grid = max(LEAST_GRID, 1 << max(0, samples.bit_length() - 4))
    return -(-samples // grid) * grid


def packed(utterances: Sequence[Utterance], seconds: float) -> Iterator[Batch]:
    """Neighbours together, as long as the padded batch has at most so many seconds."""
    held: list[Utterance] = []
    longest = 0
    for one in utterances:
        samples = padded(round(one.seconds * SAMPLE_RATE))
        longest = max(longest, samples)
        if held and longest * (len(held) + 1) > seconds * SAMPLE_RATE:
            yield tuple(held)
            held, longest = [], samples
        held.append(one)
    if held:
        yield tuple(held)
