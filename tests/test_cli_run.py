from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from commands import OPENING, InProcess, Steno, on_a_terminal, samples, screen, tree
from pipelines import ScriptedSteno, Stage, age, end, imagined, lay, wait_for
from sounds import tone, write_media, write_wav
from stenopool import Transcript
from stenopool.cli import run as run_module
from stenopool.cli.run import FORMATS, limits
from stenopool.pipeline import liveness, supervisor
from stenopool.settings import settings

RATE = 48_000
SHORT_SECONDS = 3.2


@pytest.fixture
def no_models(tmp_path: Path) -> Steno:
    """A machine on which nothing can be loaded."""
    folder = tmp_path / "no models"
    folder.mkdir()
    return Steno({"STENO_MODELS_DIR": str(folder)})


@pytest.fixture
def real(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Iterator[InProcess]:
    """The command in this process, with workers that are real."""
    monkeypatch.setenv("STENO_MODELS_DIR", str(models_dir))
    monkeypatch.setenv("STENO_OFFLINE", "1")
    settings.cache_clear()
    yield InProcess(monkeypatch, capfdbinary)
    settings.cache_clear()


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    (tmp_path / "bucket" / "input").mkdir(parents=True)
    return tmp_path / "bucket"


def once(bucket: Path, *more: str) -> list[str]:
    return ["run", "--bucket", str(bucket), "--once", "--model", "tiny.en", *more]


def outputs(name: str) -> list[str]:
    return [f"{name}.{format}" for format in sorted(FORMATS)]


def lay_speech(folder: Path, speech_wav: Path) -> None:
    """Speech as it comes, and a broken file."""
    speech = samples(speech_wav, 8.0)
    deep = folder / "audio books" / "part 1"
    deep.mkdir(parents=True)
    write_wav(folder / "a.wav", speech, rate=RATE)
    write_media(folder / "b.mp3", speech, codec="mp3")
    write_media(deep / "c d.mp4", speech, codec="aac", video_seconds=8.0)
    whole = (deep / "c d.mp4").read_bytes()
    (folder / "broken.mp4").write_bytes(whole[: len(whole) // 3])
    for name in tree(folder):
        age(folder / name)


GOOD = ["a.wav", "audio books/part 1/c d.mp4", "b.mp3"]


# --- the whole flow, with a real model ---------------------------------------------------------


def test_real_recordings_become_transcripts_and_the_broken_one_is_set_aside(
    steno: Steno, no_models: Steno, bucket: Path, speech_wav: Path
) -> None:
    lay_speech(bucket / "input", speech_wav)
    ran = steno(*once(bucket, "--json"))
    assert ran.status == 3
    assert tree(bucket / "input") == []
    assert tree(bucket / "output") == sorted(name for one in GOOD for name in outputs(one))
    assert tree(bucket / "processed") == sorted(GOOD)
    assert tree(bucket / "failed") == ["broken.mp4", "broken.mp4.error.json"]
    assert tree(bucket / "work") == []
    _texts_are_right(bucket)
    _lines_are_right(ran.lines)
    assert ran.stderr.endswith("3 transcribed, 1 failed, 0 left\n")
    assert "broken.mp4: moved to failed/: error[not_media]" in ran.stderr
    assert "\x1b" not in ran.stderr
    _second_run_does_nothing(no_models, bucket)


def _texts_are_right(bucket: Path) -> None:
    for name in GOOD:
        text = (bucket / "output" / f"{name}.txt").read_text(encoding="utf-8")
        assert text.startswith(OPENING)
        transcript = json.loads((bucket / "output" / f"{name}.json").read_bytes())
        assert Transcript.from_dict(transcript).duration == pytest.approx(8.0, abs=0.1)
    record = json.loads((bucket / "failed" / "broken.mp4.error.json").read_bytes())
    assert record["code"] == "not_media"
    assert record["key"] == "input/broken.mp4"
    assert record["hint"]


def _lines_are_right(lines: list[dict[str, Any]]) -> None:
    results, summary = lines[:-1], lines[-1]["summary"]
    assert summary == {"transcribed": 3, "failed": 1, "left": 0, "exit_status": 3}
    by_key = {result["key"]: result for result in results}
    assert by_key.keys() == {f"input/{name}" for name in [*GOOD, "broken.mp4"]}
    video = by_key["input/audio books/part 1/c d.mp4"]
    assert (video["state"], video["error"], video["attempts"]) == ("done", None, 1)
    assert sorted(video["outputs"]) == [f"output/{name}" for name in outputs(GOOD[1])]
    assert video["model"] == "tiny.en"
    assert video["total_seconds"] == pytest.approx(8.0, abs=0.1)
    assert 0 < video["real_time_factor"] < 100
    broken = by_key["input/broken.mp4"]
    assert (broken["state"], broken["error"]["code"]) == ("failed", "not_media")
    assert broken["outputs"] == []


def _second_run_does_nothing(no_models: Steno, bucket: Path) -> None:
    before = modified(bucket)
    ran = no_models(*once(bucket, "--json"))
    assert ran.status == 0
    assert ran.lines == [
        {"summary": dict.fromkeys(("transcribed", "failed", "left"), 0) | {"exit_status": 0}}
    ]
    assert modified(bucket) == before


def modified(bucket: Path) -> dict[str, int]:
    """When each file was written last."""
    return {name: (bucket / name).stat().st_mtime_ns for name in tree(bucket)}


def test_machine_without_models_cannot_do_more_than_nothing(
    real: InProcess, bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STENO_MODELS_DIR", str(tmp_path))
    lay(bucket, "a.wav")
    ran = real(*once(bucket))
    assert ran.status == 4
    assert ran.stderr.count("error[model_not_pulled]") == 1
    assert tree(bucket) == ["input/a.wav"]


def test_json_and_progress_share_a_terminal_without_mixing(
    scripted: ScriptedSteno, bucket: Path
) -> None:
    lay(bucket, "slow.wav", seconds=25.0)
    ran = on_a_terminal(scripted, *once(bucket, "--json"), stdout_too=True, COLUMNS="10000")
    assert "of 0:25" in ran.stderr
    told, result, end, summary = screen(ran.stderr)
    assert told.startswith("input/slow.wav: 0:25 of audio")
    assert json.loads(result)["key"] == "input/slow.wav"
    assert end == "1 transcribed, 0 failed, 0 left"
    assert json.loads(summary)["summary"]["transcribed"] == 1


# --- what is told ------------------------------------------------------------------------------


def test_each_recording_is_told_with_its_speed(within: InProcess, bucket: Path) -> None:
    lay(bucket, "fine.wav", seconds=63.0)
    ran = within(*once(bucket))
    assert ran.status == 0
    assert ran.text == ""
    line, summary = ran.stderr.splitlines()
    assert re.fullmatch(
        r"input/fine\.wav: 1:03 of audio in \d+\.\d s, real-time factor \d+\.\d{3}", line
    )
    assert summary == "1 transcribed, 0 failed, 0 left"


def test_quiet_tells_only_errors(within: InProcess, bucket: Path) -> None:
    lay(bucket, "fine.wav", "silent.wav")
    ran = within(*once(bucket, "--quiet"))
    assert ran.status == 3
    error, hint = ran.stderr.splitlines()
    assert error.startswith("input/silent.wav: moved to failed/: error[no_samples]")
    assert hint.startswith("hint: ")


def test_what_cannot_be_done_stays_and_is_told_and_the_rest_is_done(
    within: InProcess, bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link, a folder that cannot be written, a sidecar that says nonsense."""
    monkeypatch.setattr(run_module, "ONCE_PATIENCE", 0.1)
    lay(bucket, "fine.wav", "deep/fine.wav", "wrong.wav")
    (bucket / "input" / "link.wav").symlink_to("fine.wav")
    (bucket / "output").mkdir()
    (bucket / "output" / "deep").write_text("no folder")
    (bucket / "input" / "wrong.wav.steno.json").write_text('{"volume": 11}')
    ran = within(*once(bucket, "--json"))
    assert ran.status == 6
    assert ran.lines[-1]["summary"] == {
        "transcribed": 1,
        "failed": 1,
        "left": 2,
        "exit_status": 6,
    }
    assert {line["key"]: line["state"] for line in ran.lines[:-1]} == {
        "input/fine.wav": "done",
        "input/deep/fine.wav": "left",
        "input/wrong.wav": "failed",
    }
    assert "input/deep/fine.wav: stays in input/: error[output_unwritable]" in ran.stderr
    assert "`input/link.wav` is a symbolic link" in ran.stderr
    assert "`volume`" in ran.stderr
    assert tree(bucket / "failed") == [
        "wrong.wav",
        "wrong.wav.error.json",
        "wrong.wav.steno.json",
    ]
    assert tree(bucket / "work") == []


def test_bucket_may_be_a_url_the_database_elsewhere_and_formats_chosen(
    within: InProcess, bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STENO_PRICE_PER_HOUR", "3600")
    lay(bucket, "fine.wav")
    database = f"sqlite:///{tmp_path / 'elsewhere' / 'jobs.sqlite'}"
    common = ["run", "--once", "--model", "tiny.en", "--bucket", bucket.as_uri()]
    ran = within(*common, "--database", database, "--format", "tsv", "--json")
    assert ran.status == 0
    assert tree(bucket / "output") == ["fine.wav.json", "fine.wav.tsv"]
    assert ran.lines[0]["outputs"] == ["output/fine.wav.tsv", "output/fine.wav.json"]
    assert ran.lines[0]["cost"] == pytest.approx(ran.lines[0]["compute_seconds"])
    assert (tmp_path / "elsewhere" / "jobs.sqlite").is_file()
    assert not (bucket / ".stenopool").exists()


def test_events_are_json_lines(scripted: ScriptedSteno, bucket: Path) -> None:
    lay(bucket, "fine.wav", "broken.wav")
    (bucket / "input" / "broken.wav").write_bytes(b"")
    ran = scripted(*once(bucket, "--log-json"))
    assert ran.status == 3
    events = [json.loads(line) for line in ran.stderr.splitlines() if line.startswith("{")]
    assert [event["event"] for event in events].count("job_ended") == 2
    assert {event["code"] for event in events if event["event"] == "job_ended"} == {
        None,
        "input_empty",
    }
    assert {"time", "level", "event"} <= set.intersection(*(set(event) for event in events))


# --- where the work is done --------------------------------------------------------------------


def test_workers_of_the_database_do_what_a_watcher_without_workers_found(
    within: InProcess, bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(bucket, "fine.wav", "silent.wav")
    monkeypatch.setenv("STENO_DATABASE", f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    assert within(*once(bucket, "--workers", "0")).status == 0
    assert tree(bucket / "input") == ["fine.wav", "silent.wav"]
    other = within("worker", "--once", "--model", "base")
    assert (other.status, other.stderr) == (0, "0 transcribed, 0 failed, 0 left\n")
    ran = within("worker", "--once", "--model", "tiny.en")
    assert ran.status == 3
    assert ran.stderr.endswith("1 transcribed, 1 failed, 0 left\n")
    assert tree(bucket / "output") == outputs("fine.wav")


def test_worker_without_a_database_is_refused(within: InProcess) -> None:
    ran = within("worker", "--once")
    assert ran.status == 2
    assert ran.stderr.startswith("error[usage]: which database?")


def test_limits_are_those_of_the_settings(
    within: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = limits(2, 3, device="cpu")
    assert (usual.most, usual.threads, usual.device) == (2, 3, "cpu")
    assert usual.memory_bytes == pytest.approx(0.4 * psutil.virtual_memory().total, rel=0.01)
    for name, value in (("WORKER_MEMORY_GB", 1.5), ("IDLE_SECONDS", 7), ("STALL_SECONDS", 8)):
        monkeypatch.setenv(f"STENO_{name}", str(value))
    settings.cache_clear()
    found = limits(0, 0)
    assert found.memory_bytes == 1.5 * 2**30
    assert (found.idle_seconds, found.stall_seconds) == (7.0, 8.0)


def test_history_is_as_long_as_the_settings_say(
    within: InProcess, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, days in (("old", 3), ("older", 5)):
        job_id, job = imagined(name)
        stage.jobs.submit([(job_id, job)])
        end(stage.jobs, job_id, at=time.time() - days * 86_400)
    monkeypatch.setenv("STENO_HISTORY_DAYS", "4")
    settings.cache_clear()
    within(*once(stage.folder, "--database", stage.url))
    assert [job.job.key for job in stage.jobs.listed()] == ["input/old"]


# --- refused before any file is touched --------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--model", "tiny.enn"], "unknown_name"),
        (["--format", "doc"], "unknown_name"),
        (["--language", "klingon"], "unknown_name"),
        (["--language", "fr"], "unsupported_option"),
        (["--batch-size", "4", "--algorithm", "sequential"], "unsupported_option"),
        (["--database", "mysql://host/name"], "usage"),
    ],
)
def test_wrong_request_fails_once_before_any_file_is_touched(
    within: InProcess, bucket: Path, arguments: list[str], code: str
) -> None:
    lay(bucket, "a.wav", "b.wav")
    ran = within(*once(bucket), *arguments)
    assert ran.status == 2
    assert ran.stderr.count("error[") == 1
    assert ran.stderr.startswith(f"error[{code}]: ")
    assert "\nhint: " in ran.stderr
    assert tree(bucket) == ["input/a.wav", "input/b.wav"]


def test_engine_that_is_none_fails_once_and_leaves_all_in_place(
    real: InProcess, bucket: Path
) -> None:
    lay(bucket, "a.wav", "b.wav")
    ran = real(*once(bucket), "--engine", "steam")
    assert ran.status == 2
    assert ran.stderr.count("error[unknown_name]") == 1
    assert tree(bucket) == ["input/a.wav", "input/b.wav"]


@pytest.mark.parametrize("place", ["gone", "ftp://bucket"])
def test_what_is_no_bucket_is_refused(within: InProcess, place: str) -> None:
    ran = within("run", "--once", "--bucket", place)
    assert ran.status == 2
    assert ran.stderr.startswith("error[usage]")
    assert place in ran.stderr


def test_model_named_like_a_folder_here_is_the_model(
    within: InProcess, bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny.en").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run_module.model_name("tiny.en") == "tiny.en"
    assert run_module.model_name("bucket") == str(bucket)


# --- watching, killed and interrupted ----------------------------------------------------------


def test_without_once_it_watches_until_it_is_told_to_end(
    scripted: ScriptedSteno, bucket: Path
) -> None:
    process = scripted.start("run", "--bucket", bucket, "--model", "tiny.en", "--json")
    assert process.stdout is not None
    try:
        write_wav(bucket / "input" / "fine.wav", tone(1.0))  # as new as can be
        line = json.loads(process.stdout.readline())
        assert (line["key"], line["state"]) == ("input/fine.wav", "done")
        process.terminate()
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out) == (0, b"")
    assert b"Traceback" not in err


def test_run_that_is_killed_loses_nothing_and_the_next_completes_it(
    scripted: ScriptedSteno,
    within: InProcess,
    bucket: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor, "SWEEP_SECONDS", 0.2)
    monkeypatch.setattr(liveness, "PARENT_SECONDS", 0.2)
    lay(bucket, "fine.wav")
    lay(bucket, "wait-3 long.wav", seconds=12.0)
    original = (bucket / "input" / "wait-3 long.wav").read_bytes()
    _stopped_in_the_middle(scripted, bucket, signal.SIGKILL, status=-signal.SIGKILL)
    assert (bucket / "input" / "wait-3 long.wav").read_bytes() == original
    assert tree(bucket / "output") == outputs("fine.wav")
    (tmp_path / "open").touch()
    ran = within(*once(bucket, "--json"))
    assert ran.status == 0
    assert [line["key"] for line in ran.lines[:-1]] == ["input/wait-3 long.wav"]
    assert tree(bucket / "input") == tree(bucket / "work") == tree(bucket / "failed") == []
    assert tree(bucket / "output") == [*outputs("fine.wav"), *outputs("wait-3 long.wav")]
    assert (bucket / "processed" / "wait-3 long.wav").read_bytes() == original
    text = (bucket / "output" / "wait-3 long.wav.txt").read_text(encoding="utf-8")
    assert text.split() == [f"s{second}" for second in range(12)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_gives_130_and_leaves_the_recording_in_place(
    scripted: ScriptedSteno, within: InProcess, bucket: Path, number: int
) -> None:
    lay(bucket, "fine.wav")
    lay(bucket, "slow-3 long.wav", seconds=120.0)
    original = (bucket / "input" / "slow-3 long.wav").read_bytes()
    said = _stopped_in_the_middle(scripted, bucket, number, status=130)
    assert (bucket / "input" / "slow-3 long.wav").read_bytes() == original
    assert tree(bucket / "output") == outputs("fine.wav")
    assert tree(bucket / "processed") == ["fine.wav"]
    assert "Traceback" not in said
    ran = within("jobs", "list", "--bucket", bucket, "--json")
    assert {line["key"]: line["state"] for line in ran.lines} == {
        "input/slow-3 long.wav": "waiting",
        "input/fine.wav": "done",
    }


def _stopped_in_the_middle(
    scripted: ScriptedSteno, bucket: Path, number: int, *, status: int
) -> str:
    """Send a signal while the long recording is worked on; returns stderr."""
    process = scripted.start(*once(bucket, "--json"))
    assert process.stdout is not None
    first = json.loads(process.stdout.readline())
    assert first["key"] == "input/fine.wav"
    wait_for(lambda: "begun" in (scripted.folder / "log").read_text(encoding="utf-8"))
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert b"long.wav" not in out  # it was not finished
    return err.decode()
