"""Greedy decoding in PyTorch, for evaluations during training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from stenopool.models.weights import Generation


def greedy(
    model: Any,  # noqa: ANN401  transformers has no types
    states: torch.Tensor,
    prompt: Sequence[int],
    *,
    said: Generation,
    end: int,
    most: int,
) -> list[list[int]]:
    """The most probable token after each other, without timestamps.

    Args:
        model: a `WhisperForConditionalGeneration`.
        states: (windows, positions, width) of the encoder.
        prompt: tokens before the first that is written, the same for all.
        said: what the publisher says is never written.
        end: of the text; what comes after it in the vocabulary is never written.
        most: tokens that are written.

    Returns:
        The tokens of each window, without prompt and end.
    """
    import torch
    from transformers import DynamicCache, EncoderDecoderCache

    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    rows = len(states)
    read = torch.tensor([list(prompt)] * rows, device=states.device)
    never = torch.zeros(model.config.vocab_size, dtype=torch.bool, device=states.device)
    never[[one for one in said.suppress if one < len(never)]] = True
    never[end:] = True
    never[end] = False
    first = never.clone()
    first[[one for one in said.suppress_first if one < len(never)]] = True
    written = torch.full((rows, most), end, device=states.device)
    done = torch.zeros(rows, dtype=torch.bool, device=states.device)
    for at in range(most):
        hidden = model.model.decoder(
            input_ids=read,
            encoder_hidden_states=states,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        scores = model.proj_out(hidden[:, -1]).float()
        best = scores.masked_fill(first if at == 0 else never, -torch.inf).argmax(-1)
        best = torch.where(done, end, best)
        written[:, at] = best
        done |= best == end
        if bool(done.all()):
            break
        read = best[:, None]
    return [_until(row, end) for row in written.tolist()]


def _until(row: list[int], end: int) -> list[int]:
    return row[: row.index(end)] if end in row else row
