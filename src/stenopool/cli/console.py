"""What every command writes: data to stdout; messages, errors and progress to stderr."""

from __future__ import annotations

import errno
import io
import json
import sys
from contextlib import suppress
from pathlib import Path
from select import select
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self, TextIO, cast

import typer

from stenopool.errors import OutputUnwritable, StenoError
from stenopool.text import encodable

if TYPE_CHECKING:
    from rich.progress import Progress

READER_GONE = 141  # what a shell reports of a program that SIGPIPE has ended


def emit(text: str) -> None:
    """Text on stdout as UTF-8, whatever the locale; exits quietly when its reader has gone.

    Raises:
        OutputError: stdout is closed, or the file or disk behind it cannot take it.
    """
    from stenopool.files import output_error

    stdout = open_stdout()
    rest = memoryview(text.encode("utf-8", "replace"))
    try:
        while rest:
            written = stdout.write(rest)
            if written is None:  # it does not block, and is full
                select([], [stdout], [])
            else:
                rest = rest[written:]
    except BrokenPipeError:
        sys.exit(READER_GONE)  # `| head` is no error
    except OSError as error:
        if error.errno == errno.EBADF:
            raise _closed() from error
        raise output_error(Path("stdout"), error) from error


def emit_json(data: object) -> None:
    """One line of JSON in ASCII on stdout.

    What is not UTF-8 in a name is replaced, as in error records.
    """
    whole = encodable(json.dumps(data, ensure_ascii=False))
    emit(json.dumps(json.loads(whole)) + "\n")


def open_stdout() -> IO[bytes]:
    """Standard output without its buffer: what stays there would fail again when Python exits.

    Raises:
        OutputUnwritable: it is closed.
    """
    if sys.stdout is None or sys.stdout.closed:
        raise _closed()
    return _unbuffered(sys.stdout)


def _closed() -> OutputUnwritable:
    return OutputUnwritable(
        "cannot write to stdout: it is closed", do="Let stdout go to a terminal, a file or a pipe"
    )


def _unbuffered(stream: TextIO) -> IO[bytes]:
    unbuffered: IO[bytes] = getattr(stream.buffer, "raw", stream.buffer)
    return unbuffered


def forgiving_stderr() -> TextIO:
    """Standard error, in whose failures nobody is interested: they must not end the work."""
    encoding = sys.stderr.encoding if sys.stderr else "utf-8"
    stream = cast("IO[bytes]", _Forgiving())
    return io.TextIOWrapper(
        stream, encoding=encoding, errors="backslashreplace", write_through=True
    )


class _Forgiving(io.RawIOBase):
    """Takes all that is written, also where it goes nowhere."""

    def __init__(self) -> None:
        self._stderr = _unbuffered(sys.stderr) if sys.stderr else None

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._stderr is not None and self._stderr.isatty()

    def fileno(self) -> int:
        return self._stderr.fileno() if self._stderr else super().fileno()

    def write(self, data: Any) -> int:  # noqa: ANN401  any buffer
        if self._stderr:
            with suppress(OSError):
                self._stderr.write(data)
        return len(data)


def say(message: str) -> None:
    """A line on stderr. Control characters of file names are shown, not obeyed."""
    typer.echo(printable(message), err=True)


def report_pull(what: str, done: int, total: int | None) -> None:
    """A line where a download begins and where a file is complete."""
    if done == 0:
        say(f"fetching {what}")
    elif done == total:
        say(f"fetched {what}: {done / 1e6:.1f} MB")


def complain(error: StenoError) -> None:
    """An error as two lines: what happened, and what to do."""
    say(f"error[{error.code}]: {error.what}")
    say(f"hint: {error.do}")


def printable(text: str) -> str:
    """One line that a terminal shows as it is."""
    safe = text.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in safe
    )


class ProgressBar:
    """Seconds of audio done, of how many, and the time that is left; silent without a terminal.

    It is on the screen only from `begin` to `end`, so that what is written between recordings, also
    to stdout, stands on lines of its own.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._silent = quiet or not sys.stderr.isatty()
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def begin(self, name: str) -> None:
        """Show a new recording; the one before is no longer shown."""
        self.end()
        if not self._silent:
            self._bar = _bar()
            self._bar.add_task(printable(name), total=None, audio="")
            self._bar.start()

    def update(self, done: float, total: float | None) -> None:
        """Seconds that are done, and seconds that the recording claims to have."""
        if self._bar:
            of = f"{clock(done)} of {clock(total)}" if total else clock(done)
            self._bar.update(self._bar.task_ids[-1], completed=done, total=total, audio=of)

    def end(self) -> None:
        """Take the bar off the screen."""
        if self._bar:
            self._bar.stop()
            self._bar = None


def _bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[audio]}", markup=False),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
