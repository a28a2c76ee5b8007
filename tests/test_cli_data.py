"""`steno data`, as a user has it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from commands import InProcess
from sounds import tone, write_wav
from trainings import manifest


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> InProcess:
    """The command in this process, without any model."""
    return InProcess(monkeypatch, capfdbinary)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    lines: list[dict[str, object]] = []
    for number in range(6):
        write_wav(tmp_path / f"{number}.wav", tone(0.5, hz=300.0 + 50 * number))
        lines.append(
            {
                "id": f"r{number}",
                "audio": f"{number}.wav",
                "text": f"Word {'abcdef'[number]}!",
                "speaker": f"s{number % 3}",
            }
        )
    return manifest(tmp_path, [*lines, {"id": "gone", "audio": "gone.wav", "text": "gone"}])


def test_prepare_shows_a_summary_and_says_where_the_reasons_are(
    here: InProcess, source: Path, tmp_path: Path
) -> None:
    done = here("data", "prepare", source, "--output", tmp_path / "out", "--split", "60/20/20")
    assert done.status == 0
    lines = done.text.splitlines()
    assert lines[0] == "all: 6 recordings, 0.00 h, 12 words, 3 speakers"
    assert [line.split(":")[0] for line in lines[1:4]] == ["train", "valid", "test"]
    assert "left out: 1 input_not_found" in lines
    assert str(tmp_path / "out" / "skipped.jsonl") in done.stderr
    for name in ("manifest", "train", "valid", "test"):
        assert (tmp_path / "out" / f"{name}.jsonl").is_file()


def test_prepare_gives_its_summary_as_json(here: InProcess, source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    done = here("data", "prepare", source, "--output", output, "--normalise", "none", "--json")
    (told,) = done.lines
    assert told == json.loads((output / "summary.json").read_text())
    assert (told["normalise"], told["skipped"]) == ("none", {"input_not_found": 1})
    assert "!" in told["characters"]


def test_prepare_stops_at_the_first_bad_one_if_asked(
    here: InProcess, source: Path, tmp_path: Path
) -> None:
    done = here("data", "prepare", source, "--output", tmp_path / "out", "--on-bad", "stop")
    assert (done.status, done.stdout) == (3, b"")
    assert "gone.wav" in done.stderr


def test_several_sources_become_one_manifest(here: InProcess, tmp_path: Path) -> None:
    sources = []
    for number in range(2):
        write_wav(tmp_path / f"{number}.wav", tone(0.5, hz=300.0 + 50 * number))
        lines: list[dict[str, object]] = [{"audio": f"{number}.wav", "text": "word"}]
        sources.append(manifest(tmp_path, lines, name=f"m{number}"))
    done = here("data", "prepare", *sources, "--output", tmp_path / "out", "--quiet")
    assert done.status == 0
    assert "without a speaker: 2" in done.text
    assert len((tmp_path / "out" / "manifest.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--normalise", "upper"], "unknown normalisation: `upper`"),
        (["--split", "80-20"], "`80-20` are no shares"),
        (["--on-bad", "cry"], "`on_bad` cannot be `cry`"),
        (["--min-seconds", "50"], "no recording is longer than 50 s"),
    ],
)
def test_wrong_request_is_refused(
    here: InProcess, source: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    done = here("data", "prepare", source, "--output", tmp_path / "out", *arguments)
    assert (done.status, done.stdout) == (2, b"")
    assert said in done.stderr
    assert not (tmp_path / "out").exists()
