"""Inference engines behind one Protocol, and which of them is used on this machine."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from stenopool.errors import EngineMissing, UnknownName, UnsupportedOption
from stenopool.settings import settings

if TYPE_CHECKING:
    from stenopool.engines.base import Engine
    from stenopool.engines.ctc import CtcEngine

AUTO = "auto"
ENGINES = ("openvino", "ctranslate2", "torch")
DEVICES = ("cpu", "cuda")


@dataclass(frozen=True, slots=True)
class Choice:
    """An engine, how it would run, and why it was chosen.

    Attributes:
        attention: of the PyTorch engine; others have one each.
    """

    engine: str
    device: str
    precision: str
    threads: int
    why: str
    attention: str = ""


def choose(engine: str = AUTO, device: str = AUTO, threads: int = 0, attention: str = "") -> Choice:
    """The engine and device for this machine; `threads` 0 is one for each usable core, and no
    more than those are ever used.

    Args:
        attention: of the PyTorch engine; empty is that of the settings.

    Raises:
        UnknownName: no such engine, device or attention.
        EngineMissing: it was asked for and is not there.
        UnsupportedOption: another engine was told an attention.
    """
    _known("engine", engine, ENGINES)
    _known("device", device, DEVICES)
    if engine != "torch" and attention:
        raise UnsupportedOption(
            "`attention` is an option of the PyTorch engine", do="Use `--engine torch`"
        )
    cores = min(threads or settings().threads or usable_cores(), usable_cores())
    if engine == "torch":
        return _torch(device, cores, attention)
    if engine == "openvino":
        return _openvino(device, cores, "it was asked for")
    if engine == AUTO and device != "cuda" and not _cuda_wanted(device) and _suits_openvino():
        why = "the CPU was asked for" if device == "cpu" else "there is no CUDA device"
        return _openvino("cpu", cores, why)
    return _ctranslate2(device, cores)


def _suits_openvino() -> bool:
    """Its kernels are made for x86; elsewhere CTranslate2 is the faster one."""
    return platform.machine().lower() in ("x86_64", "amd64") and _installed("openvino")


def _cuda_wanted(device: str) -> bool:
    return device != "cpu" and _installed("ctranslate2") and cuda_devices() > 0


def _installed(package: str) -> bool:
    return find_spec(package) is not None


def _openvino(device: str, cores: int, why: str) -> Choice:
    if device == "cuda":
        raise EngineMissing(
            "the OpenVINO engine runs on CPUs only",
            do="Use `--engine ctranslate2` with `--device cuda`",
        )
    if not _installed("openvino"):
        raise EngineMissing("OpenVINO is not installed", do="Run `pip install openvino`")
    from stenopool.engines.openvino.library import library
    from stenopool.engines.openvino.processor import precision

    library()  # an error now rather than with the first recording
    return Choice("openvino", "cpu", precision(), cores, why)


def _ctranslate2(device: str, cores: int) -> Choice:
    if not _installed("ctranslate2"):
        raise EngineMissing("CTranslate2 is not installed", do="Run `pip install ctranslate2`")
    devices = cuda_devices() if device != "cpu" else 0
    if device == "cuda" and not devices:
        raise EngineMissing(
            "CTranslate2 finds no CUDA device",
            do="Use `--device cpu`, or install an NVIDIA driver with cuBLAS and cuDNN",
        )
    if devices:
        return Choice("ctranslate2", "cuda", "float16", cores, "a CUDA device is present")
    why = "the CPU was asked for" if device == "cpu" else "there is no CUDA device"
    return Choice("ctranslate2", "cpu", "int8", cores, why)


def _torch(device: str, cores: int, attention: str) -> Choice:
    if not _installed("torch"):
        raise EngineMissing("PyTorch is not installed", do="Run `pip install 'stenopool[train]'`")
    from stenopool.engines.torch.choosing import chosen

    device, precision, attention = chosen(device, attention)
    return Choice("torch", device, precision, cores, "it was asked for", attention)


def load(folder: Path, choice: Choice, assistant: Path | None = None) -> Engine:
    """Load a Whisper model's files.

    Args:
        assistant: folder of the model that drafts, for speculative decoding.

    Raises:
        EngineMissing, ModelDamaged: see the engine.
        UnsupportedOption: the engine can do nothing with an assistant.
    """
    if choice.engine == "torch":
        from stenopool.engines.torch import TorchEngine

        return TorchEngine(
            folder,
            device=choice.device,
            precision=choice.precision,
            attention=choice.attention,
            threads=choice.threads,
            compiled=settings().torch_compile,
            assistant=assistant,
        )
    if assistant:
        raise UnsupportedOption(
            f"the engine `{choice.engine}` takes no assistant",
            do="Use `--engine torch`, or leave out `--assistant`",
        )
    if choice.engine == "openvino":
        from stenopool.engines.openvino import OpenVINOEngine

        return OpenVINOEngine(folder, precision=choice.precision, threads=choice.threads)
    from stenopool.engines.ctranslate2 import CTranslate2Engine

    return CTranslate2Engine(folder, device=choice.device, threads=choice.threads)


def load_ctc(folder: Path, choice: Choice) -> CtcEngine:
    """Load a CTC model's files.

    Raises:
        EngineMissing: it would have to run on something else than OpenVINO.
        ModelDamaged: see the engine.
    """
    if choice.engine != "openvino":
        raise EngineMissing(
            f"CTC models run on OpenVINO, and here `{choice.engine}` was chosen: {choice.why}",
            do="Use `--engine openvino --device cpu`, on an x86 processor",
        )
    from stenopool.engines.ctc.openvino import OpenVinoCtcEngine, precision

    chosen = settings().ctc_precision
    found = precision() if chosen == AUTO else chosen
    return OpenVinoCtcEngine(folder, precision=found, threads=choice.threads)


def cuda_devices() -> int:
    """CUDA devices that CTranslate2 can use."""
    import ctranslate2

    return int(ctranslate2.get_cuda_device_count())


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _known(kind: str, name: str, names: tuple[str, ...]) -> None:
    if name not in (AUTO, *names):
        raise UnknownName(
            f"unknown {kind}: `{name}`", do=f"Use one of: {', '.join((AUTO, *names))}"
        )
