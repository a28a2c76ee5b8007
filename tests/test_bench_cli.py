"""`steno bench`, as a user has it."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from commands import InProcess, Steno
from stenopool.evaluation import peers

OPENING = "it was the best of times it was the worst of times"


@pytest.fixture
def manifest(speech_wav: Path, tmp_path: Path) -> Path:
    line = {"id": "one", "audio": str(speech_wav), "text": OPENING, "language": "en"}
    file = tmp_path / "manifest.jsonl"
    file.write_text(json.dumps(line) + "\n", encoding="utf-8")
    return file


def test_without_recordings_it_says_which_to_give(here: InProcess) -> None:
    done = here("bench")
    assert (done.status, done.stdout) == (2, b"")
    assert "no recording was given" in done.stderr
    assert "manifest" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--peers", "vosk"], "unknown peer: `vosk`"),
        (["--peers", "faster-whisper:beam=99"], "`beam` cannot be `99`"),
        (["--form", "medium"], "unknown form: `medium`"),
        (["--rounds", "0"], "--rounds"),
    ],
)
def test_wrong_request_is_refused(
    here: InProcess, manifest: Path, arguments: list[str], said: str
) -> None:
    done = here("bench", manifest, *arguments)
    assert (done.status, done.stdout) == (2, b"")
    assert said in done.stderr


def test_peer_that_is_not_installed_is_an_error(
    here: InProcess, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda module: None)
    done = here("bench", manifest, "--peers", "whisper.cpp")
    assert done.status == 5
    assert "pip install 'stenopool[bench]'" in done.stderr


def test_recordings_without_a_language_need_one(here: InProcess, speech_wav: Path) -> None:
    done = here("bench", speech_wav)
    assert done.status == 2
    assert "--language en" in done.stderr


def test_empty_manifest_is_refused(here: InProcess, tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").touch()
    done = here("bench", tmp_path / "none.jsonl")
    assert done.status == 2
    assert "there is no recording in" in done.stderr


def test_recording_that_is_no_media_is_refused(here: InProcess, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("text")
    done = here("bench", tmp_path / "a.wav", "--language", "en")
    assert done.status == 3
    assert "a.wav" in done.stderr


def test_bench_measures_ours_with_its_word_errors(steno: Steno, manifest: Path) -> None:
    arguments = ["--model", "tiny.en", "--rounds", "2", "--threads", "1", "--beam-size", "1"]
    done = steno("bench", manifest, *arguments, "--json")
    assert done.status == 0, done.stderr
    (report,) = done.lines
    (ours,) = report["systems"]
    assert [turn["round"] for turn in ours["turns"]] == [1, 2]
    assert ours["counts"]["words"] == 12
    assert ours["counts"]["deletions"] == 0  # the reference is the beginning of what is said
    assert ours["counts"]["insertions"] > 50
    assert ours["figures"]["detail"].endswith("beam 1")
    assert report["seconds"] == pytest.approx(44, abs=1)
    assert (report["threads"], report["language"]) == (1, "en")
    assert ours["ratio"] == 1
    assert "round 2 of 2: stenopool tiny.en" in done.stderr


def test_interrupted_bench_leaves_no_process(steno: Steno, manifest: Path) -> None:
    running = steno.start("bench", manifest, "--model", "tiny.en", "--rounds", "99")
    assert running.stdout
    assert running.stderr
    with running.stdout, running.stderr:
        while b"round 1" not in running.stderr.readline():
            assert running.poll() is None
        started = children(running.pid)
        assert started
        running.send_signal(signal.SIGINT)
        assert running.wait(20) == 130
        assert running.stdout.read() == b""
    assert not any(Path(f"/proc/{pid}").exists() for pid in started)


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_bench_prints_a_table(steno: Steno, speech_wav: Path) -> None:
    arguments = ["--model", "tiny.en", "--rounds", "1", "--language", "en", "-q"]
    done = steno("bench", speech_wav, *arguments)
    assert done.status == 0, done.stderr
    assert done.stderr == ""
    assert "x real time" in done.text
    row = next(line for line in done.text.splitlines() if line.startswith("stenopool tiny.en"))
    assert " - " in row  # without a reference there is no word error rate
