"""The command line: see the package."""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # the other benchmarks

from chaos.report import Report
from endpoints import __doc__ as about

Measure = Callable[[argparse.Namespace, Path], Report]


def main() -> None:
    """Run one command; exit with 1 when a claim does not hold."""
    arguments = parser().parse_args()
    measure: Measure = importlib.import_module(f"endpoints.{arguments.what}").measure
    with tempfile.TemporaryDirectory(prefix="endpoints-") as folder:
        report = measure(arguments, Path(folder).resolve())
    report.show()
    if arguments.json:
        report.write(arguments.json)
    sys.exit(bool(report.problems))


def parser() -> argparse.ArgumentParser:
    """What can be asked for."""
    found = argparse.ArgumentParser(
        prog="python -m benchmarks.endpoints",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = found.add_subparsers(dest="what", required=True)
    load = _command(commands, "load", "many clients at once")
    load.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    load.add_argument("--seconds", type=float, default=60.0, help="of load for each number")
    load.add_argument("--clips", type=int, default=64, help="that are sent again and again")
    load.add_argument("--last-seconds", type=float, default=300.0, help="for the last number")
    load.add_argument("--peer-python", type=Path, help="of an environment with faster-whisper")
    load.add_argument("--peer-model", type=Path, help="folder with the same weights")
    realtime = _command(commands, "realtime", "speech as it is spoken")
    realtime.add_argument("--streams", type=int, nargs="+", default=[1, 4])
    realtime.add_argument("--seconds", type=float, default=120.0, help="of each stream")
    cold = _command(commands, "cold", "from no model to the first text")
    cold.add_argument("--rounds", type=int, default=5)
    return found


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, about: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=about)
    command.add_argument("--data", type=Path, required=True, help="JSONL manifest of utterances")
    command.add_argument("--model", default="base")
    command.add_argument("--json", type=Path, help="file for the figures")
    return command


if __name__ == "__main__":
    main()
