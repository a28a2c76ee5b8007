"""Compiled graphs on disk: found again, built again when they are damaged, never in the way."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset15 as ops

from stenopool.engines.ctc import cache
from stenopool.engines.ctc.cache import Compiled
from stenopool.settings import Settings

OPTIONS: dict[str, str | int] = {"INFERENCE_NUM_THREADS": 1}


class Builder:
    """Builds a graph that doubles its input, and counts how often."""

    def __init__(self) -> None:
        self.built = 0

    def __call__(self) -> ov.Model:
        self.built += 1
        given = ops.parameter([3], ov.Type.f32, name="given")
        return ov.Model([ops.multiply(given, ops.constant(np.float32(2.0)))], [given], "double")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "compiled"
    monkeypatch.setattr(cache, "settings", lambda: Settings(compiled_dir=place))
    return place


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    file = tmp_path / "model.bin"
    file.write_bytes(b"weights")
    return file


def doubled(weights: Path, build: Callable[[], ov.Model], precision: str = "int8") -> list[float]:
    model = Compiled(weights, OPTIONS, precision).graph("double", build)
    given = np.array([1.0, 2.0, 3.0], dtype=np.float32)
    return [float(value) for value in next(iter(model({0: given}).values()))]


def test_second_process_builds_nothing(folder: Path, weights: Path) -> None:
    build = Builder()
    assert doubled(weights, build) == doubled(weights, build) == [2.0, 4.0, 6.0]
    assert build.built == 1
    assert len(list(folder.iterdir())) == 1


def test_other_weights_or_precision_are_another_graph(folder: Path, weights: Path) -> None:
    build = Builder()
    doubled(weights, build)
    doubled(weights, build, precision="float32")
    weights.write_bytes(b"longer weights")
    doubled(weights, build)
    assert build.built == 3


@pytest.mark.parametrize("damage", [b"", b"junk", None])
def test_damaged_file_is_built_again(folder: Path, weights: Path, damage: bytes | None) -> None:
    build = Builder()
    doubled(weights, build)
    (file,) = folder.iterdir()
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] if damage is None else damage)
    assert doubled(weights, build) == [2.0, 4.0, 6.0]
    assert build.built == 2
    assert doubled(weights, build) == [2.0, 4.0, 6.0]
    assert build.built == 2


def test_folder_that_cannot_be_made_does_not_matter(folder: Path, weights: Path) -> None:
    folder.write_text("a file, where the folder should be")
    assert doubled(weights, Builder()) == [2.0, 4.0, 6.0]


def test_least_recently_used_files_go_first(
    folder: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "MOST_FILES", 2)
    build = Builder()
    for age, precision in enumerate(("a", "b")):
        doubled(weights, build, precision)
        for file in folder.iterdir():
            if file.stat().st_mtime > 1e9:
                os.utime(file, (age, age))
    doubled(weights, build, "a")  # used again: the newest now
    doubled(weights, build, "c")
    assert len(list(folder.iterdir())) == 2
    doubled(weights, build, "a")
    assert build.built == 3
