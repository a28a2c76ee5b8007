"""What a student is told in each step: which windows, with what prompt, and how they sound.

All of it follows from the seed and the epoch, so that a run that goes on is told the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from zlib import crc32

import numpy as np
import torch

from stenopool.audio import SAMPLE_RATE
from stenopool.audio.features import HOP_SAMPLES, WINDOW_FRAMES, WINDOW_SAMPLES, Features, log_mel
from stenopool.errors import InputError
from stenopool.training.augment import Change, changed, drawn, masked
from stenopool.training.batches import Item, dealt
from stenopool.training.distil_options import DistilOptions
from stenopool.training.encoder_states import EncoderStates, key_of
from stenopool.training.examples import Bad
from stenopool.training.labels import LabelledWindow
from stenopool.training.sequences import Prompted, Sequences, padded
from stenopool.training.student import Taught
from stenopool.training.window_audio import WindowAudio


@dataclass(frozen=True, slots=True)
class Told:
    """A window, and how it is learned this time.

    Attributes:
        split_tokens: share of the tokens that are told as two, drawn from `seed`.
    """

    window: LabelledWindow
    timestamps: bool = False
    previous: LabelledWindow | None = None
    change: Change = field(default_factory=Change)
    split_tokens: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one update is made of.

    Attributes:
        batches: of this process, one after another.
        everyone: windows of all processes, these included.
    """

    number: int
    epoch: int
    batches: Sequence[Sequence[Told]]
    everyone: Sequence[Told]


class Lessons:
    """Makes lessons and their batches.

    Args:
        train: what is learned from.
        mel_bins: rows of the features.
        end: token that batches are padded with.
        kept: the encoder's states, where they are the same in every epoch.
        bad: takes note of windows that turn out to be unusable.
    """

    def __init__(
        self,
        train: Sequence[LabelledWindow],
        sequences: Sequences,
        options: DistilOptions,
        *,
        mel_bins: int,
        end: int,
        kept: EncoderStates | None,
        bad: Bad,
    ) -> None:
        self._train, self._by_id = list(train), {one.id: one for one in train}
        self._sequences, self._options = sequences, options
        self._mel_bins, self._end = mel_bins, end
        self._kept, self._bad = kept, bad
        self._audio = WindowAudio()

    def steps(self, first: int, rank: int, processes: int) -> Iterator[Lesson]:
        """The lessons from `first` on, for one of several processes."""
        options = self._options
        size = options.batch_windows * options.accumulate * processes
        for number, epoch, taken in dealt(self._epoch, size, first, options.steps):
            batches = list(divided(taken, options.batch_windows))
            yield Lesson(number, epoch, batches[rank::processes], taken)

    def _epoch(self, number: int) -> list[Told]:
        options = self._options
        random = np.random.default_rng([options.seed, number])
        found = []
        for at in random.permutation(len(self._train)):
            window = self._train[at]
            times, told = random.random(2)
            previous = self._by_id.get(window.previous or "") if told < options.previous else None
            seed = int(random.integers(1 << 31))
            found.append(
                Told(
                    window,
                    bool(times < options.timestamps),
                    previous,
                    self._change(window, number),
                    options.split_tokens,
                    seed,
                )
            )
        return found

    def sounds(self) -> Iterator[tuple[LabelledWindow, Change]]:
        """All that is heard, where it is not another sound in every epoch."""
        for copy in range(self._options.sounds):
            for window in self._train:
                yield window, self._change(window, copy)

    def _change(self, window: LabelledWindow, epoch: int) -> Change:
        """How a window sounds in an epoch, whatever else is learned from, and wherever it lies."""
        options = self._options
        if not options.augments:
            return Change()
        copy = epoch % options.copies if options.copies else epoch
        samples = min(round(window.seconds * SAMPLE_RATE), WINDOW_SAMPLES)
        own = crc32(window.id.encode(errors="backslashreplace"))
        return drawn(options, samples, np.random.default_rng([options.seed, own, copy]))

    def units(self, told: Told) -> int:
        """Tokens that are learned."""
        found = self._prompted(told)
        return len(found.tokens) - 1 - found.start

    def batch(self, told: Sequence[Told]) -> Taught:
        """The windows together; those that cannot be heard any more are left out and noted."""
        states, features = self._states(told), None
        rows = list(range(len(told)))
        if states is None:
            heard = [self._heard(one) for one in told]
            rows = [row for row, one in enumerate(heard) if one is not None]
            silence = np.zeros((self._mel_bins, WINDOW_FRAMES), np.float32)
            features = torch.from_numpy(
                np.stack([one for one in heard if one is not None] or [silence])
            )
        arrays = padded([self._prompted(told[row]) for row in rows or [0]], self._end)
        read, places, learned = (torch.from_numpy(one) for one in arrays)
        if not rows:  # a step without gradients would be another step for the optimiser
            places, learned = places[:0], learned[:0]
        return Taught(read, places, learned, states, features, tuple(rows))

    def features(self, window: LabelledWindow, change: Change) -> Features:
        """(mel_bins, 3000) float32.

        Raises:
            InputError: it cannot be heard.
        """
        sound = changed(self._audio.samples(window), change)
        frames = min(WINDOW_FRAMES, len(sound) // HOP_SAMPLES)
        return masked(log_mel(sound, self._mel_bins), change, frames)

    def close(self) -> None:
        """Close the file that is open."""
        self._audio.close()

    def _prompted(self, told: Told) -> Prompted:
        found = self._sequences.sequence(
            told.window,
            timestamps=told.timestamps,
            previous=told.previous,
            speed=told.change.speed,
        )
        if not told.split_tokens:
            return found
        random = np.random.default_rng(told.seed)
        return self._sequences.split(found, told.split_tokens, random)

    def _states(self, told: Sequence[Told]) -> torch.Tensor | None:
        """Of all, or none."""
        if self._kept is None:
            return None
        found = [self._kept.read(key_of(one.window, one.change)) for one in told]
        there = [one for one in found if one is not None]
        return torch.stack(there) if len(there) == len(found) else None

    def _heard(self, told: Told) -> Features | None:
        try:
            return self.features(told.window, told.change)
        except InputError as error:
            self._bad(error)
            return None


def divided(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Neighbours together, so many of them."""
    for first in range(0, len(items), size):
        yield items[first : first + size]
