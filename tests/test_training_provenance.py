"""What is written down of the data of a training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stenopool.data import Recording
from stenopool.training.labels import LabelledWindow, Stretch
from stenopool.training.provenance import filter_report, licences


def test_hours_of_each_licence() -> None:
    windows = [
        LabelledWindow(id="a", stretches=(Stretch(Path("a"), 0.0, 30.0),), licence="MIT"),
        LabelledWindow(id="b", stretches=(Stretch(Path("a"), 30.0, 36.0),), licence="MIT"),
        LabelledWindow(id="c", stretches=(Stretch(Path("a"), 0.0, 18.0),)),
    ]
    assert licences(windows) == {"MIT": 0.01, "not told": 0.005}
    assert licences([Recording(id="a", audio=Path("a"), duration=36.0, licence="X")]) == {"X": 0.01}
    assert licences([Recording(id="a", audio=Path("a"), licence="X")]) == {"X": 0.0}


def test_report_of_the_filter_is_that_beside_the_manifest(tmp_path: Path) -> None:
    told = {"bounds": {"max_wer": 0.1}, "kept": 2, "windows": 3, "source": "/home/anna"}
    (tmp_path / "report.json").write_text(json.dumps(told))
    wanted = {name: told[name] for name in ("bounds", "kept", "windows")}
    assert filter_report(str(tmp_path)) == filter_report(str(tmp_path / "manifest.jsonl")) == wanted


@pytest.mark.parametrize("content", [None, "[]", "{", '{"results": []}'])
def test_without_such_a_report_nothing_is_told(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    assert filter_report(str(tmp_path / "manifest.jsonl")) == {}
    assert filter_report("hf:someone/something:train") == {}
