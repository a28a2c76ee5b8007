from __future__ import annotations

import json
import re
import signal
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from commands import OPENING, InProcess, Steno, on_a_terminal, samples, screen, tree
from sounds import write_media, write_wav
from stenopool import Transcript
from stenopool.cli.run import FORMATS
from stenopool.pipeline import Summary

RATE = 48_000
SLOW_SECONDS = 130.0  # of speech: some seconds of work
SHORT_SECONDS = 3.2


@pytest.fixture
def no_models(tmp_path: Path) -> Steno:
    """A machine on which nothing can be loaded."""
    folder = tmp_path / "no models"
    folder.mkdir()
    return Steno({"STENO_MODELS_DIR": str(folder)})


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    (tmp_path / "bucket" / "input").mkdir(parents=True)
    return tmp_path / "bucket"


def once(bucket: Path, *more: str) -> list[str]:
    return ["run", "--bucket", str(bucket), "--once", "--model", "tiny.en", *more]


def outputs(name: str) -> list[str]:
    return [f"{name}.{format}" for format in sorted(FORMATS)]


def short(speech_wav: Path, path: Path) -> Path:
    return write_wav(path, samples(speech_wav, SHORT_SECONDS), rate=RATE)


def slow(speech_wav: Path, path: Path) -> Path:
    speech = samples(speech_wav)
    copies = round(SLOW_SECONDS * RATE / len(speech))
    return write_wav(path, np.tile(speech, copies), rate=RATE)


def lay(folder: Path, speech_wav: Path) -> None:
    """Speech as it comes, and a broken file."""
    speech = samples(speech_wav, 8.0)
    deep = folder / "audio books" / "part 1"
    deep.mkdir(parents=True)
    write_wav(folder / "a.wav", speech, rate=RATE)
    write_media(folder / "b.mp3", speech, codec="mp3")
    write_media(deep / "c d.mp4", speech, codec="aac", video_seconds=8.0)
    whole = (deep / "c d.mp4").read_bytes()
    (folder / "broken.mp4").write_bytes(whole[: len(whole) // 3])


GOOD = ["a.wav", "audio books/part 1/c d.mp4", "b.mp3"]


# --- the whole flow ----------------------------------------------------------------------------


def test_real_recordings_become_transcripts_and_the_broken_one_is_set_aside(
    steno: Steno, no_models: Steno, bucket: Path, speech_wav: Path
) -> None:
    lay(bucket / "input", speech_wav)
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
    assert summary.keys() == {field.name for field in fields(Summary)}
    by_key = {result["key"]: result for result in results}
    assert by_key.keys() == {f"input/{name}" for name in [*GOOD, "broken.mp4"]}
    video = by_key["input/audio books/part 1/c d.mp4"]
    assert video["outcome"] == "transcribed"
    assert sorted(video["outputs"]) == [f"output/{name}" for name in outputs(GOOD[1])]
    assert video["model"]["name"] == "tiny.en"
    assert 0 < video["timing"]["real_time_factor"] < 100
    broken = by_key["input/broken.mp4"]
    assert (broken["outcome"], broken["error"]["code"]) == ("failed", "not_media")
    assert broken["outputs"] == []


def _second_run_does_nothing(no_models: Steno, bucket: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in bucket.rglob("*") if path.is_file()}
    ran = no_models(*once(bucket, "--json"))
    assert ran.status == 0
    assert ran.lines == [
        {"summary": dict.fromkeys(("transcribed", "failed", "left"), 0) | {"exit_status": 0}}
    ]
    after = {path: path.stat().st_mtime_ns for path in bucket.rglob("*") if path.is_file()}
    assert after == before


def test_machine_without_models_cannot_do_more_than_nothing(
    no_models: Steno, bucket: Path, speech_wav: Path
) -> None:
    short(speech_wav, bucket / "input" / "a.wav")
    ran = no_models(*once(bucket))
    assert ran.status == 4
    assert ran.stderr.count("error[model_not_pulled]") == 1
    assert tree(bucket) == ["input/a.wav"]


# --- what is told ------------------------------------------------------------------------------


def test_each_recording_is_told_with_its_speed(
    here: InProcess, bucket: Path, speech_wav: Path
) -> None:
    short(speech_wav, bucket / "input" / "a.wav")
    ran = here(*once(bucket))
    assert ran.status == 0
    assert ran.text == ""
    line, summary = ran.stderr.splitlines()
    assert re.fullmatch(
        r"input/a\.wav: 0:03 of audio in \d+\.\d s, real-time factor \d+\.\d{3}( \[.*\])?", line
    )
    assert summary == "1 transcribed, 0 failed, 0 left"


def test_quiet_tells_only_errors(here: InProcess, bucket: Path, speech_wav: Path) -> None:
    short(speech_wav, bucket / "input" / "a.wav")
    (bucket / "input" / "b.wav").write_bytes(b"")
    ran = here(*once(bucket, "--quiet"))
    assert ran.status == 3
    error, hint = ran.stderr.splitlines()
    assert error.startswith("input/b.wav: moved to failed/: error[input_empty]")
    assert hint.startswith("hint: ")


def test_json_and_progress_share_a_terminal_without_mixing(
    steno: Steno, bucket: Path, speech_wav: Path
) -> None:
    short(speech_wav, bucket / "input" / "a.wav")
    ran = on_a_terminal(steno, *once(bucket, "--json"), stdout_too=True, COLUMNS="10000")
    assert "of 0:03" in ran.stderr
    told, result, end, summary = screen(ran.stderr)
    assert told.startswith("input/a.wav: 0:03 of audio")
    assert json.loads(result)["key"] == "input/a.wav"
    assert end == "1 transcribed, 0 failed, 0 left"
    assert json.loads(summary)["summary"]["transcribed"] == 1


def test_flags_of_a_recording_are_told(here: InProcess, bucket: Path) -> None:
    write_wav(bucket / "input" / "silence.wav", np.zeros(16_000))
    ran = here(*once(bucket))
    assert "[no_speech]" in ran.stderr


def test_formats_can_be_chosen(here: InProcess, bucket: Path, speech_wav: Path) -> None:
    short(speech_wav, bucket / "input" / "a.wav")
    here(*once(bucket, "--format", "tsv"))
    assert tree(bucket / "output") == ["a.wav.json", "a.wav.tsv"]


def test_bucket_may_be_a_url(here: InProcess, bucket: Path, speech_wav: Path) -> None:
    short(speech_wav, bucket / "input" / "a.wav")
    ran = here("run", "--once", "--model", "tiny.en", "--bucket", bucket.as_uri())
    assert ran.status == 0
    assert tree(bucket / "output") == outputs("a.wav")


# --- refused before any file is touched --------------------------------------------------------


def test_without_once_it_is_refused_with_what_to_do(here: InProcess, bucket: Path) -> None:
    ran = here("run", "--bucket", bucket)
    assert ran.status == 2
    assert ran.stderr.startswith("error[unsupported_option]")
    assert "hint: Add `--once`" in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--model", "tiny.enn"], "unknown_name"),
        (["--format", "doc"], "unknown_name"),
        (["--language", "klingon"], "unknown_name"),
        (["--language", "fr"], "unsupported_option"),
        (["--batch-size", "4", "--algorithm", "sequential"], "unsupported_option"),
        (["--engine", "steam"], "unknown_name"),
    ],
)
def test_wrong_request_fails_once_before_any_file_is_touched(
    steno: Steno, bucket: Path, arguments: list[str], code: str
) -> None:
    for name in ("a.wav", "b.wav"):
        (bucket / "input" / name).write_text("any")
    ran = steno(*once(bucket), *arguments)
    assert ran.status == 2
    assert ran.stderr.count("error[") == 1
    assert ran.stderr.startswith(f"error[{code}]: ")
    assert "\nhint: " in ran.stderr
    assert tree(bucket) == ["input/a.wav", "input/b.wav"]


