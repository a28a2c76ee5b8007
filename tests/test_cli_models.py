from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from commands import InProcess
from stenopool.cli import console, models
from stenopool.models import CATALOGUE, Store


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, models_dir: Path, tmp_path: Path) -> Path:
    """Models that a test may damage, on a machine without a network."""
    copy = tmp_path / "models"
    shutil.copytree(models_dir / "silero-vad", copy / "silero-vad")
    (copy / "tiny.en").symlink_to(models_dir / "tiny.en")
    monkeypatch.setattr(models, "store", lambda: Store(copy, offline=True))
    return copy


@pytest.fixture
def here(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes], folder: Path
) -> InProcess:
    return InProcess(monkeypatch, capfdbinary)


def test_list_names_every_model_and_whether_it_is_here(here: InProcess) -> None:
    run = here("models", "list")
    assert run.status == 0
    assert run.stderr == ""
    head, *rows = run.text.splitlines()
    assert head.split() == ["NAME", "HERE", "DEFAULT", "MILLIONS", "ALGORITHM", "DESCRIPTION"]
    pulled = {row.split()[0]: row.split()[1] for row in rows}
    assert list(pulled) == list(CATALOGUE)
    assert {name for name, here in pulled.items() if here == "yes"} == {"tiny.en", "silero-vad"}


def test_columns_of_the_list_are_aligned(here: InProcess) -> None:
    head, *rows = here("models", "list").text.splitlines()
    at = head.index("DESCRIPTION")
    assert rows
    for row, entry in zip(rows, CATALOGUE.values(), strict=True):
        assert row[at:] == entry.description
        assert row == row.rstrip()


def test_list_as_json_lines(here: InProcess) -> None:
    lines = here("models", "list", "--json").lines
    assert [line["name"] for line in lines] == list(CATALOGUE)
    assert lines
    by_name = {line["name"]: line for line in lines}
    assert by_name["tiny.en"]["pulled"] is True
    assert by_name["base"]["pulled"] is False
    assert by_name["base"]["multilingual"] is True
    assert by_name["distil-large-v2"]["chunk_seconds"] == 15.0
    assert all(line["sources"] for line in lines)


def test_show_of_a_pulled_model_is_verified(here: InProcess, folder: Path) -> None:
    (data,) = here("models", "show", "silero-vad", "--json").lines
    assert data["pulled"] is True
    assert data["folder"] == str(folder / "silero-vad")
    assert data["sha256"] == Store(folder).verify("silero-vad").sha256


def test_show_for_people_has_the_same_facts(here: InProcess) -> None:
    (data,) = here("models", "show", "tiny.en", "--json").lines
    shown = dict(
        line.split(": ", 1) for line in here("models", "show", "tiny.en").text.splitlines()
    )
    assert shown.keys() == data.keys()
    assert shown["sha256"] == data["sha256"]
    assert shown["sources"] == ", ".join(data["sources"])


def test_show_of_a_model_that_is_not_here(here: InProcess) -> None:
    (data,) = here("models", "show", "turbo", "--json").lines
    assert data["name"] == "large-v3-turbo"
    assert data["pulled"] is False
    assert "sha256" not in data


@pytest.mark.parametrize("command", ["show", "pull"])
def test_damaged_model_is_refused_with_the_cure(
    here: InProcess, folder: Path, command: str
) -> None:
    with (folder / "silero-vad" / "silero_vad.onnx").open("ab") as file:
        file.write(b"\0")
    run = here("models", command, "silero-vad")
    assert run.status == 4
    assert run.text == ""
    assert run.stderr.startswith("error[model_damaged]: `silero_vad.onnx`")
    assert "hint: Pull it again with `steno models pull silero-vad --force`" in run.stderr


@pytest.mark.parametrize("command", ["show", "pull"])
def test_unknown_model_is_refused_with_the_nearest_name(here: InProcess, command: str) -> None:
    run = here("models", command, "tiny.enn")
    assert run.status == 2
    assert run.stderr.startswith("error[unknown_name]: no such model: `tiny.enn`")
    assert "`tiny.en`" in run.stderr.splitlines()[1]


def test_pull_of_what_is_here_only_verifies(here: InProcess, folder: Path) -> None:
    run = here("models", "pull", "silero-vad")
    assert run.status == 0
    assert run.text == ""
    assert run.stderr.startswith("silero-vad: verified, SHA-256 ")
    assert str(folder / "silero-vad") in run.stderr


@pytest.mark.parametrize("arguments", [["base"], ["silero-vad", "--force"]])
def test_pull_offline_is_refused(here: InProcess, folder: Path, arguments: list[str]) -> None:
    run = here("models", "pull", *arguments)
    assert run.status == 4
    assert run.stderr.startswith("error[model_not_pulled]")
    assert "STENO_OFFLINE" in run.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["silero-vad", "tiny.en"]


def test_progress_of_a_pull_is_a_line_at_each_end(capsys: pytest.CaptureFixture[str]) -> None:
    for done in (0, 1_000_000, 2_500_000):
        console.report_pull("model.bin", done, 2_500_000)
    assert capsys.readouterr().err == "fetching model.bin\nfetched model.bin: 2.5 MB\n"
