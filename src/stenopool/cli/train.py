"""`steno train`: models learn your recordings."""

from __future__ import annotations

import inspect
import re
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Self, get_type_hints

import typer

from stenopool.cli.console import clock, emit, emit_json, open_stdout, say
from stenopool.cli.options import DeviceName, Quiet
from stenopool.training.options import CtcOptions, LoopOptions

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from stenopool.training.setting import Outcome
    from stenopool.training.task import Progress

app = typer.Typer(help="Training: fine-tune models on your recordings.", no_args_is_help=True)

_ENTRY = re.compile(r"^        (\w+): (.*?)(?=^        \w+: |\Z)", re.DOTALL | re.MULTILINE)


def training_option_texts(*kinds: type) -> dict[str, str]:
    """What the docstrings of options say of each field."""
    found = (one for kind in kinds for one in _ENTRY.findall(kind.__doc__ or ""))
    return {name: " ".join(text.split()) for name, text in found}


def with_training_options(
    kind: type[LoopOptions],
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option for each field of a class; it is called with `options=` of it."""

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        def call(**given: Any) -> None:  # noqa: ANN401  whatever the command line holds
            chosen = {field.name: given.pop(field.name) for field in fields(kind)}
            command(**given, options=kind(**chosen))

        hints = get_type_hints(command, include_extras=True)
        own = [
            parameter.replace(annotation=hints[name])
            for name, parameter in inspect.signature(command).parameters.items()
            if name != "options"
        ]
        parameters = [*own, *_parameters(kind)]
        call.__name__, call.__doc__ = command.__name__, command.__doc__
        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {one.name: one.annotation for one in parameters}
        return call

    return decorated


def _parameters(kind: type[LoopOptions]) -> list[inspect.Parameter]:
    hints = get_type_hints(kind)
    texts = training_option_texts(LoopOptions, kind)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=Annotated[
                hints[field.name],
                typer.Option(
                    f"--{field.name.replace('_', '-')}",
                    help=texts[field.name],
                    rich_help_panel="Training",
                ),
            ],
        )
        for field in fields(kind)
    ]


Source = Annotated[str, typer.Option(metavar="SOURCE", help="Manifest of what to learn from.")]
Valid = Annotated[str, typer.Option(metavar="SOURCE", help="Manifest of what to measure with.")]
Init = Annotated[
    str,
    typer.Option(
        help="What to begin with: `tiny` (random, for a few words), a folder in Transformers' "
        "layout, or an id of the Hugging Face Hub."
    ),
]
Output = Annotated[Path, typer.Option(help="Folder for the model, checkpoints and records.")]
Vocabulary = Annotated[
    Path | None,
    typer.Option(
        help="A `vocab.json`; otherwise that of `--init`, or the characters of `--train`."
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from the last checkpoint, if there is one.")
]
Json = Annotated[bool, typer.Option("--json", help="How it ended as JSON on stdout.")]


@app.command("ctc")
@with_training_options(CtcOptions)
def train_ctc(
    *,
    train: Source,
    valid: Valid,
    init: Init,
    output: Output,
    vocabulary: Vocabulary = None,
    resume: Resume = False,
    device: DeviceName = "auto",
    json_lines: Json = False,
    quiet: Quiet = False,
    options: CtcOptions,
) -> None:
    """Fine-tune wav2vec 2.0 with CTC, or train a small model of its kind from nothing."""
    from stenopool.training.run import train_ctc as run

    open_stdout()
    with Shown(quiet=quiet) as shown:
        ended = run(
            train,
            valid,
            output,
            init=init,
            options=options,
            vocabulary=vocabulary,
            resume=resume,
            device=device,
            report=shown.update,
            say=shown.say,
        )
    tell_end(ended, as_json=json_lines)


def tell_end(ended: Outcome, *, as_json: bool) -> None:
    """How a training ended, on stdout; of several processes one says it."""
    if not ended.main:
        return
    if as_json:
        emit_json({"model": str(ended.model), "left_out": ended.left_out, **asdict(ended.state)})
        return
    best = ended.state.best if ended.state.best is not None else float("nan")
    emit(f"{ended.model}: WER {best * 100:.2f} % after step {ended.state.best_step}\n")


class Shown:
    """Progress with the time that is left on a terminal; elsewhere a line for each evaluation."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: Bar | None = None
        self._terminal = not quiet and sys.stderr.isatty()
        self._begun = time.monotonic()
        self._first: int | None = None
        self._loss = float("nan")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def say(self, message: str) -> None:
        if not self._quiet:
            say(message)

    def update(self, progress: Progress) -> None:
        """Called after each step and each evaluation."""
        if self._first is None:
            self._first, self._begun = progress.state.step - 1, time.monotonic()
        if progress.loss == progress.loss:
            self._loss = progress.loss
        if self._terminal:
            self._draw(progress)
        if progress.evaluation and not self._quiet:
            self._tell(progress)

    def _draw(self, progress: Progress) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        if self._bar is None:
            self._bar = Progress(
                TextColumn("step {task.completed} of {task.total}"),
                BarColumn(),
                TextColumn("{task.fields[figures]}", markup=False),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.add_task("", total=progress.steps, figures="")
            self._bar.start()
        best = progress.state.best
        figures = f"loss {self._loss:.3f}" + (f", WER {best:.2%}" if best is not None else "")
        self._bar.update(self._bar.task_ids[0], completed=progress.state.step, figures=figures)

    def _tell(self, progress: Progress) -> None:
        found, state = progress.evaluation, progress.state
        assert found is not None  # noqa: S101  for the type checker; the caller has looked
        figures = found.figures
        done = state.step - (self._first or 0)
        left = (time.monotonic() - self._begun) / max(1, done) * (progress.steps - state.step)
        agreement = f", agreement {figures['agreement']:.1%}" if "agreement" in figures else ""
        line = (
            f"step {state.step} of {progress.steps}: loss {self._loss:.3f}, "
            f"validation {figures['loss']:.3f}, WER {figures['wer']:.2%}, CER {figures['cer']:.2%}"
            f"{agreement}{' (best)' if state.best_step == state.step else ''}, {clock(left)} left"
        )
        if self._bar:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            say(line)
