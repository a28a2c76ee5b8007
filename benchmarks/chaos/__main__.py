"""The command line: see the package."""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from . import __doc__ as about
from .backends import NAMES
from .report import Report

Measure = Callable[[argparse.Namespace, Path], Report]


def main() -> None:
    """Run one command; exit with 1 when a claim does not hold."""
    arguments = parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started, too
    measure: Measure = importlib.import_module(f".{arguments.what}", __package__).measure
    if arguments.work:
        arguments.work.mkdir(parents=True, exist_ok=True)
        report = measure(arguments, arguments.work.resolve())
    else:
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            report = measure(arguments, Path(folder).resolve())
    report.show()
    if arguments.json:
        report.write(arguments.json)
    sys.exit(bool(report.problems))


def parser() -> argparse.ArgumentParser:
    """What can be asked for."""
    found = argparse.ArgumentParser(
        prog="python -m benchmarks.chaos",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = found.add_subparsers(dest="what", required=True)
    kill = _command(commands, "kill", "kill worker processes at random")
    _speech(kill, recordings=40)
    kill.add_argument("--kills", type=int, default=30)
    kill.add_argument("--every", type=float, default=4.0, help="seconds between kills")
    faults = _command(commands, "faults", "what runs depend on fails for a while")
    _speech(faults, recordings=20)
    faults.add_argument("--fault-seconds", type=float, default=15.0)
    faults.add_argument("--only", nargs="+", help="names of faults; all by default")
    isolation = _command(commands, "isolation", "recordings that hang, crash or eat memory")
    _speech(isolation, recordings=12)
    overhead = _command(commands, "overhead", "what a recording costs besides its transcription")
    overhead.add_argument("--files", type=int, default=1000)
    overhead.add_argument("--workers", type=int, default=1)
    overhead.add_argument("--keys", type=int, default=0, help="so many to list and queue, too")
    scale = _command(commands, "scale", "one worker process, and many")
    scale.add_argument("--processes", type=int, nargs="+", default=[1, 4, 16])
    scale.add_argument("--each", type=int, default=40, help="recordings for each process")
    idle = _command(commands, "idle", "what a supervisor needs that has nothing to do")
    _speech(idle, recordings=1)
    idle.add_argument("--seconds", type=float, default=60.0)
    return found


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, about: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=about)
    command.add_argument("--json", type=Path, help="file for the figures")
    command.add_argument("--work", type=Path, help="new folder for everything, which stays")
    return command


def _speech(command: argparse.ArgumentParser, *, recordings: int) -> None:
    """Options of commands that transcribe speech."""
    command.add_argument("--backend", choices=NAMES, default="local")
    command.add_argument("--data", type=Path, help="folder with wav and flac files to cut from")
    command.add_argument("--recordings", type=int, default=recordings)
    command.add_argument("--workers", type=int, default=3)
    command.add_argument("--model", default="tiny.en")


if __name__ == "__main__":
    main()
