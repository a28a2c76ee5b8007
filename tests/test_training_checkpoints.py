from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from stenopool.errors import ModelDamaged, StorageFull
from stenopool.training import checkpoints
from stenopool.training.checkpoints import State, latest, save, state_of


def files(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"weights")


def names(output: Path) -> list[str]:
    return sorted(path.name for path in (output / "checkpoints").iterdir())


def test_checkpoint_is_the_last_one_and_older_ones_go(tmp_path: Path) -> None:
    assert latest(tmp_path) is None
    for step in (5, 10, 15):
        save(tmp_path, State(step=step, best=0.5), files, keep=2)
    assert names(tmp_path) == ["step-00000010", "step-00000015"]
    found = latest(tmp_path)
    assert found is not None
    assert state_of(found) == State(step=15, best=0.5)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_leaves_the_checkpoint_before(tmp_path: Path, number: int) -> None:
    save(tmp_path, State(step=5), files, keep=1)

    def full(folder: Path) -> None:
        files(folder)
        raise OSError(number, os.strerror(number))

    with pytest.raises(StorageFull, match="step-00000010"):
        save(tmp_path, State(step=10), full, keep=1)
    assert names(tmp_path) == ["step-00000005"]


def test_full_disk_is_known_by_what_safetensors_says_of_it(tmp_path: Path) -> None:
    def full(folder: Path) -> None:
        raise RuntimeError("I/O error: No space left on device (os error 28)")

    with pytest.raises(StorageFull):
        save(tmp_path, State(step=10), full, keep=1)


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    def wrong(folder: Path) -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        save(tmp_path, State(step=10), wrong, keep=1)
    assert names(tmp_path) == []


def test_what_a_killed_process_left_is_no_checkpoint_and_goes(tmp_path: Path) -> None:
    save(tmp_path, State(step=5), files, keep=1)
    part = tmp_path / "checkpoints" / ".stenopool-0123.part"
    part.mkdir()
    files(part)
    found = latest(tmp_path)
    assert found is not None
    assert found.name == "step-00000005"
    checkpoints.clean(tmp_path)
    assert names(tmp_path) == ["step-00000005"]


@pytest.mark.parametrize("text", ["{", "[]", '{"steps": 1}', None])
def test_damaged_state_is_named(tmp_path: Path, text: str | None) -> None:
    saved = save(tmp_path, State(step=5), files, keep=1)
    (saved / "state.json").unlink()
    if text is not None:
        (saved / "state.json").write_text(text)
    with pytest.raises(ModelDamaged, match=r"state\.json"):
        state_of(saved)


def trained(steps: int) -> tuple[torch.nn.Linear, torch.optim.AdamW]:
    torch.manual_seed(3)
    model = torch.nn.Linear(4, 3)
    groups: list[dict[str, Any]] = [
        {"params": [model.weight]},
        {"params": [model.bias], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=0.1)
    for step in range(steps):
        update(model, optimiser, step)
    return model, optimiser


def update(model: torch.nn.Linear, optimiser: torch.optim.AdamW, step: int) -> None:
    model(torch.full((2, 4), float(step + 1))).square().sum().backward()
    optimiser.step()
    optimiser.zero_grad()


def test_optimiser_goes_on_as_if_it_had_not_been_written(tmp_path: Path) -> None:
    model, optimiser = trained(3)
    checkpoints.write_optimiser(optimiser, tmp_path / "optimiser.safetensors")
    other, fresh = trained(0)
    other.load_state_dict(model.state_dict())
    checkpoints.read_optimiser(fresh, tmp_path / "optimiser.safetensors")
    for one, made in ((model, optimiser), (other, fresh)):
        update(one, made, 3)
    assert torch.equal(model.weight, other.weight)
    assert torch.equal(model.bias, other.bias)


@pytest.mark.parametrize("damage", [b"", b"\x00" * 40, b"\xff" * 8 + b"{}"])
def test_damaged_tensors_are_named(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "optimiser.safetensors"
    path.write_bytes(damage)
    _, optimiser = trained(0)
    with pytest.raises(ModelDamaged, match=r"optimiser\.safetensors"):
        checkpoints.read_optimiser(optimiser, path)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelDamaged, match=r"model\.safetensors"):
        checkpoints.read_model(torch.nn.Linear(4, 3), tmp_path / "model.safetensors")


def test_state_is_plain_json(tmp_path: Path) -> None:
    saved = save(tmp_path, State(step=5, scaler={"scale": 2.0}), files, keep=1)
    assert json.loads((saved / "state.json").read_text())["scaler"] == {"scale": 2.0}
