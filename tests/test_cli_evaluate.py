from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from commands import InProcess, Steno, samples, tree
from evaluations import Heard, write_manifest
from sounds import noise, write_wav
from stenopool.decoding.options import Options
from stenopool.evaluation.conditions import ALL
from stenopool.evaluation.systems import Answer

TEXT = "It was the best of times."
SECONDS = 3.2  # of speech: these words


@pytest.fixture
def manifest(speech_wav: Path, tmp_path: Path) -> Path:
    """Speech, noise in which nothing is said, and a recording without a reference."""
    write_wav(tmp_path / "speech.wav", samples(speech_wav, SECONDS), rate=48_000)
    write_wav(tmp_path / "noise.wav", noise(3.0, level=0.01))
    return write_manifest(
        tmp_path / "m.jsonl",
        [
            {"audio": "speech.wav", "text": TEXT, "language": "en", "speaker": "r"},
            {"audio": "noise.wav", "text": "", "language": "en"},
            {"audio": "nobody-knows.wav"},
        ],
    )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """Systems that hear well; gives the model and the arguments of each that was made."""
    made: list[tuple[str, dict[str, Any]]] = []

    def ours(model: str, **given: Any) -> Heard:
        made.append((model, given))
        hears = {"speech.wav": TEXT, "noise.wav": ""}
        return Heard(f"{model} {given['engine']}", lambda path: hears.get(path.name, "heard"))

    def peer(name: str, model: str, **given: Any) -> Heard:
        made.append((f"{name} of {model}", given))
        return Heard(name, lambda path: "heard")

    monkeypatch.setattr("stenopool.evaluation.systems.ours", ours)
    monkeypatch.setattr("stenopool.evaluation.systems.peer", peer)
    monkeypatch.setattr("stenopool.evaluation.peers.find_spec", lambda module: module)
    return made


def test_tables_go_to_stdout_and_talk_to_stderr(steno: Steno, manifest: Path) -> None:
    ran = steno("evaluate", manifest, "--model", "tiny.en", "--beam-size", "1", "--threads", "1")
    assert ran.status == 0, ran.stderr
    rows = [line.split() for line in ran.text.splitlines()]
    accuracy, speed = [row for row in rows if row[:3] == ["clean", "stenopool", "tiny.en"]]
    assert accuracy[3] == "0.00"
    assert float(speed[3]) > 0.1
    assert "1 recording without a reference is left out" in ran.stderr
    assert "2 recordings, 6 words" in ran.text


