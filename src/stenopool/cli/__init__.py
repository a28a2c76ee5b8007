"""The command `steno`. Transcripts and data go to stdout, talk and progress to stderr.

Exit statuses: 0 success; 1 a defect in Stenopool; 2 wrong usage; 3 a recording cannot be
transcribed; 4 a model is missing or damaged; 5 an engine is missing or failed; 6 a result cannot be
written; 7 a bucket cannot be reached; 130 interrupted; 141 the reader of stdout has gone. With
several recordings it is the highest of theirs.
"""

from __future__ import annotations

import signal
import sys
import warnings
from contextlib import redirect_stderr
from functools import cache

import typer

from stenopool.cli import (
    align,
    batch,
    bench,
    data,
    doctor,
    evaluate,
    jobs,
    models,
    pseudo_label,
    registry,
    run,
    serve,
    train,
    train_distil,
    transcribe,
)
from stenopool.cli.console import complain, emit, forgiving_stderr, say
from stenopool.errors import StenoError

INTERRUPTED = 130

app = typer.Typer(
    name="steno",
    help="Recordings become transcripts that can be trusted, on your own machine.",
    epilog="Exit status: 0 success, 1 defect, 2 usage, 3 recording, 4 model, 5 engine, 6 output, "
    "7 storage, 130 interrupted, 141 reader of stdout gone.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("transcribe")(transcribe.transcribe)
app.command("run")(run.run)
app.command("worker")(run.worker)
app.add_typer(jobs.app, name="jobs")
app.command("serve")(serve.serve)
app.add_typer(serve.keys, name="keys")
app.add_typer(batch.app, name="batch")
app.command("queue")(jobs.queue)
data.app.command("pseudo-label")(pseudo_label.pseudo_label)
data.app.command("filter")(pseudo_label.filter_labels)
app.add_typer(data.app, name="data")
train.app.command("distil")(train_distil.train_distil)
app.add_typer(train.app, name="train")
app.command("align")(align.align)
app.command("evaluate")(evaluate.evaluate)
app.command("bench")(bench.bench)
models.app.command("add")(registry.add)
models.app.command("remove")(registry.remove)
models.app.command("promote")(registry.promote)
models.app.command("demote")(registry.demote)
app.add_typer(models.app, name="models")
app.command("doctor")(doctor.doctor)


@app.callback(invoke_without_command=True)
def root(
    version: bool = typer.Option(False, "--version", help="Show the version and exit."),
) -> None:
    """Recordings become transcripts that can be trusted, on your own machine."""
    if version:
        from stenopool import __version__

        emit(f"{__version__}\n")
        raise typer.Exit


def main() -> None:
    """Run the command and exit with its status."""
    with redirect_stderr(forgiving_stderr()):
        _run()


def _run() -> None:
    # A polite stop is an interrupt: what was begun is cleaned up, and is no crash of its recording.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_where: _warn(str(message))
            app()
    except StenoError as error:
        complain(error)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


@cache
def _warn(message: str) -> None:
    """Say it once: not for each recording, nor which line of the code noticed it."""
    say(f"warning: {message}")
