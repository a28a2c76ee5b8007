"""The command `steno` for tests: as a process of its own, or in this one with a loaded model."""

from __future__ import annotations

import importlib.util
import json
import os
import pty
import re
import signal
import subprocess
import sys
import wave
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from sounds import Sound
from stenopool.cli import main

STENO = (sys.executable, "-m", "stenopool")
OPENING = "It was the best of times"  # of the recording that `speech_wav` is
NOBODY = 65534


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    status: int
    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        return self.stdout.decode("utf-8")

    @property
    def lines(self) -> list[Any]:
        """Standard output as JSON lines."""
        return [json.loads(line) for line in self.stdout.splitlines()]


@dataclass(frozen=True)
class Steno:
    """Runs `steno` as users do; `settings` are environment variables for every run."""

    settings: Mapping[str, str]

    def __call__(
        self, *arguments: str | Path, settings: Mapping[str, str] | None = None, cwd: Path = Path()
    ) -> Ran:
        return ran([*self.command, *map(str, arguments)], self.environment(settings), cwd)

    @property
    def command(self) -> Sequence[str]:
        return STENO

    def start(self, *arguments: str | Path) -> subprocess.Popen[bytes]:
        """A command that is at work; its output can be read."""
        return subprocess.Popen(
            [*self.command, *map(str, arguments)],
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def environment(self, settings: Mapping[str, str] | None = None) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("STENO_")}
        return {**kept, "STENO_OFFLINE": "1", **self.settings, **(settings or {})}


def ran(command: list[str], environment: Mapping[str, str], cwd: Path = Path()) -> Ran:
    """Run any command to its end."""
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, check=False)
    return Ran(done.returncode, done.stdout, done.stderr.decode("utf-8"))


@dataclass(frozen=True)
class InProcess:
    """Runs `steno` in this process, with every handler that the real one has."""

    monkeypatch: pytest.MonkeyPatch
    capture: pytest.CaptureFixture[bytes]

    def __call__(self, *arguments: str | Path) -> Ran:
        self.monkeypatch.setattr(sys, "argv", ["steno", *map(str, arguments)])
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with pytest.raises(SystemExit) as exit:
                main()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        out, err = self.capture.readouterr()
        return Ran(int(exit.value.code or 0), out, err.decode("utf-8"))

    def use(self, transcriber: object) -> None:
        """Let commands have this transcriber instead of loading one."""
        self.monkeypatch.setattr(
            "stenopool.decoding.transcriber.Transcriber", lambda *_, **__: transcriber
        )


def samples(recording: Path, seconds: float | None = None) -> Sound:
    """The beginning of a 16-bit mono wav file."""
    with wave.open(str(recording)) as file:
        count = file.getnframes() if seconds is None else round(seconds * file.getframerate())
        return np.frombuffer(file.readframes(count), dtype="<i2") / 32768.0


def resampled(sound: Sound, before: int, after: int) -> Sound:
    """The same sound with other samples a second."""
    spectrum = np.fft.rfft(sound)
    count = round(len(sound) * after / before)
    wanted = np.zeros(count // 2 + 1, dtype=spectrum.dtype)
    common = min(len(wanted), len(spectrum))
    wanted[:common] = spectrum[:common]
    return np.fft.irfft(wanted, count) * (count / len(sound))


def words(text: str) -> list[str]:
    """Lower case, without punctuation."""
    return "".join(one for one in text.lower() if one.isalnum() or one.isspace()).split()


def tree(folder: Path) -> list[str]:
    """All files below a folder, except the lock and the database of a bucket."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if not name.startswith(".stenopool"))


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Root may read and write everything, so be somebody else for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def on_a_terminal(steno: Steno, *arguments: str | Path, stdout_too: bool, **more: str) -> Ran:
    """Run with stderr, and stdout if asked, on a pseudo terminal; `stderr` is what it showed."""
    ours, theirs = pty.openpty()
    environment = steno.environment({"TERM": "xterm", "COLUMNS": "100", **more})
    process = subprocess.Popen(
        [*steno.command, *map(str, arguments)],
        env=environment,
        stdout=theirs if stdout_too else subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 4096):
            shown += piece
    except OSError:
        pass  # Linux says so when the other end is closed
    os.close(ours)
    out = process.communicate()[0] or b""
    return Ran(process.returncode, out, shown.decode("utf-8"))


def screen(shown: str) -> list[str]:
    """The lines that remain on a terminal, for the few controls that a progress bar needs."""
    lines, row, column = [""], 0, 0
    for piece in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|[^\x1b]", shown):
        if piece == "\r":
            column = 0
        elif piece == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif piece.endswith("A") and piece.startswith("\x1b"):
            row -= int(piece[2:-1] or 1)
        elif piece == "\x1b[2K":
            lines[row] = ""
        elif not piece.startswith("\x1b"):
            lines[row] = lines[row][:column].ljust(column) + piece + lines[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines if line.strip()]


def load(path: Path) -> ModuleType:
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