def test_report_is_written_and_has_the_exact_command(
    steno: Steno, manifest: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "new" / "report"
    arguments = ("evaluate", manifest, "--model", "tiny.en", "--beam-size", "1")
    ran = steno(
        *arguments, "--threads", "1", "--condition", "noise-20", "--report", folder, "--json"
    )
    assert ran.status == 0, ran.stderr
    assert tree(folder) == ["report.html", "report.json"]
    (printed,) = ran.lines
    written = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert printed == written
    assert written["command"].startswith(f"steno evaluate {manifest} --model tiny.en")
    assert written["systems"][0]["threads"] == 1
    assert written["systems"][0]["peak_memory"] > 50 << 20
    assert written["results"][0]["condition"] == "noise-20"
    assert str(folder / "report.html") in ran.stderr


def test_every_option_reaches_the_systems(
    here: InProcess, manifest: Path, asked: list[tuple[str, dict[str, Any]]]
) -> None:
    ran = here(
        *("evaluate", manifest, "--model", "base", "--model", "tiny.en", "--engine", "a"),
        *("--engine", "b", "--device", "cpu", "--threads", "3", "--language", "English"),
        *("--hotwords", "Stenopool", "--seed", "5", "--json"),
    )
    assert ran.status == 0, ran.stderr
    pairs = [(model, given["engine"]) for model, given in asked]
    assert pairs == [("base", "a"), ("base", "b"), ("tiny.en", "a"), ("tiny.en", "b")]
    for _, given in asked:
        assert given["options"] == Options(language="en", hotwords="Stenopool")
        assert (given["device"], given["threads"]) == ("cpu", 3)
    (report,) = ran.lines
    assert [one["name"] for one in report["systems"]] == [
        "base a",
        "base b",
        "tiny.en a",
        "tiny.en b",
    ]
    assert report["settings"]["seed"] == 5
    assert report["results"][0]["difference"] is None


def test_peers_stand_beside_ours_with_the_same_weights_and_language(
    here: InProcess, manifest: Path, asked: list[tuple[str, dict[str, Any]]]
) -> None:
    ran = here(
        *("evaluate", manifest, "--model", "base", "--model", "tiny.en", "--threads", "1"),
        *("--peers", "faster-whisper", "--peers", "faster-whisper:beam=1", "--json"),
    )
    assert ran.status == 0, ran.stderr
    ours, others = asked[:2], asked[2:]
    assert [given["options"].language for _, given in ours] == ["en", "en"]
    assert [name for name, _ in others] == [
        "faster-whisper of base",
        "faster-whisper:beam=1 of base",
    ]
    assert all((given["language"], given["threads"]) == ("en", 1) for _, given in others)
    (report,) = ran.lines
    assert [one["name"] for one in report["systems"]][2:] == [
        "faster-whisper",
        "faster-whisper:beam=1",
    ]


def test_peers_need_one_language(
    here: InProcess, manifest: Path, asked: list[tuple[str, dict[str, Any]]]
) -> None:
    write_manifest(manifest, [{"audio": "speech.wav", "text": TEXT}])
    ran = here("evaluate", manifest, "--peers", "faster-whisper")
    assert ran.status == 2
    assert "--language en" in ran.stderr
    assert asked == []


def test_all_conditions_can_be_asked_for_at_once(
    here: InProcess, tmp_path: Path, asked: list[tuple[str, dict[str, Any]]]
) -> None:
    lines: list[dict[str, object]] = []
    for number in range(2):
        write_wav(tmp_path / f"{number}.wav", noise(0.3, seed=number))
        lines.append({"audio": f"{number}.wav", "text": "heard", "language": "en"})
    manifest = write_manifest(tmp_path / "m.jsonl", lines)
    ran = here("evaluate", manifest, "--condition", "clean", "--condition", "all", "--json")
    assert ran.status == 0, ran.stderr
    assert [one["condition"] for one in ran.lines[0]["results"]] == list(ALL)


def test_long_form_joins_chapters_and_keeps_borders(
    here: InProcess, manifest: Path, tmp_path: Path, asked: list[tuple[str, dict[str, Any]]]
) -> None:
    line = {"audio": "speech.wav", "speaker": "s", "chapter": "1", "language": "en"}
    write_manifest(manifest, [{**line, "id": f"{n}", "text": "heard it"} for n in range(3)])
    ran = here("evaluate", manifest, "--form", "long", "--json")
    assert ran.status == 0, ran.stderr
    (report,) = ran.lines
    (one,) = report["results"][0]["recordings"]
    assert one["id"] == "s-1"
    assert one["seconds"] == pytest.approx(3 * SECONDS, abs=0.01)
    assert (report["data"]["unit"], report["data"]["units"]) == ("utterance", 3)


def test_limit_takes_the_first_and_reads_no_further(
    here: InProcess, manifest: Path, asked: list[tuple[str, dict[str, Any]]]
) -> None:
    with manifest.open("a") as file:
        file.write("broken\n")
    assert here("evaluate", manifest, "--limit", "1").status == 0
    ran = here("evaluate", manifest)
    assert ran.status == 2
    assert "line 4" in ran.stderr


def test_recordings_without_a_language_are_told_of(
    here: InProcess, manifest: Path, asked: list[tuple[str, dict[str, Any]]]
) -> None:
    write_manifest(manifest, [{"audio": "speech.wav", "text": TEXT}])
    assert "1 recording names no language" in here("evaluate", manifest).stderr
    assert "no language" not in here("evaluate", manifest, "--language", "en").stderr
    assert here("evaluate", manifest, "--quiet").stderr == ""


def test_failed_recording_is_in_the_table_and_the_exit_status(
    steno: Steno, manifest: Path, tmp_path: Path
) -> None:
    (tmp_path / "noise.wav").write_bytes(b"not a sound at all, though it has bytes")
    ran = steno("evaluate", manifest, "--model", "tiny.en", "--beam-size", "1", "--threads", "1")
    assert ran.status == 3
    assert "1: 1 not_media" in ran.text


def test_wrong_requests_are_refused_before_any_work(
    here: InProcess, manifest: Path, tmp_path: Path, asked: list[tuple[str, dict[str, Any]]]
) -> None:
    (tmp_path / "file").touch()
    for arguments, status, complaint in (
        (["--form", "huge"], 2, "unknown form: `huge`"),
        (["--condition", "loud"], 2, "unknown condition: `loud`"),
        (["--report", str(tmp_path / "file")], 6, "file"),
        (["--beam-size", "99"], 2, "beam_size"),
        (["--peers", "vosk"], 2, "unknown peer: `vosk`"),
    ):
        ran = here("evaluate", manifest, *arguments)
        assert (ran.status, ran.stdout) == (status, b""), arguments
        assert complaint in ran.stderr
    assert asked == []
    assert here("evaluate", tmp_path / "none.jsonl").status == 3


def test_missing_extra_is_a_clear_error(
    here: InProcess, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stenopool.evaluation.extras.find_spec", lambda name: None)
    ran = here("evaluate", manifest)
    assert ran.status == 2
    assert "hint: Run `pip install 'stenopool[evaluate]'`" in ran.stderr


def test_unknown_model_ends_before_the_first_recording(steno: Steno, manifest: Path) -> None:
    ran = steno("evaluate", manifest, "--model", "tiny.en", "--model", "no-such-model")
    assert ran.status in (2, 4)
    assert "no-such-model" in ran.stderr
    assert ran.stdout == b""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_leaves_nothing_behind(
    steno: Steno, speech_wav: Path, tmp_path: Path, how: signal.Signals
) -> None:
    lines = [
        {"id": f"{n}", "audio": str(speech_wav), "text": "x", "language": "en"} for n in range(9)
    ]
    manifest = write_manifest(tmp_path / "m.jsonl", [dict(line) for line in lines])
    temporary, report = tmp_path / "temporary", tmp_path / "report"
    temporary.mkdir()
    there = Steno({**steno.settings, "TMPDIR": str(temporary)})
    process = there.start(
        *("evaluate", manifest, "--model", "tiny.en", "--threads", "1", "--report", report),
        *("--condition", "noise-10"),
    )
    begun = time.monotonic()
    while len(list(temporary.rglob("heard-*"))) < 9 and time.monotonic() - begun < 60:
        time.sleep(0.05)
    time.sleep(1.0)  # now the model is at work, for half a minute
    process.send_signal(how)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == b""
    assert tree(report) == []
    assert list(temporary.glob("stenopool-*")) == []


def test_answers_of_a_crash_have_the_exit_status_of_their_error(
    here: InProcess, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = {"code": "engine_failed", "message": "m", "hint": "h", "transient": True}

    class Crashed(Heard):
        def transcribe(self, paths, *, together=False):  # type: ignore[no-untyped-def]
            yield from (Answer("", 0.0, record) for _ in paths)

    monkeypatch.setattr(
        "stenopool.evaluation.systems.ours",
        lambda model, **given: Crashed(model, lambda path: ""),
    )
    ran = here("evaluate", manifest)
    assert ran.status == 5
    assert "2: 2 engine_failed" in ran.text
