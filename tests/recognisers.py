"""Recognisers that do what their recording's name says, for a process of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from stenopool.errors import ModelDamaged, NotMedia
from stenopool.evaluation.peers.base import OneByOne

MEGABYTE = 1 << 20


def scripted() -> OneByOne:
    return OneByOne("script", ("numpy",), _hear)


def _hear(path: Path) -> str:
    match path.name:
        case "crash":
            sys.stderr.write("the last words\n")
            os.kill(os.getpid(), signal.SIGSEGV)
        case "exit":
            os._exit(3)
        case "hang":
            time.sleep(1000)
        case "junk":
            sys.stdout.write('{"id": 1, "answer": {}}\n' * 100_000)
            sys.stderr.write("x" * MEGABYTE)
        case "not-media":
            raise NotMedia("no decoder understands `not-media`", do="Give a recording")
        case "fault":
            raise ValueError("a fault")
        case "memory":
            block = bytearray(300 * MEGABYTE)
            return str(len(block))
        case "child":
            return str(subprocess.Popen(["sleep", "1000"]).pid)
        case "environment":
            return json.dumps(dict(os.environ))
        case "compute":
            until = time.process_time() + 0.3
            while time.process_time() < until:
                pass
    return f"heard {path.name}"


def damaged() -> OneByOne:
    raise ModelDamaged("`model.bin` is cut off", do="Pull it again")


class Together:
    """Says how many recordings each of its calls had, and forgets the last ones of a long call."""

    detail = "together"
    packages: Sequence[str] = ()

    def transcribe(self, paths: Sequence[Path]) -> Iterator[str | Exception]:
        for _ in paths[:3]:
            yield str(len(paths))


def together() -> Together:
    return Together()
