"""The training loop: batches, gradients, schedule, evaluation, checkpoints. It knows no task.

Of what is drawn at random (dropout, SpecAugment), a step draws what follows from the seed and its
number, so that a run that was killed and goes on gives the same weights as one that was not.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Generic

import numpy as np

from stenopool.errors import TrainingDiverged
from stenopool.training import checkpoints
from stenopool.training.checkpoints import State
from stenopool.training.interrupts import Interrupts
from stenopool.training.options import LoopOptions
from stenopool.training.records import Records
from stenopool.training.task import Held, Progress, Task, Work

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

BETAS = (0.9, 0.98)  # those of the papers on speech: the second moment follows faster


def train(
    task: Task[Held],
    options: LoopOptions,
    output: Path,
    accelerator: Accelerator,
    report: Callable[[Progress], None],
) -> State:
    """Train to the last step, or until it gets no better, from the last checkpoint if there is one.

    Args:
        output: gets the best model, and the checkpoints and records of the run.
        report: called after each step.

    Returns:
        The state at the end.

    Raises:
        TrainingDiverged: the loss is no number; the last checkpoint is as it was.
        OutputError, InputError: by name; the last checkpoint is as it was.
        KeyboardInterrupt: asked to stop; the state is saved.
    """
    last = checkpoints.latest(output)
    state = checkpoints.state_of(last) if last else State()
    if last:
        checkpoints.read_model(task.model, last / checkpoints.MODEL)
    model, optimiser = accelerator.prepare(task.model, _optimiser(task.model, options))
    if last:
        checkpoints.read_optimiser(optimiser.optimizer, last / checkpoints.OPTIMISER)
        if accelerator.scaler is not None and state.scaler:
            accelerator.scaler.load_state_dict(state.scaler)
        if accelerator.is_main_process and state.best_step == state.step:
            checkpoints.publish(last, output)  # it may have been killed just before
    loop = _Loop(task, options, output, accelerator, model, optimiser, state, report)
    with Interrupts() as interrupts:
        return loop.run(interrupts)


class _Loop(Generic[Held]):
    def __init__(
        self,
        task: Task[Held],
        options: LoopOptions,
        output: Path,
        accelerator: Accelerator,
        model: torch.nn.Module,
        optimiser: torch.optim.Optimizer,
        state: State,
        report: Callable[[Progress], None],
    ) -> None:
        self._task, self._options, self._output = task, options, output
        self._accelerator, self._model, self._optimiser = accelerator, model, optimiser
        self._state, self._report = state, report
        main = accelerator.is_main_process
        self._records = Records(output, state.step) if main else None

    def run(self, interrupts: Interrupts) -> State:
        self._model.train()  # what is loaded comes as it is used, without dropout
        try:
            with closing(self._task.work(self._state.step, self._accelerator)) as work:
                while self._state.step < self._options.steps and not self._is_enough():
                    self._advance(work)
                    self._save_if_due(interrupts)
        finally:
            if self._records:
                self._records.close()
        return self._state

    def _save_if_due(self, interrupts: Interrupts) -> None:
        interrupted = self._anywhere(interrupts.asked)
        done = self._state.step
        if done % self._options.evaluate_every == 0 or done == self._options.steps:
            self._evaluate()
        elif interrupted:
            self._checkpoint()
        if interrupted:
            raise KeyboardInterrupt

    def _is_enough(self) -> bool:
        return 0 < self._options.patience <= self._state.since_best

    def _advance(self, work: Iterator[Work[Held]]) -> None:
        """One update of the weights."""
        begun = time.perf_counter()
        step = next(work)
        loaded = time.perf_counter()
        seeded(self._options.seed, step.number, self._accelerator.process_index)
        rate = self._options.learning_rate_at(step.number)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        loss = self._gradients(step)
        norm = self._accelerator.clip_grad_norm_(self._model.parameters(), self._options.clip)
        length = float(norm) if norm is not None else 0.0
        self._refuse_what_is_no_number(step, loss, length)
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        taken = time.perf_counter() - begun
        self._state = replace(
            self._state,
            step=step.number + 1,
            audio_seconds=self._state.audio_seconds + step.seconds,
            wall_seconds=self._state.wall_seconds + taken,
        )
        if self._records:
            self._records.step(
                self._state.step,
                epoch=step.epoch,
                loss=loss,
                learning_rate=rate,
                gradient=length,
                audio_seconds=step.seconds,
                seconds=taken,
                waited=loaded - begun,
            )
        self._report(Progress(self._state, self._options.steps, loss))

    def _gradients(self, step: Work[Held]) -> float:
        """Of all processes together, of the mean over units, however they are dealt out."""
        accelerator = self._accelerator
        share = accelerator.num_processes / max(1, step.units)
        losses: list[torch.Tensor] = []
        for at, batch in enumerate(step.batches, start=1):
            last = at == len(step.batches)
            with nullcontext() if last else accelerator.no_sync(self._model):
                loss = self._task.loss(self._model, batch)
                accelerator.backward(loss * share)
            losses.append(loss.detach())
        total = sum(losses[1:], losses[0])
        everyone = accelerator.reduce(total) if accelerator.num_processes > 1 else total
        return float(everyone) / max(1, step.units)

    def _refuse_what_is_no_number(self, step: Work[Held], loss: float, length: float) -> None:
        # With fp16 a gradient beyond all numbers is expected: the scaler leaves that step out.
        scaled = self._accelerator.scaler is not None
        if math.isfinite(loss) and (scaled or math.isfinite(length)):
            return
        what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient is {length}"
        saved = checkpoints.latest(self._output)
        begin = f"begin anew with `--init {saved}` and" if saved else "begin anew with"
        raise TrainingDiverged(
            f"{what} in step {step.number + 1}, epoch {step.epoch + 1}: nothing was updated",
            do=f"Check the recordings of that step; {begin} a lower `--learning-rate`"
            " in another folder",
        )

    def _evaluate(self) -> None:
        """Measure, keep the model if it is the best one, and save the state."""
        begun = time.perf_counter()
        self._model.eval()
        found = self._task.evaluate(self._model, self._accelerator)
        self._model.train()
        best = self._state.best
        better = best is None or found.figure < best
        self._state = replace(
            self._state,
            best=found.figure if better else best,
            best_step=self._state.step if better else self._state.best_step,
            since_best=0 if better else self._state.since_best + 1,
            wall_seconds=self._state.wall_seconds + time.perf_counter() - begun,
        )
        if self._records:
            self._records.evaluation(self._state, found.figures, found.samples)
        self._checkpoint(better=better)
        self._report(Progress(self._state, self._options.steps, math.nan, found))

    def _checkpoint(self, *, better: bool = False) -> None:
        if self._records is None:
            self._accelerator.wait_for_everyone()
            return
        scaler = self._accelerator.scaler
        if scaler is not None:
            self._state = replace(self._state, scaler=scaler.state_dict())

        def write(folder: Path) -> None:
            self._task.save(folder)
            path = folder / checkpoints.OPTIMISER
            checkpoints.write_optimiser(self._optimiser.optimizer, path)  # type: ignore[attr-defined]

        saved = checkpoints.save(self._output, self._state, write, keep=self._options.keep)
        if better:
            checkpoints.publish(saved, self._output)
        self._records.sync()
        self._accelerator.wait_for_everyone()

    def _anywhere(self, asked: bool) -> bool:
        """Whether any process was asked: all must stop at the same step."""
        if self._accelerator.num_processes == 1:
            return asked
        import torch

        mine = torch.tensor([float(asked)], device=self._accelerator.device)
        return bool(self._accelerator.reduce(mine).item())


def seeded(seed: int, step: int, process: int) -> None:
    """Let all that is drawn in a step follow from these numbers: Python, NumPy and PyTorch."""
    import torch

    first, second, third = np.random.SeedSequence([seed, step, process]).generate_state(3)
    random.seed(int(first))
    np.random.seed(int(second))
    torch.manual_seed(int(third))


def _optimiser(model: torch.nn.Module, options: LoopOptions) -> torch.optim.Optimizer:
    """AdamW; biases and norms do not decay, which would only pull them away from their task."""
    import torch

    trained = [one for one in model.parameters() if one.requires_grad]
    groups = [
        {
            "params": [one for one in trained if one.ndim > 1],
            "weight_decay": options.weight_decay,
        },
        {"params": [one for one in trained if one.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=BETAS)
