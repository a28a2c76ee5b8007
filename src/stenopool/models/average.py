"""The mean of several trainings of one model: often better than each of them, and as fast.

It works where they have begun with the same weights, so that they have not gone far apart.

Source: Wortsman et al., "Model soups" (2022), https://arxiv.org/abs/2203.05482.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial, reduce
from pathlib import Path

import numpy as np

from stenopool.errors import UnsupportedOption, UsageError
from stenopool.files import folder_beside, give_name, make_folder, refuse_existing, write_whole
from stenopool.models.card import export_card
from stenopool.models.export import CARD
from stenopool.models.facts import HYPERPARAMETERS, facts_of
from stenopool.models.formats.model import FLOAT32, Whisper
from stenopool.models.formats.reading import read_whisper
from stenopool.models.formats.transformers import WEIGHTS, write_transformers
from stenopool.models.local import LocalModel
from stenopool.models.weights import LazyTensors, Stored, Tensor


def average(models: Sequence[LocalModel], output: Path) -> None:
    """Write the mean of models as a Transformers folder in float32.

    Args:
        models: verified; two or more.
        output: a folder that is not there yet.

    Raises:
        UsageError: there are fewer than two.
        UnsupportedOption: they are not Whisper models of one shape and one tokenizer.
        ModelDamaged: the files of one are damaged.
        OutputError: the output is there already, or cannot be written.
    """
    if len(models) < 2:
        raise UsageError("a mean is of two models or more", do="Name another one")
    refuse_existing(output)
    read = [_whisper(model) for model in models]
    first, *others = read
    for model, other in zip(models[1:], others, strict=True):
        if other.weights.shape != first.weights.shape or other.tokenizer != first.tokenizer:
            raise UnsupportedOption(
                f"`{model.name}` is not of the shape and the tokens of `{models[0].name}`",
                do="Average trainings of the same model",
            )
    mean = _mean(read)
    make_folder(output.parent)
    facts = facts_of(models[0])
    training = {**facts.get("training", {}), "averaged": [Path(one.name).name for one in models]}
    training.pop("evaluations", None)  # of one of them
    with folder_beside(output) as fresh:
        write_transformers(mean, fresh)
        if "kind" in training:  # else nobody knows how they were trained
            write_whole(fresh / HYPERPARAMETERS, json.dumps(training, indent=2) + "\n")
        with (fresh / WEIGHTS).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        model = replace(models[0], name=output.name, sha256=digest)
        told = (mean, "transformers", FLOAT32, "", {**facts, "training": training})
        write_whole(fresh / CARD, export_card(model, *told))
        give_name(fresh, output)


def _whisper(model: LocalModel) -> Whisper:
    if model.kind != "whisper":
        raise UnsupportedOption(
            f"`{model.name}` is not a Whisper model", do="Average models of `steno train distil`"
        )
    return read_whisper(model.folder)


def _mean(models: Sequence[Whisper]) -> Whisper:
    stored = [one.weights.stored() for one in models]
    found = {
        name: Stored(one.shape, partial(_mean_of, [each[name] for each in stored]))
        for name, one in stored[0].items()
    }
    first = models[0]
    return replace(first, weights=replace(first.weights, tensors=LazyTensors(found)))


def _mean_of(tensors: Sequence[Stored]) -> Tensor:
    summed = reduce(np.add, (one.load().astype(np.float32) for one in tensors))
    return np.asarray(summed / np.float32(len(tensors)))
