"""Speech recognisers, each in a process of its own.

A process shares no threads, no memory and no loaded library with another, so figures of several
systems can be compared, and one that crashes or hangs takes nothing with it.

    with ours("base") as system:
        for answer in system.transcribe([Path("talk.mp3")]):
            print(answer.text, answer.seconds)
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from stenopool.decoding.options import Options
from stenopool.engines import AUTO, usable_cores
from stenopool.errors import EngineFailed, StenoError
from stenopool.evaluation.process import Process

if TYPE_CHECKING:
    from stenopool.models import Report

_PYTHON = (sys.executable, "-P")  # a file of the user's folder must not stand in for a library

# Each of these is read by a library when it is loaded, so they are set before the process begins.
_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_NO_NETWORK: Mapping[str, str] = MappingProxyType(
    {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "STENO_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a system made of one recording.

    Attributes:
        text: what it heard; empty where it failed.
        seconds: wall time that it took for this recording; of a call for several recordings, the
            time since the answer before, so that the sum is the time of the call.
        error: the record of the error (`code, message, hint, transient`), where it failed.
    """

    text: str
    seconds: float
    error: dict[str, object] | None = None


@dataclass(frozen=True, slots=True)
class Figures:
    """What a system cost so far.

    Attributes:
        peak_memory: highest resident memory of its process, in bytes.
        load_seconds: from its first import to the loaded model.
        start_seconds: from the start of the process until it could take a recording.
        cpu_seconds: that all its threads have computed for.
        threads: that it was told to use.
        detail: what it runs on, such as `ctranslate2 int8`.
        versions: of the packages that matter, by name.
    """

    peak_memory: int
    load_seconds: float
    start_seconds: float
    cpu_seconds: float
    threads: int
    detail: str
    versions: dict[str, str]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the process makes its recogniser.

    Attributes:
        factory: `module:function`; it gives a `Recogniser` (see `peers.base`).
        given: its keyword arguments, as JSON can carry them.
        threads: told to the libraries by their environment variables.
    """

    factory: str
    given: Mapping[str, Any] = field(hash=False)
    threads: int


class System:
    """A recogniser in a process of its own; entering loads it, leaving ends the process.

    It can be entered again, also after the process has died.

    Args:
        name: for tables and messages.
        recipe: what the process loads.
        before: called before the process starts, such as to fetch the model; what it returns adds
            to the arguments of the factory.
        patience: seconds to wait for the model or for one answer; `None` is for ever.
    """

    def __init__(
        self,
        name: str,
        recipe: Recipe,
        *,
        before: Callable[[], Mapping[str, Any]] | None = None,
        patience: float | None = None,
    ) -> None:
        self.name = name
        self._recipe = recipe
        self._before = before
        self._patience = patience
        self._process: Process | None = None
        self._start_seconds = 0.0
        self._asked = 0

    def __enter__(self) -> Self:
        """Start the process and load the model.

        Raises:
            StenoError: the model could not be loaded, with the error that the process had.
        """
        given = {**self._recipe.given, **(self._before() if self._before else {})}
        begun = time.perf_counter()
        command = [*_PYTHON, "-m", "stenopool.evaluation.worker"]
        self._process = Process(self.name, command, _environment(self._recipe.threads))
        try:
            self._ask({"load": self._recipe.factory, "given": given})
            self._told("load its model")
        except BaseException:  # also an interrupt: `__exit__` is not called for us
            self.close()
            raise
        self._start_seconds = time.perf_counter() - begun
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process, whatever it does."""
        if self._process:
            self._process.end()
            self._process = None

    def transcribe(self, paths: Sequence[Path], *, together: bool = False) -> Iterator[Answer]:
        """The answer to each recording, in order.

        Args:
            paths: of the recordings.
            together: give it all recordings in one call, so that it can batch across them where it
                knows how; else one after the other.

        Raises:
            EngineFailed: the process died or lost patience; a recording that merely failed is an
                answer with an error.
        """
        groups = [list(paths)] if together else [[path] for path in paths]
        for group in groups:
            if group:
                self._ask({"transcribe": [str(path) for path in group], "together": together})
            for path in group:
                told = self._told(f"transcribe `{path}`")
                yield Answer(told["text"], told["seconds"], told["error"])

    def figures(self) -> Figures:
        """What it cost until now.

        Raises:
            EngineFailed: the process died.
        """
        self._ask({"figures": True})
        told = self._told("count its figures")
        return Figures(**told, threads=self._recipe.threads, start_seconds=self._start_seconds)

    def _ask(self, request: Mapping[str, object]) -> None:
        self._asked += 1
        self._running().send({"id": self._asked, **request})

    def _told(self, task: str) -> dict[str, Any]:
        """The next message about the last request.

        Messages about requests before it are of an iteration that nobody finished.
        """
        while True:
            message = self._running().receive(task, self._patience)
            if message["id"] != self._asked:
                continue
            if "failed" in message:
                raise recorded(message["failed"])
            answer: dict[str, Any] = message["answer"]
            return answer

    def _running(self) -> Process:
        if self._process is None:
            raise EngineFailed(
                f"`{self.name}` is not running", do="Enter the system first: `with system:`"
            )
        return self._process


