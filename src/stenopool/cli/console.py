"""What every command says on stderr: messages, errors, progress."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

import typer

from stenopool.errors import StenoError

if TYPE_CHECKING:
    from rich.progress import Progress


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
