"""A running `steno serve` for tests: `with served(folder) as server`.

`python serving.py serve …` is `steno serve …` with instant workers, which need no model.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import psutil

from commands import STENO

INSTANT_WORKER = Path(__file__).with_name("instant_worker.py")
PATIENCE = "INSTANT_PATIENCE"  # environment: seconds until a client must have gone on
COMING_SECONDS = 60.0
SOON_SECONDS = 20.0  # until what was cut off is cleared away


@dataclass(frozen=True)
class Server:
    """A server that listens.

    Attributes:
        folder: its bucket is `bucket`, its temporary files are in `tmp`, its log is `log`.
    """

    port: int
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What it has said so far."""
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")

    @property
    def uploads(self) -> list[str]:
        """Names of the files that it keeps of requests."""
        return [one.name for one in (self.folder / "tmp").glob("stenopool-uploads-*/*")]

    @property
    def open_files(self) -> int:
        """Files and sockets of the process."""
        return int(psutil.Process(self.process.pid).num_fds())

    @property
    def memory(self) -> int:
        """Bytes that the process has in memory; its workers are not counted."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def client(self, **more: object) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=120, **more)  # type: ignore[arg-type]

    def connect(self) -> socket.socket:
        """A raw connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def is_well(self) -> bool:
        """Whether it answers, and has not restarted."""
        return self.process.poll() is None and httpx.get(f"{self.url}/healthz").status_code == 200

    def keeps_nothing(self) -> bool:
        """Whether it soon has no file of a request left."""
        until = time.monotonic() + SOON_SECONDS
        while self.uploads and time.monotonic() < until:
            time.sleep(0.05)
        return not self.uploads


@contextmanager
def served(
    folder: Path,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    instant: bool = False,
    wrapper: Sequence[str] = (),
    most_file_bytes: int = resource.RLIM_INFINITY,
) -> Iterator[Server]:
    """A server in a process of its own, as users run it, until the context ends.

    Args:
        folder: for all that it needs.
        arguments: more options of `steno serve`.
        environment: more variables.
        instant: with workers that need no model.
        wrapper: command that runs it.
        most_file_bytes: after which its disk is full.
    """
    for name in ("bucket", "tmp"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__] if instant else [*STENO]
    port = free_port()
    given = ["serve", "--port", str(port), "--bucket", str(folder / "bucket"), *arguments]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("STENO_")}
    variables = {
        **kept,
        "STENO_OFFLINE": "1",
        "STENO_DATABASE": f"sqlite:///{folder / 'jobs.sqlite'}",
        "TMPDIR": str(folder / "tmp"),
        **(environment or {}),
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*wrapper, *command, *given], env=variables, stdout=log, stderr=log
        )
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most_file_bytes, most_file_bytes))
        server = Server(port, folder, process)
        try:
            _wait_until_it_listens(server)
            yield server
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_it_listens(server: Server) -> None:
    until = time.monotonic() + COMING_SECONDS
    while time.monotonic() < until and server.process.poll() is None:
        try:
            httpx.get(f"{server.url}/healthz")
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(server.log)


def wait_until_ready(server: Server) -> None:
    """Until the model is loaded."""
    until = time.monotonic() + COMING_SECONDS
    while httpx.get(f"{server.url}/ping").status_code != 200:
        assert time.monotonic() < until, server.log
        time.sleep(0.1)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def main() -> None:
    """`steno`, with instant workers."""
    from stenopool import cli
    from stenopool.service import app, wire

    command = [sys.executable, str(INSTANT_WORKER)]
    wire.HEADER_SECONDS = patience = float(os.environ.get(PATIENCE, "60"))
    serving = partial(app.Serving, command=command, patience_seconds=patience)
    app.Serving = serving  # type: ignore[misc, assignment]
    cli.main()


if __name__ == "__main__":
    main()
