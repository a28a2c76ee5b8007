"""How a worker process begins: it loads its model, and beside that the rest of the program.

What it is to load stands on its command line. The database, whose URL may hold a password, is told
over stdin. So a process can begin before the database is open.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Self

from stenopool.pipeline.job import Group

if TYPE_CHECKING:
    from stenopool.decoding.transcriber import Transcriber

COMMAND = (sys.executable, "-m", "stenopool.pipeline.process")


@dataclass(frozen=True, slots=True)
class Spec:
    """What a worker process is to be.

    Attributes:
        group: the jobs that it can do; its device is what the process has.
        alone: it works on one recording at a time, of those that were there when one died.
        reserved: it serves one child of a batch only.
        threads: cores to use; 0 is all.
        stall_seconds: without getting on, after which a recording is given up.
        in_company: more like it are started where something waits.
    """

    group: Group
    alone: bool = False
    reserved: str = ""
    threads: int = 0
    stall_seconds: float = 300.0
    in_company: bool = False

    def to_json(self) -> str:
        """For the command line of the process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`."""
        data = json.loads(text)
        return cls(**{**data, "group": Group(**data["group"])})


@dataclass(frozen=True)
class Begun:
    """A process that has begun; it waits for its database before it takes any work."""

    spec: Spec
    process: subprocess.Popen[str]

    def end(self) -> None:
        """It is not needed, or not any more."""
        with self.process:  # waits, and closes the pipes
            self.process.kill()


def begin(spec: Spec, command: Sequence[str] = COMMAND) -> Begun:
    """Start a process; its `Spec` as JSON is added to the command."""
    process = subprocess.Popen(
        [*command, spec.to_json()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for the parent, who ends it in good order
    )
    return Begun(spec, process)


def load(spec: Spec) -> Transcriber:
    """The model of a worker."""
    from stenopool.decoding.batching import Batcher
    from stenopool.decoding.transcriber import Transcriber

    group = spec.group
    transcriber = Transcriber(
        group.model, engine=group.engine, device=group.device, threads=spec.threads
    )
    if spec.alone:
        transcriber.batcher = Batcher(1)  # one window at a time: the least memory there is
    return transcriber


def main(text: str) -> None:
    """The process. What it tells its parent goes to stdout, and nothing else does."""
    parent = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    logging.basicConfig(level=logging.WARNING)
    spec = Spec.from_json(text)
    loading = ThreadPoolExecutor(1).submit(load, spec)

    from stenopool.pipeline.worker import run  # it takes as long as a small model

    status = run(spec, loading.result, parent, sys.stdin)
    sys.stderr.flush()
    os._exit(status)  # threads that are parked never end


if __name__ == "__main__":
    main(sys.argv[1])
