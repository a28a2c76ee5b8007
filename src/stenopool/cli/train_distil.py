"""`steno train distil`: a fast student of a slow teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stenopool.cli.console import open_stdout, report_pull
from stenopool.cli.options import DeviceName, Quiet
from stenopool.cli.train import Json, Output, Resume, Shown, tell_end, with_training_options
from stenopool.training.distil_options import DistilOptions


@with_training_options(DistilOptions)
def train_distil(
    *,
    train: Annotated[
        str,
        typer.Option(
            metavar="LABELS", help="What `steno data pseudo-label` or `steno data filter` wrote."
        ),
    ],
    valid: Annotated[
        str,
        typer.Option(
            metavar="SOURCE", help="The same, or recordings of up to 30 s, to measure with."
        ),
    ],
    output: Output,
    teacher: Annotated[
        str, typer.Option(help="Name (see `steno models list`) or folder of a Whisper model.")
    ] = "base",
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder for the encoder's states; runs may share it."),
    ] = None,
    resume: Resume = False,
    device: DeviceName = "auto",
    json_lines: Json = False,
    quiet: Quiet = False,
    options: DistilOptions,
) -> None:
    """Distil Whisper: a student with few decoder layers learns to write what its teacher writes."""
    from stenopool.training.distil_run import train_distil as run

    open_stdout()
    with Shown(quiet=quiet) as shown:
        ended = run(
            train,
            valid,
            output,
            teacher=teacher,
            options=options,
            cache=cache,
            resume=resume,
            device=device,
            report=shown.update,
            say=shown.say,
            pulled=report_pull,
        )
    tell_end(ended, as_json=json_lines)
