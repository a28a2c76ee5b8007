from __future__ import annotations

import io
import json
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands import OPENING, STENO, Steno, on_a_terminal, ran, samples, screen
from sounds import write_wav
from stenopool import __version__
from stenopool.cli.console import ProgressBar, clock, complain, emit, emit_json, printable, say
from stenopool.errors import InputEmpty

TINY = ("--model", "tiny.en")
PROJECT = Path(__file__).parent.parent
HEAVY = ("numpy", "av", "ctranslate2", "onnxruntime", "pydantic", "huggingface_hub", "tokenizers")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("red\x1b[31m.wav", r"red\x1b[31m.wav"),
        ("title\x1b]0;owned\x07.wav", r"title\x1b]0;owned\x07.wav"),
        ("new\nline\rback.wav", r"new\nline\rback.wav"),
        ("c1\x9b31m.wav", r"c1\x9b31m.wav"),
        ("right\u202eto left.wav", r"right\u202eto left.wav"),
        (os.fsdecode(b"latin-\xe9.wav"), r"latin-\xe9.wav"),
        ("two words 🎙 réunion 会議.wav", "two words 🎙 réunion 会議.wav"),
    ],
)
def test_file_names_are_shown_not_obeyed(name: str, shown: str) -> None:
    assert printable(name) == shown


@given(st.text())
def test_printable_is_one_line_for_any_text(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    shown.encode("utf-8")


@given(st.binary(max_size=50))
def test_printable_takes_any_file_name(name: bytes) -> None:
    assert printable(os.fsdecode(name)).isprintable()


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0:00"), (59.99, "0:59"), (60, "1:00"), (3599, "59:59"), (3723.5, "1:02:03")],
)
def test_clock_reads_like_a_clock(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown


def test_error_is_two_lines_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    complain(InputEmpty("`a\nb.wav` has no bytes", do="Copy it again"))
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error[input_empty]: `a\\nb.wav` has no bytes\nhint: Copy it again\n"


def test_say_leaves_stdout_alone(capsys: pytest.CaptureFixture[str]) -> None:
    say("hello")
    assert capsys.readouterr() == ("", "hello\n")


def test_no_progress_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar(quiet=False) as bar:
        bar.begin("a.wav")
        bar.update(1.0, 2.0)
    assert capsys.readouterr() == ("", "")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("quiet", [True, False])
def test_progress_on_a_terminal_unless_quiet(monkeypatch: pytest.MonkeyPatch, quiet: bool) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with ProgressBar(quiet=quiet) as bar:
        bar.begin("[bold]a[/bold].wav\x1b[2J")
        bar.update(61.0, 3661.0)
    shown = terminal.getvalue()
    if quiet:
        assert shown == ""
    else:
        assert r"[bold]a[/bold].wav\x1b[2J" in shown
        assert "1:01 of 1:01:01" in shown
        assert "\x1b[2J" not in shown


def test_progress_after_the_end_is_no_error() -> None:
    bar = ProgressBar(quiet=False)
    bar.update(1.0, None)
    bar.end()
    bar.end()


class Ascii(io.TextIOWrapper):
    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="ascii")

    def bytes(self) -> bytes:
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue()


def test_text_is_utf_8_whatever_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    stdout = Ascii()
    monkeypatch.setattr(sys, "stdout", stdout)
    emit("réunion 会議\n")
    emit_json({"text": "é🎙"})
    emit("lone \ud800\n")
    assert (
        stdout.bytes() == "réunion 会議\n".encode() + b'{"text": "\\u00e9\\ud83c\\udf99"}\nlone ?\n'
    )


@given(st.binary(max_size=20), st.text())
def test_json_has_no_lone_surrogates_and_nothing_else_is_changed(name: bytes, text: str) -> None:
    stdout = Ascii()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        emit_json({"path": os.fsdecode(name), "text": [text, "\udce9", 0.1]})
    data = json.loads(stdout.bytes())
    assert data["path"] == re.sub("[\ud800-\udfff]", "\ufffd", os.fsdecode(name))
    assert data["text"] == [text, "\ufffd", 0.1]
    assert stdout.bytes().count(b"\n") == 1


@pytest.fixture
def steno(models_dir: Path) -> Steno:
    return Steno({"STENO_MODELS_DIR": str(models_dir)})