def ours(
    model: str | Path,
    *,
    engine: str = AUTO,
    device: str = AUTO,
    threads: int = 0,
    options: Options | None = None,
    name: str | None = None,
    patience: float | None = None,
    report: Report | None = None,
    attention: str = "",
    assistant: str = "",
) -> System:
    """Stenopool itself.

    Args:
        model: name of the catalogue, pulled if it is not here, or a folder.
        engine: name, or `auto`.
        device: `cpu`, `cuda` or `auto`.
        threads: cores to use; 0 is all that this process may use.
        options: of every transcription.
        name: for tables; by default `stenopool`, the model and the engine.
        patience: seconds to wait for the model or for one answer; `None` is for ever.
        report: told of the progress when the model is pulled.
        attention, assistant: see `Transcriber`; empty is none.
    """
    threads = threads or usable_cores()
    given = {
        "model": str(model),
        "folder": isinstance(model, Path),
        "engine": engine,
        "device": device,
        "threads": threads,
        "options": asdict(options or Options()),
        "attention": attention,
        "assistant": assistant,
    }

    suffix = "" if engine == AUTO else f" {engine}"
    return System(
        name or f"stenopool {model}{suffix}",
        Recipe("stenopool.evaluation.worker:ours", given, threads),
        before=lambda: _pulled([model, *([assistant] if assistant else [])], report),
        patience=patience,
    )


def _pulled(models: Sequence[str | Path], report: Report | None) -> dict[str, Any]:
    """The process itself must not reach the network."""
    from stenopool.models import DETECTOR, Store

    for one in (*models, DETECTOR):
        Store().resolve(one, report=report)
    return {}


def peer(
    name: str,
    model: str | Path,
    *,
    threads: int = 0,
    language: str = "en",
    patience: float | None = None,
    report: Report | None = None,
) -> System:
    """Another project's recogniser, on the same weights.

    Args:
        name: of `peers.PEERS`, with settings if need be: `faster-whisper-batched:beam=1,batch=16`.
        model: name of the catalogue, or a folder; converted to the peer's format once.
        threads: cores to use; 0 is all that this process may use.
        language: code of what is spoken.
        patience: seconds to wait for the model or for one answer; `None` is for ever.
        report: told of the progress when the model is pulled.

    Raises:
        UnknownName, UsageError: no such peer or setting.
    """
    from stenopool.evaluation.peers import Order

    threads = threads or usable_cores()
    order = Order.of(name)
    given = {**order.settings, "threads": threads, "language": language}

    def with_weights() -> dict[str, Any]:
        order.check()
        return {"folder": str(_weights(order.form, model, report))}

    return System(
        name, Recipe(order.factory, given, threads), before=with_weights, patience=patience
    )


def _weights(form: str, model: str | Path, report: Report | None) -> Path:
    """The folder with a model in a format, converted in a process that is gone afterwards."""
    from stenopool.evaluation.peers.convert import converted
    from stenopool.models import Store

    def convert(source: Path, target: Path) -> None:
        given = {"source": str(source), "target": str(target), "form": form}
        function = "stenopool.evaluation.peers.convert:write"
        with System(f"conversion to {form}", Recipe(function, given, usable_cores())):
            pass  # it is done when it has been entered

    return converted(Store().resolve(model, report=report), form, convert)


def recorded(record: Mapping[str, Any]) -> StenoError:
    """The error that a record was made of, as its own class."""
    return _kind(record["code"])(record["message"], do=record["hint"])


def exit_status(code: str) -> int:
    """Of a command that ended with an error of this code."""
    return _kind(code).exit_status


def _kind(code: str) -> type[StenoError]:
    return {kind.code: kind for kind in _all_kinds(StenoError)}.get(code, EngineFailed)


def _all_kinds(kind: type[StenoError]) -> Iterator[type[StenoError]]:
    yield kind
    for narrower in kind.__subclasses__():
        yield from _all_kinds(narrower)


def _environment(threads: int) -> dict[str, str]:
    return {**os.environ, **_NO_NETWORK, **dict.fromkeys(_THREADS, str(threads))}
