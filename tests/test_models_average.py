"""`steno models average`: the mean of several trainings."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from commands import Steno
from stenopool.errors import OutputUnwritable, UnsupportedOption, UsageError
from stenopool.models import LocalModel, Store
from stenopool.models.average import average
from stenopool.models.facts import HYPERPARAMETERS, facts_of
from stenopool.models.formats.model import Whisper
from stenopool.models.formats.reading import read_whisper
from stenopool.models.formats.transformers import write_transformers
from stenopool.settings import settings
from whisper_models import ENGLISH, SHAPE, tiny, tokenizer


def written(folder: Path, whisper: Whisper) -> LocalModel:
    folder.mkdir()
    write_transformers(whisper, folder)
    return Store(folder.parent / "store").resolve(folder)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where rewritten models are kept."""
    monkeypatch.setenv("STENO_COMPILED_DIR", str(tmp_path / "compiled"))
    monkeypatch.setattr(settings(), "compiled_dir", tmp_path / "compiled")


@pytest.fixture
def trained(tmp_path: Path) -> list[LocalModel]:
    """Three trainings; the first has written down how it was done."""
    models = [written(tmp_path / f"student{seed}", tiny("float32", seed=seed)) for seed in range(3)]
    told = {"kind": "distil", "teacher": {"name": "base", "sha256": "0" * 64}, "layers": [0, 5]}
    (tmp_path / "student0" / HYPERPARAMETERS).write_text(json.dumps(told), encoding="utf-8")
    return models


def test_every_number_is_the_mean(trained: list[LocalModel], tmp_path: Path) -> None:
    average(trained, tmp_path / "out")
    found = read_whisper(tmp_path / "out")
    each = [tiny("float32", seed=seed).weights.tensors for seed in range(3)]
    assert set(found.weights.tensors) == set(each[0])
    for name, tensor in found.weights.tensors.items():
        assert tensor.dtype == np.float32
        np.testing.assert_allclose(tensor, np.mean([one[name] for one in each], axis=0), atol=1e-6)
    assert not list(tmp_path.glob(".partial-*"))


def test_it_says_of_what_it_is_the_mean(trained: list[LocalModel], tmp_path: Path) -> None:
    average(trained, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    digest = hashlib.sha256((tmp_path / "out" / "model.safetensors").read_bytes()).hexdigest()
    assert card.startswith("# out\n")
    assert digest in card
    assert "| mean of the trainings | `student0`, `student1`, `student2` |" in card
    training = facts_of(Store(tmp_path / "store").resolve(tmp_path / "out"))["training"]
    assert training["teacher"]["name"] == "base"
    assert training["averaged"] == ["student0", "student1", "student2"]
    assert training["evaluations"] == []


def test_nothing_is_told_of_trainings_that_told_nothing(
    trained: list[LocalModel], tmp_path: Path
) -> None:
    average(trained[1:], tmp_path / "out")
    assert not (tmp_path / "out" / HYPERPARAMETERS).exists()


def test_what_does_not_fit_together_is_refused(trained: list[LocalModel], tmp_path: Path) -> None:
    other = written(tmp_path / "other", tiny("float32", replace(SHAPE, decoder_layers=3)))
    wordy = written(tmp_path / "wordy", replace(tiny("float32"), tokenizer=_swapped()))
    for wrong in (other, wordy):
        with pytest.raises(UnsupportedOption, match=wrong.name):
            average([trained[0], wrong], tmp_path / "out")
    with pytest.raises(UsageError, match="two"):
        average(trained[:1], tmp_path / "out")
    (tmp_path / "there").mkdir()
    with pytest.raises(OutputUnwritable, match="there already"):
        average(trained, tmp_path / "there")
    assert not (tmp_path / "out").exists()


def _swapped() -> bytes:
    """Another tokenizer of the same size."""
    return tokenizer(ENGLISH).replace(b'"ing"', b'"gin"')


def test_command_makes_a_model_that_can_be_used(
    trained: list[LocalModel], tmp_path: Path, steno: Steno
) -> None:
    folders = [tmp_path / one.name for one in trained]
    ran = steno("models", "average", *folders, "-o", tmp_path / "out")
    assert ran.status == 0, ran.stderr
    assert "the mean of 3 models" in ran.stderr
    assert read_whisper(tmp_path / "out").weights.shape == SHAPE
