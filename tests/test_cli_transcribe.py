from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import typer

from commands import OPENING, InProcess, Ran, Steno, samples, tree
from sounds import write_wav
from stenopool import Transcript
from stenopool.cli import app
from stenopool.cli.console import report_pull
from stenopool.cli.transcribe import Target
from stenopool.decoding.options import Options
from stenopool.decoding.transcriber import defect
from stenopool.errors import Defect
from stenopool.transcript import Coverage, ModelInfo, Segment, Timing

TINY = ("--model", "tiny.en")
ALONE = {"attention": "", "assistant": None}
SECONDS = 3.2  # of speech: its first five words and no more

# A value other than the default for each option, and how a command line says it.
CHOSEN: dict[str, tuple[Any, list[str]]] = {
    "language": ("en", ["--language", "English"]),
    "task": ("translate", ["--task", "translate"]),
    "algorithm": ("sequential", ["--algorithm", "sequential"]),
    "word_timestamps": (False, ["--no-word-timestamps"]),
    "initial_prompt": ("Dickens, 1859.", ["--initial-prompt", "Dickens, 1859."]),
    "hotwords": ("Stenopool", ["--hotwords", "Stenopool"]),
    "beam_size": (2, ["--beam-size", "2"]),
    "temperatures": ((0.0, 0.5), ["--temperatures", "0", "--temperatures", "0.5"]),
    "condition_on_previous_text": (True, ["--condition-on-previous-text"]),
    "batch_size": (3, ["--batch-size", "3"]),
    "chunk_seconds": (17.5, ["--chunk-seconds", "17.5"]),
    "language_threshold": (0.25, ["--language-threshold", "0.25"]),
    "compression_ratio_threshold": (2.0, ["--compression-ratio-threshold", "2"]),
    "logprob_threshold": (-0.5, ["--logprob-threshold", "-0.5"]),
    "no_speech_threshold": (0.7, ["--no-speech-threshold", "0.7"]),
    "vad_threshold": (0.4, ["--vad-threshold", "0.4"]),
    "audio_track": (1, ["--audio-track", "1"]),
}


@pytest.fixture(scope="module")
def clip(speech_wav: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "two cities.wav"
    return write_wav(path, samples(speech_wav, SECONDS), rate=48_000)


class Spy:
    """Takes the place of `Transcriber` and remembers what it was given."""

    def __init__(self) -> None:
        self.made: list[tuple[str, dict[str, Any]]] = []
        self.options: list[Options] = []

    def __call__(self, model: str, **choices: Any) -> Spy:
        self.made.append((model, choices))
        return self

    def resolved(self, options: Options) -> Options:
        return options

    def transcribe_many(
        self, paths: list[Path], options: Options, *, progress: Callable[..., None]
    ) -> Iterator[Transcript | Defect]:
        self.options.append(options)
        return (self.transcribed(path) for path in paths)

    def transcribed(self, path: Path) -> Transcript | Defect:
        return Transcript(
            text="réunion",
            language="fr",
            language_probability=1.0,
            task="transcribe",
            duration=1.0,
            segments=(Segment(0, 0.0, 1.0, "réunion", -0.1, 0.0, 1.0),),
            coverage=Coverage(0.0, 0.0, 0.0),
            model=ModelInfo("spy", "0" * 64, "none", "none"),
            timing=Timing(0.1, 0.1),
        )


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    spy = Spy()
    monkeypatch.setattr("stenopool.decoding.transcriber.Transcriber", spy)
    return spy


@pytest.fixture
def here_spied(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes], spy: Spy
) -> InProcess:
    return InProcess(monkeypatch, capfdbinary)


def command_options(command: str) -> dict[str, Any]:
    """The options of a command by the name of their parameter."""
    group: Any = typer.main.get_command(app)
    return {one.name: one for one in group.commands[command].params}


# --- what goes where ---------------------------------------------------------------------------


def test_text_goes_to_stdout_and_nothing_else(steno: Steno, clip: Path) -> None:
    ran = steno("transcribe", *TINY, clip)
    assert ran.status == 0
    assert ran.text.startswith(OPENING)
    assert ran.text.endswith("\n")
    assert ran.stderr == ""


