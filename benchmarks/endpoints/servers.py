"""Servers in processes of their own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

PEER = Path(__file__).with_name("peer.py")
COMING_SECONDS = 120.0


@contextmanager
def steno(folder: Path, model: str) -> Iterator[int]:
    """`steno serve`; gives its port."""
    port = free_port()
    (folder / "bucket").mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "stenopool", "serve", "--port", str(port), "--model", model]
    command += ["--bucket", str(folder / "bucket")]
    database = {"STENO_DATABASE": f"sqlite:///{folder / 'jobs.sqlite'}"}
    with _running(command, folder / "steno.log", database):
        _wait(f"http://127.0.0.1:{port}/healthz")
        yield port


@contextmanager
def peer(folder: Path, python: Path, model: Path) -> Iterator[int]:
    """faster-whisper behind FastAPI, a request at a time; gives its port."""
    port = free_port()
    command = [str(python), str(PEER), str(model), str(port)]
    with _running(command, folder / "peer.log", {}):
        _wait(f"http://127.0.0.1:{port}/healthz")
        yield port


@contextmanager
def _running(command: Sequence[str], log: Path, more: dict[str, str]) -> Iterator[None]:
    with log.open("ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **more})
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait(url: str) -> None:
    until = time.monotonic() + COMING_SECONDS
    while time.monotonic() < until:
        try:
            httpx.get(url).raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit(f"nothing answers at {url}")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
