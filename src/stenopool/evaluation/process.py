"""A child process that talks JSON lines over pipes of its own, and never outlives its parent."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from threading import Thread
from typing import IO, Any

from stenopool.errors import EngineFailed

_TAIL_LINES = 12  # of what a dead process said last
_LONGEST_LINE = 4096  # bytes
_LOOK_SECONDS = 0.5  # how often to see whether a silent process still lives
_DRAIN_SECONDS = 2.0  # for the last words of a process that has died


class Process:
    """A running command that reads requests from one pipe and answers through another.

    Its standard output is not used: libraries write there. The numbers of the two file descriptors
    are its last arguments. The command leads a process group of its own, so that nothing it started
    stays behind, and an interrupt from the terminal reaches the parent alone.

    Args:
        name: for messages.
        command: without the file descriptors.
        environment: the whole of it.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._name = name
        self._buffer = bytearray()
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        try:
            self._child = subprocess.Popen(
                [*command, str(theirs_in), str(theirs_out)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs_in, theirs_out),
                start_new_session=True,
            )
        except BaseException:
            os.close(self._in)
            os.close(self._out)
            raise
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        assert self._child.stdout is not None  # noqa: S101  it is a pipe, as asked above
        self._drain = Thread(target=_keep, args=(self._child.stdout, self._tail), daemon=True)
        self._drain.start()

    def send(self, message: Mapping[str, object]) -> None:
        """Write one message.

        Raises:
            EngineFailed: the process has died.
        """
        rest = memoryview(json.dumps(message).encode() + b"\n")
        try:
            while rest:
                rest = rest[os.write(self._out, rest) :]
        except BrokenPipeError:
            raise self._died("take a request") from None

    def receive(self, task: str, patience: float | None = None) -> dict[str, Any]:
        """Wait for one message.

        Args:
            task: what the process does meanwhile, for messages.
            patience: seconds to wait; `None` is for ever.

        Raises:
            EngineFailed: the process has died, or the patience has ended; it is killed then.
        """
        until = None if patience is None else time.monotonic() + patience
        while b"\n" not in self._buffer:
            piece = self._piece()
            if piece == b"":
                raise self._died(task)
            if piece is not None:
                self._buffer += piece
            elif until is not None and time.monotonic() > until:
                self._kill()
                raise EngineFailed(
                    f"`{self._name}` did not {task} within {patience:g} s and was ended",
                    do="Give it less to do at once, or more patience",
                )
        line, _, rest = self._buffer.partition(b"\n")
        self._buffer = rest
        message: dict[str, Any] = json.loads(line)
        return message

    def end(self) -> None:
        """Kill the process and all that it started; harmless when it is dead already."""
        self._kill()
        self._drain.join(_DRAIN_SECONDS)
        if not self._drain.is_alive() and self._child.stdout:
            self._child.stdout.close()
        for descriptor in (self._in, self._out):
            with suppress(OSError):
                os.close(descriptor)
        self._in = self._out = -1

    def _piece(self) -> bytes | None:
        """What it sent; empty when it has died, `None` when it is silent."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._in, selectors.EVENT_READ)
            if selector.select(_LOOK_SECONDS):
                return os.read(self._in, 1 << 16)
        # What it started may hold its end of the pipe open, so its death is looked for too.
        return None if self._child.poll() is None else b""

    def _died(self, task: str) -> EngineFailed:
        self._kill()
        self._drain.join(_DRAIN_SECONDS)
        said = "".join(f"\n  {line}" for line in self._tail) or " nothing"
        return EngineFailed(
            f"the process of `{self._name}` {_ending(self._child.returncode)} when it had to "
            f"{task}; it said last:{said}",
            do="Read its last lines; give it more memory, or another engine or fewer threads",
        )

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            # Its number is its group's: `start_new_session`.
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()


def _keep(stream: IO[bytes], tail: deque[str]) -> None:
    """Read on, so that no library blocks on a full pipe; only the last lines are kept."""
    for line in iter(lambda: stream.readline(_LONGEST_LINE), b""):
        if text := line.decode(errors="replace").rstrip():
            tail.append(text)


def _ending(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    with suppress(ValueError):
        return f"was ended by {signal.Signals(-status).name}"
    return f"was ended by signal {-status}"