@pytest.mark.parametrize("place", ["gone", "s3://bucket"])
def test_what_is_no_folder_is_refused(here: InProcess, place: str) -> None:
    ran = here("run", "--once", "--bucket", place)
    assert ran.status == 2
    assert ran.stderr.startswith("error[usage]")
    assert place in ran.stderr


def test_folder_without_input_is_refused(here: InProcess, tmp_path: Path) -> None:
    ran = here(*once(tmp_path))
    assert ran.status == 2
    assert "`input/`" in ran.stderr


# --- killed and interrupted --------------------------------------------------------------------


def test_run_that_is_killed_loses_nothing_and_the_next_completes_it(
    steno: Steno, bucket: Path, speech_wav: Path
) -> None:
    short(speech_wav, bucket / "input" / "a.wav")
    original = slow(speech_wav, bucket / "input" / "b.wav").read_bytes()
    _stopped_in_the_middle(steno, bucket, signal.SIGKILL, status=-signal.SIGKILL)
    assert (bucket / "input" / "b.wav").read_bytes() == original
    assert tree(bucket / "output") == outputs("a.wav")
    ran = steno(*once(bucket, "--json"))
    assert ran.status == 0
    assert [line["key"] for line in ran.lines[:-1]] == ["input/b.wav"]
    assert tree(bucket / "input") == tree(bucket / "work") == tree(bucket / "failed") == []
    assert tree(bucket / "output") == [*outputs("a.wav"), *outputs("b.wav")]
    assert (bucket / "processed" / "b.wav").read_bytes() == original
    text = (bucket / "output" / "b.wav.txt").read_text(encoding="utf-8")
    assert len(text.split()) > 200


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_gives_130_and_leaves_the_recording_in_place(
    steno: Steno, bucket: Path, speech_wav: Path, number: int
) -> None:
    short(speech_wav, bucket / "input" / "a.wav")
    original = slow(speech_wav, bucket / "input" / "b.wav").read_bytes()
    said = _stopped_in_the_middle(steno, bucket, number, status=130)
    assert (bucket / "input" / "b.wav").read_bytes() == original
    assert tree(bucket / "output") == outputs("a.wav")
    assert tree(bucket / "processed") == ["a.wav"]
    assert tree(bucket / "work") == []
    assert "Traceback" not in said


def _stopped_in_the_middle(steno: Steno, bucket: Path, number: int, *, status: int) -> str:
    """Send a signal while the second recording is worked on; returns stderr."""
    process = steno.start(*once(bucket, "--json"))
    assert process.stdout is not None
    first = json.loads(process.stdout.readline())
    assert first["key"] == "input/a.wav"
    time.sleep(0.5)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert out == b""  # the second one was not finished
    return err.decode()
