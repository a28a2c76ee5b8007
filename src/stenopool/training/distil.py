"""Distillation: a student with few decoder layers learns to write what its teacher writes.

Gandhi et al. 2023, "Distil-Whisper": cross-entropy on the teacher's labels, and the divergence
from its distribution at a temperature (Hinton et al. 2015), whose gradient is scaled back by the
square of the temperature.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from stenopool.errors import InputError
from stenopool.models.formats.model import Whisper
from stenopool.models.formats.transformers import write_transformers
from stenopool.training.agreement import Said, evaluated
from stenopool.training.augment import Change
from stenopool.training.distil_options import DistilOptions
from stenopool.training.encoder_states import EncoderStates, key_of
from stenopool.training.examples import Bad
from stenopool.training.greedy import greedy
from stenopool.training.labels import LabelledWindow
from stenopool.training.lessons import Lesson, Lessons, Told, divided
from stenopool.training.loading import ahead
from stenopool.training.sequences import Sequences
from stenopool.training.student import Student, Taught, encoded, logits, loss_of
from stenopool.training.task import Evaluation, Work
from stenopool.training.whisper_models import (
    Teacher,
    numpy_weights,
    shortened,
    spaced,
    torch_model,
)

if TYPE_CHECKING:
    from accelerate import Accelerator

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class DistilTask:
    """Distillation of a Whisper model.

    Args:
        train, valid: what to learn from, and what to measure with; each has a label that fits.
        sequences: of the teacher's tokens.
        kept: the encoder's states on the disk, where they are the same in every epoch.
        bad: takes note of windows that turn out to be unusable on the way.
    """

    def __init__(
        self,
        teacher: Teacher,
        train: Sequence[LabelledWindow],
        valid: Sequence[LabelledWindow],
        sequences: Sequences,
        options: DistilOptions,
        kept: EncoderStates | None,
        bad: Bad,
    ) -> None:
        self._teacher, self._options, self._bad = teacher, options, bad
        self._valid = list(valid)
        self._sequences, self._kept = sequences, kept
        self.layers = spaced(teacher.weights.shape.decoder_layers, options.decoder_layers)
        small = shortened(teacher.weights, self.layers)
        self._shape, self._generation = small.shape, small.generation
        self._lessons = Lessons(
            train,
            sequences,
            options,
            mel_bins=small.shape.mel_bins,
            end=teacher.tokens.end,
            kept=kept,
            bad=bad,
        )
        self._teacher_said: dict[str, tuple[int, ...]] = {}
        # The teacher is no part of the model that is trained, saved and spread over devices.
        self._whole = torch_model(teacher.weights, teacher.tokens)
        self._student = Student(torch_model(small, teacher.tokens), self._whole, options)
        self.model: torch.nn.Module = self._student

    def sounds(self) -> dict[str, tuple[LabelledWindow, Change]]:
        """What the encoder hears again and again, by its key."""
        plain = ((one, Change()) for one in self._valid)
        return {key_of(*one): one for one in chain(self._lessons.sounds(), plain)}

    def keep_states(
        self,
        device: torch.device,
        sounds: Mapping[str, tuple[LabelledWindow, Change]],
        report: Callable[[int], None],
    ) -> None:
        """Compute what the encoder makes of sounds, by their keys.

        Raises:
            OutputError, InputError: by name.
        """
        assert self._kept is not None  # noqa: S101  the caller has made it
        encoder = self._whole.model.encoder.to(device)

        def compute(key: str) -> torch.Tensor | None:
            try:
                features = self._lessons.features(*sounds[key])
            except InputError as error:
                self._bad(error)
                return None
            with torch.no_grad(), self._autocast(device):
                found = encoder(torch.from_numpy(features)[None].to(device))
            states: torch.Tensor = found.last_hidden_state[0]
            return states

        self._kept.fill(list(sounds), compute, report)

    def work(self, first: int, accelerator: Accelerator) -> Generator[Work[Taught], None, None]:
        """The work of all steps from `first` on, read ahead."""
        self._whole.to(accelerator.device)
        steps = self._lessons.steps(first, accelerator.process_index, accelerator.num_processes)
        yield from ahead(steps, self._made, workers=self._options.workers)

    def loss(self, model: torch.nn.Module, batch: Taught) -> torch.Tensor:
        """The loss of a batch, as a sum over its tokens."""
        return self._compared(model, batch)[0]

    def evaluate(self, model: torch.nn.Module, accelerator: Accelerator) -> Evaluation:
        """Error rates of greedy decoding, and how often student and teacher agree."""
        mine: list[Said] = []
        own = self._valid[accelerator.process_index :: accelerator.num_processes]
        self._whole.to(accelerator.device)
        with torch.no_grad():
            for windows in divided(own, self._options.batch_windows):
                mine += self._said(model, windows)
        if accelerator.num_processes > 1:
            from accelerate.utils import gather_object

            mine = gather_object(mine)
        return evaluated(mine, len(self._valid))

    def save(self, folder: Path) -> None:
        """The student as Transformers has it, which our engines read too."""
        tensors = self._student.whisper.state_dict()
        weights = numpy_weights(tensors, self._shape, self._generation)
        write_transformers(Whisper(weights, self._teacher.whisper.tokenizer), folder)

    def close(self) -> None:
        """Close what is open."""
        self._lessons.close()

    def _made(self, step: Lesson) -> Work[Taught]:
        units = sum(self._lessons.units(one) for one in step.everyone)
        seconds = sum(one.window.seconds for one in step.everyone)
        batches = [self._lessons.batch(one) for one in step.batches]
        return Work(step.number, step.epoch, batches, units, seconds)

    def _compared(
        self, model: torch.nn.Module, batch: Taught
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Loss, and the logits of student and teacher."""
        device = next(model.parameters()).device
        learned = batch.learned.to(device, non_blocking=True)
        with self._autocast(device):
            heard = self._heard(batch, device)
            student = model(batch, None if self._options.train_encoder else heard)
            with torch.no_grad():
                teacher = logits(self._whole, batch, heard)
        return loss_of(student, teacher, learned, self._options), student, teacher

    def _heard(self, batch: Taught, device: torch.device) -> torch.Tensor:
        """What the teacher's encoder makes of a batch; kept or not, it is the same."""
        if batch.states is not None:
            return batch.states.to(device, non_blocking=True).float()
        with torch.no_grad(), self._autocast(device):
            found = encoded(self._whole, batch)
        return found.to(torch.bfloat16).float()

    def _autocast(self, device: torch.device) -> torch.autocast:
        kind = _TYPES.get(self._options.precision)
        return torch.autocast(device.type, dtype=kind, enabled=kind is not None)

    def _said(self, model: torch.nn.Module, windows: Sequence[LabelledWindow]) -> list[Said]:
        """What student and teacher write of some windows, and the loss on their labels."""
        batch = self._lessons.batch([Told(one) for one in windows])
        windows = [windows[row] for row in batch.rows]
        if not windows:
            return []
        loss, student, teacher = self._compared(model, batch)
        alike = float((student.argmax(-1) == teacher.argmax(-1)).float().mean())
        device = next(model.parameters()).device
        whisper = self._student.whisper
        with self._autocast(device):
            heard = self._heard(batch, device)
            own = encoded(whisper, batch) if self._options.train_encoder else heard
            written = self._written(whisper, own, windows)
            if any(one.id not in self._teacher_said for one in windows):
                taught = self._written(self._whole, heard, windows)
                self._teacher_said |= dict(zip((one.id for one in windows), taught, strict=True))
        text = self._sequences.vocabulary.text
        return [
            Said(
                id=one.id,
                language=one.language,
                reference=one.reference if one.reference is not None else one.text,
                text=text(tokens).strip(),
                tokens=tokens,
                teacher=self._teacher_said[one.id],
                loss=float(loss) / len(batch.learned),
                alike=alike,
            )
            for one, tokens in zip(windows, written, strict=True)
        ]

    def _written(
        self,
        whisper: Any,  # noqa: ANN401  transformers has no types
        heard: torch.Tensor,
        windows: Sequence[LabelledWindow],
    ) -> list[tuple[int, ...]]:
        """Windows of one language are decoded together."""
        sequences, options = self._sequences, self._options
        prompts = [
            tuple(sequences.vocabulary.prompt(sequences.head(one), (), timestamps=False))
            for one in windows
        ]
        found: dict[int, tuple[int, ...]] = {}
        for prompt in dict.fromkeys(prompts):
            rows = [at for at, one in enumerate(prompts) if one == prompt]
            tokens = greedy(
                whisper,
                heard[rows],
                prompt,
                said=self._generation,
                end=self._teacher.tokens.end,
                most=min(options.greedy_tokens, self._shape.text_positions - len(prompt) - 1),
            )
            found |= {row: tuple(one) for row, one in zip(rows, tokens, strict=True)}
        return [found[at] for at in range(len(windows))]
