"""A student: a Whisper model that shares with its teacher what does not learn; and its loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from stenopool.training.distil_options import DistilOptions
from stenopool.training.whisper_models import EMBEDDING, OUTPUT

TOKENS_AT_ONCE = 128  # of a loss: 27 MB for a vocabulary of 52,000


@dataclass(frozen=True, slots=True)
class Taught:
    """A batch.

    Attributes:
        read: (windows, tokens) int64, what the decoder reads.
        places: where in it, flattened, something is learned.
        learned: what that is; below 0 only the teacher knows.
        states: (windows, 1500, width) bfloat16 of the encoder, where they are kept.
        features: (windows, mel bins, 3000) float32, where they are not.
        rows: which of the windows these are; those that cannot be heard are missing.
    """

    read: torch.Tensor
    places: torch.Tensor
    learned: torch.Tensor
    states: torch.Tensor | None
    features: torch.Tensor | None
    rows: tuple[int, ...] = ()


class Student(torch.nn.Module):
    """A Whisper model whose forward pass gives the logits where something is learned.

    Args:
        whisper: the student, a `WhisperForConditionalGeneration` of which nothing learns yet.
        teacher: the same for the teacher; what does not learn is taken from it.
    """

    def __init__(self, whisper: Any, teacher: Any, options: DistilOptions) -> None:  # noqa: ANN401
        super().__init__()
        decoder = whisper.model.decoder
        decoder.layers.requires_grad_(True)
        decoder.layer_norm.requires_grad_(True)
        if options.train_embeddings:
            decoder.embed_tokens.requires_grad_(True)
            decoder.embed_positions.requires_grad_(True)
        else:
            decoder.embed_tokens = teacher.model.decoder.embed_tokens
            decoder.embed_positions = teacher.model.decoder.embed_positions
            whisper.proj_out = teacher.proj_out
        if options.train_encoder:
            whisper.model.encoder.requires_grad_(True)
            whisper.model.encoder.embed_positions.requires_grad_(False)  # sines, in every model
        else:
            whisper.model.encoder = teacher.model.encoder
        if options.checkpointing:
            newer = getattr(whisper, "activation_checkpointing_enable", None)  # Transformers 5
            (newer or whisper.gradient_checkpointing_enable)({"use_reentrant": False})
        self.whisper = whisper

    def forward(self, batch: Taught, states: torch.Tensor | None) -> torch.Tensor:
        """(places, vocabulary) logits.

        Args:
            states: of the encoder; `None` lets the student's own hear the batch.
        """
        heard = encoded(self.whisper, batch) if states is None else states
        return logits(self.whisper, batch, heard)

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:  # noqa: ANN401
        """As a checkpoint has it: without the output, which is the embedding."""
        whole = {**state_dict, OUTPUT: state_dict[EMBEDDING]}
        return self.whisper.load_state_dict(whole, strict=strict, assign=assign)


def encoded(model: Any, batch: Taught) -> torch.Tensor:  # noqa: ANN401
    """(windows, 1500, width): what a model's encoder makes of the features of a batch."""
    assert batch.features is not None  # noqa: S101  only where states are kept there are none
    device = next(model.parameters()).device
    found: torch.Tensor = model.model.encoder(batch.features.to(device)).last_hidden_state
    return found


def logits(model: Any, batch: Taught, states: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
    """(places, vocabulary) of a model that heard these states."""
    hidden = model.model.decoder(
        input_ids=batch.read.to(states.device), encoder_hidden_states=states, use_cache=False
    ).last_hidden_state
    chosen = hidden.flatten(0, 1)[batch.places.to(states.device)]
    found: torch.Tensor = model.proj_out(chosen)
    return found


def loss_of(
    student: torch.Tensor, teacher: torch.Tensor, learned: torch.Tensor, options: DistilOptions
) -> torch.Tensor:
    """The sum over all tokens, in nats.

    Args:
        student, teacher: (tokens, vocabulary) logits.
        learned: (tokens,) of the labels; where it is below 0, there is none.
    """
    weights = (options.ce_weight, options.kl_weight, options.temperature)
    apply: Any = _Loss.apply  # it has no types
    found: torch.Tensor = apply(student, teacher, learned, weights)
    return found


class _Loss(torch.autograd.Function):
    """A few tokens at a time, with the gradient: what a vocabulary needs of memory is read once."""

    @staticmethod
    def forward(
        context: Any,  # noqa: ANN401
        student: torch.Tensor,
        teacher: torch.Tensor,
        learned: torch.Tensor,
        weights: tuple[float, float, float],
    ) -> torch.Tensor:
        gradient = torch.empty_like(student)
        kind = torch.promote_types(student.dtype, torch.float32)
        total = torch.zeros((), dtype=kind, device=student.device)
        for first in range(0, len(student), TOKENS_AT_ONCE):
            some = slice(first, first + TOKENS_AT_ONCE)
            loss, gradient[some] = _with_gradient(
                student[some].to(kind), teacher[some].to(kind), learned[some], weights
            )
            total += loss
        context.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(context: Any, outer: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:  # noqa: ANN401
        (gradient,) = context.saved_tensors
        return gradient * outer.to(gradient.dtype), None, None, None


def _with_gradient(
    student: torch.Tensor,
    teacher: torch.Tensor,
    learned: torch.Tensor,
    weights: tuple[float, float, float],
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of some tokens, and its gradient by the student's logits."""
    ce_weight, kl_weight, degree = weights
    total = torch.zeros((), dtype=student.dtype, device=student.device)
    gradient = torch.zeros_like(student)
    if ce_weight:
        logarithms = torch.log_softmax(student, dim=-1)
        labels = learned.clamp(min=0)[:, None]
        weight = ce_weight * (learned >= 0).to(student.dtype)[:, None]
        total -= (weight * logarithms.gather(1, labels)).sum()
        gradient = logarithms.exp_().mul_(weight)
        gradient.scatter_add_(1, labels, -weight)
    if kl_weight:
        ours = torch.log_softmax(student / degree, dim=-1)
        theirs = torch.log_softmax(teacher / degree, dim=-1)
        probable = theirs.exp()
        total += kl_weight * degree**2 * (probable * (theirs - ours)).sum()
        gradient += (ours.exp_() - probable).mul_(kl_weight * degree)
    return total, gradient
