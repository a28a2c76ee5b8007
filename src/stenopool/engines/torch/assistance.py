"""The assistant of a model, and what it shares with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from stenopool.audio.features import Features
from stenopool.engines.special import special_tokens, token_ids
from stenopool.engines.torch.model import Model
from stenopool.engines.torch.network import Heard
from stenopool.engines.torch.parts import Place
from stenopool.errors import UnsupportedOption, UsageError
from stenopool.models.weights import Tensors, WhisperWeights, read_weights

# Half of them: tokens are numbered by how common they are, and the logits of all would be half of
# a draft's time. In English speech 96 of 100 tokens are among these.
TEXT_TOKENS = 24_576


class Assistance:
    """A smaller model, loaded beside its main model on the same device.

    What it writes is only a draft: on CPUs its weights are int8, whatever those of the main model
    are, and it knows no rare tokens.

    Args:
        weights, folder: of the main model.
        assistant: folder of the assistant.

    Raises:
        UsageError: it has other tokens than the main model, or hears other features.
        UnsupportedOption: the main model is quantised.
        ModelDamaged: its files are not those of a Whisper model.
    """

    def __init__(self, main: Model, weights: WhisperWeights, folder: Path, assistant: Path) -> None:
        if main.place.precision in ("int8", "int4"):
            # Its products are too coarse to know which choices are close.
            raise UnsupportedOption(
                f"a model of {main.place.precision} goes without an assistant: it would write "
                "something else with one",
                do="Unset `STENO_TORCH_PRECISION`, or leave out the assistant",
            )
        own = read_weights(assistant)
        special = special_tokens(folder, weights.generation)
        sizes = [
            (one.shape.mel_bins, one.shape.vocabulary, one.shape.text_positions)
            for one in (weights, own)
        ]
        if sizes[0] != sizes[1] or token_ids(folder) != token_ids(assistant):
            raise UsageError(
                f"`{assistant.name}` cannot assist: it has other tokens than the model",
                do="Choose a student of the model, or another one of its family",
            )
        self.shares_encoder = _same_encoder(weights.tensors, own.tensors)
        place = main.place
        precision = "int8" if place.device == "cpu" else place.precision
        own_place = Place(place.device, precision, place.attention)
        self.model = Model(own, special, own_place, text_tokens=TEXT_TOKENS)

    def heard(self, states: Tensor, features: Features | None) -> Heard:
        """What the assistant hears of some windows.

        Args:
            states: of the main model's encoder.
            features: where the assistant has an encoder of its own.
        """
        if features is not None:
            states = self.model.states(features)
        return self.model.decoder.heard(states)


def _same_encoder(some: Tensors, others: Tensors) -> bool:
    """Whether all numbers of two encoders are the same."""
    names = [name for name in some if name.startswith("model.encoder.")]
    theirs = [name for name in others if name.startswith("model.encoder.")]
    return sorted(names) == sorted(theirs) and all(
        np.array_equal(some[name], others[name]) for name in names
    )
