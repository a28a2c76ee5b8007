"""CTC: the model writes a character or a blank in every frame, and repeats mean one.

Graves et al. 2006, "Connectionist Temporal Classification"; Baevski et al. 2020, "wav2vec 2.0".
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stenopool.audio import SAMPLE_RATE, Samples
from stenopool.errors import InputError, UsageError
from stenopool.evaluation.score import pooled, score
from stenopool.training.batches import Batch, Batches, Step, Utterance, packed, padded
from stenopool.training.examples import Bad, Example, collapsed
from stenopool.training.loading import Audio, ahead, at_speed, with_pauses
from stenopool.training.models import VOCABULARY
from stenopool.training.options import CtcOptions
from stenopool.training.task import Evaluation, Work
from stenopool.training.vocabulary import Vocabulary, frames_needed

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

SHOWN = 10  # samples of each evaluation


@dataclass(frozen=True, slots=True)
class Heard:
    """A padded batch.

    Attributes:
        audio: (utterances, samples) float32, normalised as the model wants it.
        mask: (utterances, samples), 1 where there is audio; `None` for models that take none.
        lengths: samples of each utterance.
        labels: numbers of the characters of each utterance.
        items: what was heard; those that could not be decoded are missing.
    """

    audio: torch.Tensor
    mask: torch.Tensor | None
    lengths: torch.Tensor
    labels: tuple[tuple[int, ...], ...]
    items: tuple[Utterance, ...]


class CtcTask:
    """Training of a `Wav2Vec2ForCTC`.

    Args:
        model: the model; it is on the CPU still.
        processor: its `Wav2Vec2Processor`.
        train: what to learn from.
        valid: what to measure with.
        bad: takes note of recordings that turn out to be unusable on the way.
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401  transformers has no types
        processor: Any,  # noqa: ANN401
        vocabulary: Vocabulary,
        train: Sequence[Example],
        valid: Sequence[Example],
        options: CtcOptions,
        bad: Bad,
    ) -> None:
        self.model = model
        self._processor, self._vocabulary, self._options, self._bad = (
            processor,
            vocabulary,
            options,
            bad,
        )
        self._space = vocabulary.labels(" ")
        self._valid = sorted(valid, key=lambda one: one.seconds)
        self._batches = Batches(
            train,
            seconds=options.batch_seconds,
            seed=options.seed,
            join=options.join,
            pause=options.pause,
            longest=options.max_seconds,
            speed=options.speed,
        )
        room = options.cache_mb * 1_000_000
        longest = max([options.max_seconds, *(one.seconds for one in valid)]) + 1.0
        self._audio = Audio(bytes=room, longest=longest)
        # SpecAugment refuses batches that are shorter than one of its masks.
        self._least = _samples_for(model, model.config.mask_time_length + 1)

    def work(self, first: int, accelerator: Accelerator) -> Generator[Work[Heard], None, None]:
        """The work of all steps from `first` on, decoded ahead."""
        options = self._options
        steps = self._batches.steps(
            first,
            options.steps,
            accumulate=options.accumulate,
            rank=accelerator.process_index,
            processes=accelerator.num_processes,
        )
        yield from ahead(steps, self._made, workers=options.workers)

    def loss(self, model: torch.nn.Module, batch: Heard) -> torch.Tensor:
        """Negative log-likelihood of all texts of a batch, in nats."""
        return self._losses(*self._frames(model, batch), batch).sum()

    def evaluate(self, model: torch.nn.Module, accelerator: Accelerator) -> Evaluation:
        """Word and character error rates of greedy decoding, and the loss a character."""
        import torch

        mine: list[tuple[str, str, str, float]] = []
        utterances = [Utterance((one,)) for one in self._valid]
        batches = list(packed(utterances, self._options.batch_seconds))
        own = batches[accelerator.process_index :: accelerator.num_processes]
        heard = ahead(own, partial(self._collated, training=False), workers=self._options.workers)
        with torch.no_grad():
            for batch in heard:
                if batch.items:
                    mine += self._read(model, batch)
        if accelerator.num_processes > 1:
            from accelerate.utils import gather_object

            mine = gather_object(mine)
        return _evaluation(mine, len(self._valid))

    def save(self, folder: Path) -> None:
        """Model, tokenizer and feature extractor, as Transformers expects them."""
        self.model.save_pretrained(folder)
        self._processor.feature_extractor.save_pretrained(folder)
        self._processor.tokenizer.save_pretrained(folder)
        (folder / VOCABULARY).write_text(self._vocabulary.document(), encoding="utf-8")

    def _made(self, step: Step) -> Work[Heard]:
        units = sum(len(self._labels(one)) for batch in step.everyone for one in batch)
        seconds = sum(one.seconds for batch in step.everyone for one in batch)
        batches = [self._collated(batch, training=True) for batch in step.batches]
        return Work(step.number, step.epoch, batches, units, seconds)

    def _labels(self, one: Utterance) -> tuple[int, ...]:
        first, *rest = one.parts
        return sum(((*self._space, *part.labels) for part in rest), first.labels)

    def _collated(self, batch: Batch, *, training: bool) -> Heard:
        """Decoded and padded; what cannot be used is left out and counted."""
        import torch

        sounds: list[Samples] = []
        items: list[Utterance] = []
        for one in batch:
            try:
                sound = self._sound(one)
                if training:
                    self._check_fits(one, len(sound))
            except (InputError, UsageError) as error:
                self._bad(error)
            else:
                sounds.append(sound)
                items.append(one)
        if not items:  # a step without gradients would be another step for the optimiser
            sounds = [np.zeros(self._least, dtype=np.float32)]
        normalised = self._processor.feature_extractor(
            sounds, sampling_rate=SAMPLE_RATE, padding=False, return_attention_mask=False
        )["input_values"]
        longest = padded(max(self._least, *map(len, sounds)))
        audio = np.zeros((len(sounds), longest), dtype=np.float32)
        for row, sound in zip(audio, normalised, strict=True):
            row[: len(sound)] = sound
        lengths = torch.tensor([len(sound) for sound in sounds])
        mask = None
        if self._processor.feature_extractor.return_attention_mask:
            mask = (torch.arange(longest)[None, :] < lengths[:, None]).long()
        labels = tuple(self._labels(one) for one in items)
        return Heard(torch.from_numpy(audio), mask, lengths, labels, tuple(items))

    def _sound(self, one: Utterance) -> Samples:
        sounds = [self._audio.samples(part.audio) for part in one.parts]
        return at_speed(with_pauses(sounds, one.pauses), one.speed)

    def _check_fits(self, one: Utterance, samples: int) -> None:
        """A manifest may claim more seconds than there are."""
        there = int(self.model._get_feat_extract_output_lengths(samples))
        needed = frames_needed(self._labels(one))
        if there < needed:
            raise UsageError(
                f"`{one.parts[0].audio}` has {samples / SAMPLE_RATE:.2f} s, its manifest claims "
                f"{one.seconds:.2f} s: its text needs {needed} frames and there are {there}",
                do="Run `steno data prepare`, which measures, or give `--on-bad skip`",
            )

    def _frames(self, model: torch.nn.Module, batch: Heard) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities (frames, utterances, tokens) float32, and frames of each utterance."""
        import torch

        device = next(model.parameters()).device
        mask = None if batch.mask is None else batch.mask.to(device, non_blocking=True)
        found = model(batch.audio.to(device, non_blocking=True), attention_mask=mask)
        frames = self.model._get_feat_extract_output_lengths(batch.lengths).long()
        return torch.log_softmax(found.logits.float(), dim=-1).transpose(0, 1), frames

    def _losses(self, logarithms: torch.Tensor, frames: torch.Tensor, batch: Heard) -> torch.Tensor:
        """(utterances,) nats; 0 where the text needs more frames than there are."""
        import torch

        if not batch.items:
            return logarithms.sum()[None] * 0.0
        targets = torch.tensor([label for labels in batch.labels for label in labels])
        return torch.nn.functional.ctc_loss(
            logarithms,
            targets.to(logarithms.device),
            frames,
            torch.tensor([len(labels) for labels in batch.labels]),
            blank=self._vocabulary.blank,
            reduction="none",
            zero_infinity=True,
        )

    def _read(self, model: torch.nn.Module, batch: Heard) -> list[tuple[str, str, str, float]]:
        """Id, reference, hypothesis and loss of each utterance."""
        logarithms, frames = self._frames(model, batch)
        losses = self._losses(logarithms, frames, batch).tolist()
        best = logarithms.argmax(-1).T.cpu()  # (utterances, frames)
        texts = [
            self._processor.tokenizer.decode(row[:count].tolist())
            for row, count in zip(best, frames.tolist(), strict=True)
        ]
        parts = (one.parts[0] for one in batch.items)
        return [
            (part.id, part.text, collapsed(text), loss)
            for part, text, loss in zip(parts, texts, losses, strict=True)
        ]


def _evaluation(found: Sequence[tuple[str, str, str, float]], wanted: int) -> Evaluation:
    counts = pooled(score([said], heard, collapsed) for _, said, heard, _ in found)
    ordered = sorted(found)
    figures = {
        "wer": _rate(counts.wer),
        "cer": _rate(counts.cer),
        "loss": sum(loss for *_, loss in found) / max(1, counts.letters),
        "words": float(counts.words),
        "recordings": float(len(found)),
        "left_out": float(wanted - len(found)),
    }
    chosen = ordered[:: max(1, len(ordered) // SHOWN)][:SHOWN]
    samples = [{"id": id, "reference": said, "hypothesis": heard} for id, said, heard, _ in chosen]
    return Evaluation(figures["wer"], figures, samples)


def _rate(rate: float | None) -> float:
    return 1.0 if rate is None else rate


def _samples_for(model: Any, frames: int) -> int:  # noqa: ANN401
    """The fewest samples of which the model makes so many frames."""
    stride = int(np.prod(model.config.conv_stride))
    samples = frames * stride
    while int(model._get_feat_extract_output_lengths(samples)) < frames:
        samples += stride
    return samples
