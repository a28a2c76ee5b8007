"""A Whisper model on one device: windows and tokens in, what follows out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stenopool.engines.rules import Next
from stenopool.engines.special import Special
from stenopool.engines.torch.network import Cache, Decoder, Encoder, Heard
from stenopool.engines.torch.parts import Parts, Place
from stenopool.models.weights import HEAD_WIDTH, WhisperWeights

CANDIDATES = 16  # of the text tokens
NEVER = -1e4  # logit of a suppressed token

_EVEN = 1e-12  # added to a variance, which could be 0


class Model:
    """The networks of a model, and how they are asked.

    Args:
        special: the tokens of the model that decodes; an assistant has those of its main model.
        text_tokens: how many of the text tokens it may write, from the first; `None` is all.
    """

    def __init__(
        self,
        weights: WhisperWeights,
        special: Special,
        place: Place,
        *,
        text_tokens: int | None = None,
    ) -> None:
        parts = Parts(weights, place)
        self.shape, self.place = weights.shape, place
        self._text = min(special.end, text_tokens or special.end)
        self.encoder = Encoder(parts)
        self.decoder = Decoder(parts, slice(self._text, special.end))
        self._heads = weights.generation.alignment_heads or weights.shape.upper_heads
        suppressed = [token for token in special.suppressed if token < self._text]
        self._suppressed = torch.tensor(suppressed, dtype=torch.long, device=place.device)

    def compile(self) -> None:
        """Let `torch.compile` make kernels; the first calls then wait for them."""
        encoder, decoder = self.encoder, self.decoder
        encoder.layers = [torch.compile(one) for one in encoder.layers]
        decoder.layers = [torch.compile(one, dynamic=True) for one in decoder.layers]

    def states(self, features: NDArray[np.float32]) -> Tensor:
        """(windows, mel bins, frames) → (windows, frames / 2, width)."""
        place = self.place
        return self.encoder(torch.from_numpy(features).to(place.device, place.dtype))

    def fed(self, tokens: Sequence[Sequence[int]], cache: Cache, heard: Heard) -> Tensor:
        """The decoder's output for each new token of each row, (rows, new, width)."""
        return self.decoder(torch.tensor(tokens, device=self.place.device), cache, heard)

    def following(self, x: Tensor) -> Next:
        """What follows some of them, (n, width)."""
        logits = self.decoder.logits(x)
        text = logits[:, : self._text].index_fill_(1, self._suppressed, NEVER)
        values, ids = text.topk(min(CANDIDATES, self._text), 1)
        mass = text.logsumexp(1)
        if x.dtype != torch.float32:
            better = self._scored_again(x, ids)
            mass, values = _replaced(mass, values, better), better
        return Next(
            ids.to(torch.int32).cpu().numpy(),
            values.cpu().numpy(),
            mass.cpu().numpy(),
            logits[:, self._text :].cpu().numpy(),
        )

    def _scored_again(self, x: Tensor, ids: Tensor) -> Tensor:
        """The logits of some tokens in float32: large ones have coarse steps in 16 bits."""
        rows = self.decoder.table[ids].float()  # (n, candidates, width)
        return (rows * x.float()[:, None]).sum(-1)

    def attention(self, tokens: Sequence[int], heard: Heard, length: int) -> NDArray[np.float32]:
        """To which positions of one window each token of a text attends, (tokens, positions).

        The mean over the heads that follow the audio, each position normalised over the tokens.

        Args:
            length: positions with sound.
        """
        asked: list[Tensor] = []
        decoder = self.decoder
        ids = torch.tensor([tokens], device=self.place.device)
        decoder(ids, decoder.cache(1), heard, asked)
        shares = [
            torch.softmax(
                asked[layer][0, head].float()
                @ heard[layer][0][0, head, :length].float().T
                * HEAD_WIDTH**-0.5,
                -1,
            )
            for layer, head in self._heads
        ]
        stacked = torch.stack(shares)  # (heads, tokens, positions)
        variance, mean = torch.var_mean(stacked, 1, correction=0, keepdim=True)
        found: NDArray[np.float32] = (
            ((stacked - mean) / (variance + _EVEN).sqrt()).mean(0).cpu().numpy()
        )
        return found


def _replaced(mass: Tensor, rough: Tensor, better: Tensor) -> Tensor:
    """The logarithm of a sum, some of whose terms are known better now."""
    highest = rough.amax(1)
    rest = (mass - highest).exp() - (rough - highest[:, None]).exp().sum(1)
    # Else a better logit over the rough sum could be a probability above 1.
    known = (better - highest[:, None]).exp().sum(1)
    return (rest.clamp(min=0.0) + known).log() + highest
