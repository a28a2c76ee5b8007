"""Checkpoints: folders that appear complete or not at all.

`checkpoints/step-00000200/` holds the model as its task saves it, `optimiser.safetensors` with the
optimiser's tensors by parameter and name, and `state.json`. There is no random state: what is drawn
in a step follows from the seed and its number.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stenopool.errors import ModelDamaged
from stenopool.files import TEMPORARY_PREFIX, copy_whole, make_folder, output_error

if TYPE_CHECKING:
    import torch

FOLDER = "checkpoints"
OPTIMISER, STATE, MODEL = "optimiser.safetensors", "state.json", "model.safetensors"
_NAME = re.compile(r"step-(\d{8,})")
_OS_ERROR = re.compile(r"os error (\d+)")


@dataclass(frozen=True, slots=True)
class State:
    """Where a training is.

    Attributes:
        step: updates that are done.
        best: lowest figure of an evaluation; `None` before the first one.
        best_step: after how many updates that was.
        since_best: evaluations since then.
        audio_seconds: that were heard.
        wall_seconds: of training, evaluations included.
        scaler: of the loss, for fp16 only.
    """

    step: int = 0
    best: float | None = None
    best_step: int = 0
    since_best: int = 0
    audio_seconds: float = 0.0
    wall_seconds: float = 0.0
    scaler: dict[str, float] | None = None


def latest(output: Path) -> Path | None:
    """The last complete checkpoint of a training."""
    found = _complete(output)
    return found[-1] if found else None


def save(output: Path, state: State, write: Callable[[Path], None], *, keep: int) -> Path:
    """Write a checkpoint; older ones are removed when it is complete.

    Args:
        write: fills a folder with all but the state.
        keep: how many there are afterwards.

    Raises:
        OutputError: it cannot be written; those that were there are as before.
    """
    parent = make_folder(output / FOLDER)
    target = parent / f"step-{state.step:08}"
    clean(output)
    temporary = parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}.part"
    try:
        with writing(target):
            temporary.mkdir()
            write(temporary)
            (temporary / STATE).write_text(json.dumps(asdict(state), indent=2), encoding="utf-8")
            _sync(temporary)
            if target.exists():  # of a run that went on from an older one
                shutil.rmtree(target)
            temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for old in _complete(output)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def publish(checkpoint: Path, output: Path) -> None:
    """Make a checkpoint's model that of the folder: what describes it first, then the weights.

    Raises:
        OutputError: the folder holds the model that it had.
    """
    private = {STATE, OPTIMISER}
    files = [path for path in checkpoint.iterdir() if path.is_file() and path.name not in private]
    for path in sorted(files, key=lambda path: (path.suffix == ".safetensors", path.name)):
        copy_whole(path, output / path.name)


def clean(output: Path) -> None:
    """Remove what a killed process has left unfinished."""
    for part in (output / FOLDER).glob(f"{TEMPORARY_PREFIX}*"):
        shutil.rmtree(part, ignore_errors=True)
    for part in output.glob(f"{TEMPORARY_PREFIX}*"):
        part.unlink(missing_ok=True)


def state_of(checkpoint: Path) -> State:
    """Where a training was.

    Raises:
        ModelDamaged: its `state.json` is not what we wrote.
    """
    try:
        return State(**json.loads((checkpoint / STATE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise _damaged(checkpoint / STATE, error) from error


def write_optimiser(optimiser: torch.optim.Optimizer, path: Path) -> None:
    """The optimiser's tensors, named `PARAMETER.NAME`; no pickle."""
    import safetensors.torch

    state = optimiser.state_dict()["state"]
    tensors = {
        f"{at}.{name}": value.contiguous()
        for at, values in state.items()
        for name, value in values.items()
    }
    safetensors.torch.save_file(tensors, path)


def read_optimiser(optimiser: torch.optim.Optimizer, path: Path) -> None:
    """Put the tensors back; the groups stay those of the options.

    Raises:
        ModelDamaged: the file is not what we wrote for these parameters.
    """
    tensors = read_tensors(path)
    held: dict[int, dict[str, Any]] = {}
    try:
        for name, value in tensors.items():
            at, _, kind = name.partition(".")
            held.setdefault(int(at), {})[kind] = value
        optimiser.load_state_dict({**optimiser.state_dict(), "state": held})
    except (ValueError, KeyError) as error:
        raise _damaged(path, error) from error


def read_model(model: torch.nn.Module, path: Path) -> None:
    """Put weights back, all of them.

    Raises:
        ModelDamaged: the file is not what we wrote for this model.
    """
    try:
        model.load_state_dict(read_tensors(path), strict=True)
    except RuntimeError as error:
        raise _damaged(path, error) from error


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file.

    Raises:
        ModelDamaged: it cannot be read.
    """
    import safetensors
    import safetensors.torch

    try:
        tensors: dict[str, torch.Tensor] = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise _damaged(path, error) from error
    return tensors


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Errors of the disk by their names, whoever raises them.

    Raises:
        OutputError: instead of what `safetensors`, `torch` or Python raised.
    """
    try:
        yield
    except OSError as error:
        raise output_error(path, error) from error
    except Exception as error:  # safetensors has a class of its own, PyTorch a `RuntimeError`
        number = _OS_ERROR.search(str(error))
        if number is None:
            raise
        code = int(number[1])
        raise output_error(path, OSError(code, os.strerror(code))) from error


def _complete(output: Path) -> list[Path]:
    folder = output / FOLDER
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)] if _is(folder) else []
    return sorted(found, key=lambda path: int(path.name.partition("-")[2]))


def _is(folder: Path) -> bool:
    return folder.is_dir()


def _sync(folder: Path) -> None:
    """Let the disk have it all before the folder gets its name."""
    for path in [*(one for one in folder.rglob("*") if one.is_file()), folder]:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:  # some file systems cannot sync a folder
                raise
        finally:
            os.close(descriptor)


def _damaged(path: Path, error: Exception) -> ModelDamaged:
    return ModelDamaged(
        f"`{path}` is damaged: {error!s:.300}",
        do="Remove this checkpoint, so that `--resume` goes on from the one before it",
    )