@pytest.fixture(scope="module")
def clip(speech_wav: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "two cities.wav"
    return write_wav(path, samples(speech_wav, 3.2), rate=48_000)


def python(code: str, stdout: IO[str] | int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)


LISTING = (
    "import sys; from stenopool.cli import main; sys.argv = ['steno', 'models', 'list']; main()"
)


def test_full_disk_behind_stdout_is_an_output_error() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with Path("/dev/full").open("w") as full:
        done = python(LISTING, full)
    assert done.returncode == 6
    error, hint = done.stderr.splitlines()
    assert error.startswith("error[storage_full]: cannot write `stdout`")
    assert hint.startswith("hint: ")


def test_reader_that_goes_away_is_no_traceback() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = python(LISTING, writing)
    os.close(writing)
    assert done.stderr == ""
    assert done.returncode == 141


def redirected(redirection: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a shell runs it, with something done to its output."""
    command = ["sh", "-c", f'exec "$@" {redirection}', "sh", *STENO, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("redirection", [">&-", "1</dev/null"])
@pytest.mark.parametrize(
    "arguments", [["--version"], ["models", "list"], ["models", "list", "--json"], ["doctor"]]
)
def test_closed_stdout_is_an_output_error(redirection: str, arguments: list[str]) -> None:
    done = redirected(redirection, *arguments)
    assert done.returncode == 6
    error, hint = done.stderr.splitlines()
    assert error == "error[output_unwritable]: cannot write to stdout: it is closed"
    assert hint.startswith("hint: Let stdout go to ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["transcribe", "gone.wav"],
        ["transcribe", "gone.wav", "--json", "--output-dir", "."],
        ["run", "--bucket", "gone", "--once", "--json"],
    ],
)
def test_closed_stdout_is_told_before_any_work(arguments: list[str]) -> None:
    done = redirected(">&-", *arguments)
    assert done.returncode == 6
    assert "gone" not in done.stderr


@pytest.mark.parametrize("redirection", ["2>&-", "2</dev/null", "2>/dev/full"])
@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["models", "list"], 0),
        (["models", "show", "tiny.enn"], 2),
        (["transcribe"], 2),  # refused by the parser
        (["transcribe", "a.wav", "--format", "doc"], 2),
    ],
)
def test_unwritable_stderr_does_not_change_the_status(
    redirection: str, arguments: list[str], status: int
) -> None:
    if "/dev/full" in redirection and not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    done = redirected(redirection, *arguments)
    assert done.returncode == status
    assert bool(done.stdout) == (status == 0)


def test_progress_without_stderr_is_no_error(steno: Steno, clip: Path) -> None:
    command = ["sh", "-c", 'exec "$@" 2>&-', "sh", *STENO, "transcribe", *TINY, str(clip)]
    done = ran(command, steno.environment())
    assert done.status == 0
    assert done.text.startswith(OPENING)


PATIENT = """
import os, sys, time
from stenopool.cli.console import emit
os.set_blocking(1, False)
begun = time.process_time()
emit("é" * 1_000_000)
print(time.process_time() - begun, file=sys.stderr)
"""


def test_stdout_that_does_not_block_is_waited_for_without_work() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PATIENT], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    time.sleep(1.5)  # the pipe is full, and nobody reads
    out, err = process.communicate(timeout=60)
    assert out.decode() == "é" * 1_000_000
    assert float(err) < 0.3


def test_version_is_that_of_the_package() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stenopool", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{__version__}\n"
    assert f'version = "{__version__}"' in (PROJECT / "pyproject.toml").read_text()


def test_help_loads_nothing_heavy() -> None:
    done = python(
        "import sys\n"
        "from stenopool.cli import main\n"
        "sys.argv = ['steno', '--help']\n"
        "try:\n    main()\n"
        "except SystemExit as exit:\n    assert not exit.code\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    assert "transcribe" in done.stdout
    loaded = done.stderr.split()
    assert "stenopool.cli" in loaded
    assert [name for name in HEAVY if name in loaded] == []


def test_help_takes_under_300_ms() -> None:
    assert min(seconds_of_help() for _ in range(5)) < 0.3


def seconds_of_help() -> float:
    """Of a core: it uses only one, and other work on the machine is not counted."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "stenopool", "--help"], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


# --- terminals ---------------------------------------------------------------------------------


def test_no_escape_codes_without_a_terminal(steno: Steno, clip: Path, tmp_path: Path) -> None:
    ran = steno("transcribe", *TINY, clip, tmp_path / "red\x1b[31m.wav", "-o", tmp_path / "out")
    assert ran.status == 3
    assert "\x1b" not in ran.stderr
    assert r"red\x1b[31m.wav" in ran.stderr


COLOUR = re.compile(r"\x1b\[[0-9;]*[1-9][0-9;]*m")


def test_progress_bar_appears_on_a_terminal(steno: Steno, clip: Path) -> None:
    ran = on_a_terminal(steno, "transcribe", *TINY, clip, stdout_too=False)
    assert ran.status == 0
    assert ran.text.startswith(OPENING)
    assert "two cities.wav" in ran.stderr
    assert "of 0:03" in ran.stderr
    assert COLOUR.search(ran.stderr)
    assert screen(ran.stderr) == []


def test_no_colour_is_honoured(steno: Steno, clip: Path) -> None:
    ran = on_a_terminal(steno, "transcribe", *TINY, clip, stdout_too=False, NO_COLOR="1")
    assert "of 0:03" in ran.stderr
    assert not COLOUR.search(ran.stderr)


def test_text_errors_and_progress_share_a_terminal_without_mixing(steno: Steno, clip: Path) -> None:
    recordings = [clip, Path("gone.wav"), clip]
    ran = on_a_terminal(steno, "transcribe", *TINY, *recordings, stdout_too=True)
    assert "of 0:03" in ran.stderr
    first, error, hint, last = screen(ran.stderr)
    assert first.startswith(OPENING)
    assert error == "error[input_not_found]: no such file: `gone.wav`"
    assert hint.startswith("hint: ")
    assert last.startswith(OPENING)


def test_quiet_shows_nothing_on_a_terminal(steno: Steno, clip: Path) -> None:
    ran = on_a_terminal(steno, "transcribe", *TINY, "--quiet", clip, stdout_too=False)
    assert ran.stderr == ""
    assert ran.text.startswith(OPENING)