@pytest.mark.parametrize("format", ["srt", "vtt", "tsv", "json"])
def test_one_format_may_go_to_stdout(here: InProcess, clip: Path, format: str) -> None:
    ran = here("transcribe", "--format", format, clip)
    assert ran.status == 0
    assert OPENING in ran.text.replace("\n", " ")
    marks = {"srt": "1\n00:00:", "vtt": "WEBVTT", "tsv": "start\t", "json": "{"}
    assert ran.text.startswith(marks[format])


def test_several_formats_on_stdout_are_refused(here: InProcess, clip: Path) -> None:
    ran = here("transcribe", "-f", "txt", "-f", "srt", clip)
    assert ran.status == 2
    assert ran.text == ""
    assert "error[usage]" in ran.stderr
    assert "--output-dir" in ran.stderr


def test_output_folder_gets_a_file_for_each_format(
    here: InProcess, clip: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "new" / "folder"
    ran = here("transcribe", clip, "-o", folder, "-f", "txt", "-f", "srt", "-f", "json")
    assert ran.status == 0
    assert ran.text == ""
    assert tree(folder) == [f"two cities.wav.{name}" for name in ("json", "srt", "txt")]
    assert (folder / "two cities.wav.txt").read_text().startswith(OPENING)
    assert json.loads((folder / "two cities.wav.json").read_text())["text"].startswith(OPENING)
    assert ran.stderr.splitlines() == [
        str(folder / f"two cities.wav.{name}") for name in ("txt", "srt", "json")
    ]


def test_quiet_says_nothing(here: InProcess, clip: Path, tmp_path: Path) -> None:
    ran = here("transcribe", "--quiet", clip, "-o", tmp_path)
    assert ran == Ran(0, b"", "")
    assert tree(tmp_path) == ["two cities.wav.txt"]


def test_quiet_still_says_errors(here: InProcess, tmp_path: Path) -> None:
    ran = here("transcribe", "--quiet", tmp_path / "gone.wav")
    assert ran.stderr.startswith("error[input_not_found]")


def test_same_names_in_one_output_folder_are_refused(
    spy: Spy, here_spied: InProcess, clip: Path, tmp_path: Path
) -> None:
    ran = here_spied("transcribe", clip, tmp_path / clip.name, "-o", tmp_path / "out")
    assert ran.status == 2
    assert f"`{clip.name}`" in ran.stderr
    assert spy.made == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("way", ["same", "dotted", "linked"])
def test_output_that_would_overwrite_a_recording_is_refused(
    spy: Spy, here_spied: InProcess, tmp_path: Path, way: str
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    for name in ("talk", "talk.srt"):
        (folder / name).write_text("precious")
    (tmp_path / "linked").symlink_to(folder)
    target = {"same": folder, "dotted": folder / ".." / "here", "linked": tmp_path / "linked"}[way]
    recordings = [folder / "talk", folder / "talk.srt"]
    ran = here_spied("transcribe", *recordings, "-f", "txt", "-f", "srt", "-o", target)
    assert ran.status == 2
    assert ran.stderr.startswith("error[usage]: the recording `")
    assert "talk.srt" in ran.stderr
    assert spy.made == []
    assert tree(folder) == ["talk", "talk.srt"]
    assert (folder / "talk.srt").read_text() == "precious"


def test_outputs_of_an_earlier_run_are_replaced(
    spy: Spy, here_spied: InProcess, tmp_path: Path
) -> None:
    (tmp_path / "talk.txt").write_text("old")
    assert here_spied("transcribe", tmp_path / "talk", "-o", tmp_path).status == 0
    assert (tmp_path / "talk.txt").read_text() == "réunion\n"


def test_format_that_is_given_twice_is_written_once(here_spied: InProcess, tmp_path: Path) -> None:
    ran = here_spied("transcribe", "a.wav", "-f", "txt", "-f", "txt", "-o", tmp_path)
    assert ran.stderr.splitlines() == [str(tmp_path / "a.wav.txt")]
    assert here_spied("transcribe", "a.wav", "-f", "txt", "-f", "txt").text == "réunion\n"


def test_many_recordings_are_checked_at_once(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(30_000)]
    begun = time.perf_counter()
    Target(("txt",), tmp_path, json_lines=False, quiet=True).check(paths)
    assert time.perf_counter() - begun < 4


@pytest.mark.parametrize("formats", [["srt"], ["txt"], ["srt", "vtt"]])
def test_format_that_json_would_ignore_is_refused(
    spy: Spy, here_spied: InProcess, tmp_path: Path, formats: list[str]
) -> None:
    chosen = [part for name in formats for part in ("-f", name)]
    ran = here_spied("transcribe", "--json", "a.wav", *chosen)
    assert ran.status == 2
    assert ran.text == ""
    assert ran.stderr.startswith("error[usage]: `--json`")
    assert "--output-dir" in ran.stderr
    assert spy.made == []
    ran = here_spied("transcribe", "--json", "a.wav", *chosen, "-o", tmp_path)
    assert ran.status == 0
    assert tree(tmp_path) == sorted(f"a.wav.{name}" for name in formats)


def test_json_lines_hold_the_json_document(here: InProcess, clip: Path, tmp_path: Path) -> None:
    (line,) = here("transcribe", "--json", clip, "-f", "json", "-o", tmp_path).lines
    document = json.loads((tmp_path / "two cities.wav.json").read_text())
    assert line["transcript"] == document


def test_name_that_is_not_utf_8_has_replacements_in_json(
    spy: Spy, here_spied: InProcess, tmp_path: Path
) -> None:
    recording = tmp_path / os.fsdecode(b"caf\xe9.wav")
    (line,) = here_spied("transcribe", "--json", recording, "-o", tmp_path / "out").lines
    assert line["path"] == str(tmp_path / "caf\ufffd.wav")
    assert line["files"] == [str(tmp_path / "out" / "caf\ufffd.wav.txt")]
    (written,) = (tmp_path / "out").iterdir()
    assert os.fsencode(written.name) == b"caf\xe9.wav.txt"


def test_json_lines_tell_each_recording(here: InProcess, clip: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone.wav"
    ran = here("transcribe", "--json", gone, clip, "-o", tmp_path / "out")
    failed, done = ran.lines
    assert ran.status == 3
    assert (failed["path"], failed["status"]) == (str(gone), "failed")
    assert failed["error"]["code"] == "input_not_found"
    assert failed["error"]["hint"]
    assert (done["path"], done["status"]) == (str(clip), "transcribed")
    assert done["files"] == [str(tmp_path / "out" / "two cities.wav.txt")]
    assert Transcript.from_dict(done["transcript"]).text.startswith(OPENING)


def test_json_without_a_folder_writes_no_file(
    here: InProcess, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (line,) = here("transcribe", "--json", clip).lines
    assert line["files"] == []
    assert tree(tmp_path) == []


def test_bad_recording_among_good_ones_costs_only_itself(
    steno: Steno, clip: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.wav"
    other.write_bytes(clip.read_bytes())
    bad = tmp_path / "bad.wav"
    bad.write_text("no sound")
    ran = steno("transcribe", *TINY, clip, bad, other, "-o", tmp_path / "out")
    assert ran.status == 3
    assert tree(tmp_path / "out") == ["other.wav.txt", "two cities.wav.txt"]
    assert "error[not_media]" in ran.stderr
    assert str(bad) in ran.stderr
    assert "hint: " in ran.stderr


@pytest.mark.parametrize("name", ["-dash.wav", "--help"])
def test_leading_dash_after_two_dashes_is_a_name(
    here: InProcess, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(clip.read_bytes())
    ran = here("transcribe", "-o", "out", "--", name)
    assert ran.status == 0
    assert tree(tmp_path / "out") == [f"{name}.txt"]


def test_name_of_255_bytes_gets_an_output_of_a_shorter_name(
    here: InProcess, clip: Path, tmp_path: Path
) -> None:
    longest = tmp_path / ("x" * 251 + ".wav")
    longest.write_bytes(clip.read_bytes())
    ran = here("transcribe", longest, "-o", tmp_path / "out")
    assert ran.status == 0
    (name,) = tree(tmp_path / "out")
    assert re.fullmatch(r"x+~[0-9a-f]{16}\.txt", name)


def test_output_is_utf_8_in_the_c_locale(steno: Steno, clip: Path, tmp_path: Path) -> None:
    ascii_only = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    recording = tmp_path / "réunion 🎙.wav"
    recording.write_bytes(clip.read_bytes())
    ran = steno(
        *("transcribe", *TINY, "--json", "-f", "srt", "-o", tmp_path / "out", recording),
        settings={**ascii_only, "PYTHONIOENCODING": "ascii"},
    )
    assert ran.status == 0
    (name,) = (os.fsencode(path.name) for path in (tmp_path / "out").iterdir())
    assert name == "réunion 🎙.wav.srt".encode()


def test_text_beyond_ascii_arrives_as_utf_8(spy: Spy, here_spied: InProcess) -> None:
    assert here_spied("transcribe", "a.wav").stdout == "réunion\n".encode()


# --- exit statuses -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--format", "doc"], "unknown_name"),
        (["--language", "klingon"], "unknown_name"),
        (["--engine", "steam"], "unknown_name"),
        (["--task", "sing"], "unknown_name"),
        (["--algorithm", "magic"], "unknown_name"),
        (["--beam-size", "0"], "usage"),
        (["--model", "tiny.enn"], "unknown_name"),
        (["--model", "tiny.en", "--language", "fr"], "unsupported_option"),
        (["--model", "tiny.en", "--chunk-seconds", "20"], "unsupported_option"),
        (["--model", "silero-vad"], "unsupported_option"),
    ],
)
def test_wrong_usage_is_status_2_and_says_what_to_do(
    models_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
    arguments: list[str],
    code: str,
) -> None:
    use_models(monkeypatch, models_dir)
    ran = InProcess(monkeypatch, capfdbinary)("transcribe", "never.wav", "read.wav", *arguments)
    assert ran.status == 2
    assert ran.text == ""
    assert ran.stderr.startswith(f"error[{code}]: ")
    assert re.search(r"^hint: \S", ran.stderr, re.MULTILINE)
    assert ran.stderr.count("error[") == 1  # not once for each recording


@pytest.mark.parametrize(
    "arguments", [[], ["a.wav", "--no-such-option"], ["a.wav", "--threads", "x"]]
)
def test_what_is_no_command_line_is_status_2(here: InProcess, arguments: list[str]) -> None:
    assert here("transcribe", *arguments).status == 2


def use_models(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    from stenopool.settings import Settings

    settings = Settings(models_dir=folder, offline=True)
    for module in (
        "stenopool.settings",
        "stenopool.models.store",
        "stenopool.decoding.transcriber",
    ):
        monkeypatch.setattr(f"{module}.settings", lambda: settings)


def test_model_that_is_not_here_is_status_4(steno: Steno, clip: Path, tmp_path: Path) -> None:
    ran = steno("transcribe", *TINY, clip, settings={"STENO_MODELS_DIR": str(tmp_path)})
    assert ran.status == 4
    assert ran.stderr.startswith("error[model_not_pulled]")
    assert "STENO_OFFLINE" in ran.stderr


def test_output_that_cannot_be_written_is_status_6_before_any_work(
    spy: Spy, here_spied: InProcess, clip: Path, tmp_path: Path
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    ran = here_spied("transcribe", clip, "-o", in_the_way)
    assert ran.status == 6
    assert ran.stderr.startswith("error[output_unwritable]")
    assert spy.made == []


def test_status_is_the_highest_of_all(here: InProcess, clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "two cities.wav.txt").mkdir(parents=True)  # a folder in the way of the document
    ran = here("transcribe", clip, tmp_path / "gone.wav", "-o", out)
    assert ran.status == 6
    assert "error[output_unwritable]" in ran.stderr
    assert "error[input_not_found]" in ran.stderr


# --- options -----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["transcribe", "run"])
def test_every_field_of_options_is_a_command_option_with_help(command: str) -> None:
    known = command_options(command)
    assert dataclasses.fields(Options)
    for field in dataclasses.fields(Options):
        option = known[field.name]
        assert f"--{field.name.replace('_', '-')}" in option.opts
        assert len(option.help) > 10
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        assert option.default == default


@pytest.mark.parametrize("command", ["transcribe", "run"])
def test_every_option_has_help(command: str) -> None:
    known = command_options(command)
    assert known
    assert [name for name, one in known.items() if not one.help] == []


def test_test_knows_every_option() -> None:
    assert CHOSEN.keys() == {field.name for field in dataclasses.fields(Options)}
    assert [name for name, (value, _) in CHOSEN.items() if value == getattr(Options(), name)] == []


@pytest.mark.parametrize("name", CHOSEN)
def test_value_of_option_arrives(spy: Spy, here_spied: InProcess, name: str) -> None:
    value, arguments = CHOSEN[name]
    assert here_spied("transcribe", "a.wav", *arguments).status == 0
    assert spy.options == [dataclasses.replace(Options(), **{name: value})]


def test_without_options_the_defaults_arrive(spy: Spy, here_spied: InProcess) -> None:
    here_spied("transcribe", "a.wav")
    assert spy.options == [Options()]
    choices = {"engine": "auto", "device": "auto", "threads": 0, "report": report_pull}
    assert spy.made == [("base", {**choices, **ALONE})]


def test_choice_of_engine_arrives(spy: Spy, here_spied: InProcess) -> None:
    arguments = ["--engine", "ctranslate2", "--device", "cpu", "--threads", "3", "--model", "small"]
    here_spied("transcribe", "a.wav", "b.wav", *arguments)
    choices = {"engine": "ctranslate2", "device": "cpu", "threads": 3, "report": report_pull}
    assert spy.made == [("small", {**choices, **ALONE})]
    assert len(spy.options) == 1  # both share batches


def test_real_options_change_the_result(here: InProcess, clip: Path) -> None:
    (plain,) = here("transcribe", "--json", clip).lines
    (without,) = here("transcribe", "--json", "--no-word-timestamps", clip).lines
    assert plain["transcript"]["segments"]
    assert without["transcript"]["segments"]
    assert all(segment["words"] for segment in plain["transcript"]["segments"])
    assert not any(segment.get("words") for segment in without["transcript"]["segments"])


def test_unsuited_algorithm_is_a_warning_without_the_place_in_the_code(
    steno: Steno, clip: Path
) -> None:
    ran = steno("transcribe", *TINY, "--algorithm", "chunked", clip, clip)
    assert ran.status == 0
    (warning,) = ran.stderr.splitlines()
    assert warning.startswith("warning: `tiny.en` was made for the packed algorithm")


def test_interrupt_ends_the_command_while_the_model_works(
    steno: Steno, speech_wav: Path, tmp_path: Path
) -> None:
    """What is being read is waited for before the process ends: then nobody could."""
    sound = np.tile(samples(speech_wav)[::3], 50)  # 16 kHz
    long = write_wav(tmp_path / "long.wav", sound)
    running = steno.start("transcribe", *TINY, "--language", "en", "--quiet", long)
    assert running.stdout
    assert running.stderr
    with running.stdout, running.stderr:
        try:
            times = psutil.Process(running.pid).cpu_times
            while (now := times()).user + now.system < 6:  # it has begun to read
                assert running.poll() is None
                time.sleep(0.05)
            running.send_signal(signal.SIGINT)
            assert running.wait(30) == 130
            assert running.stdout.read() == b""
        finally:
            running.kill()


def test_defect_is_told_with_its_traceback_and_the_next_recording_goes_on(
    here_spied: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Spy.transcribed

    def faulty(self: Spy, path: Path) -> Transcript | Defect:
        try:
            if path.name == "a.wav":
                raise ZeroDivisionError("in the model")
        except ZeroDivisionError as error:
            return defect(path, error)
        return whole(self, path)

    monkeypatch.setattr(Spy, "transcribed", faulty)
    run = here_spied("transcribe", "a.wav", "b.wav", "--json")
    first, second = run.lines
    assert run.status == 1
    assert "Traceback" in run.stderr
    assert "error[defect]: `a.wav`: ZeroDivisionError: in the model" in run.stderr
    assert (first["status"], first["error"]["code"]) == ("failed", "defect")
    assert second["status"] == "transcribed"
