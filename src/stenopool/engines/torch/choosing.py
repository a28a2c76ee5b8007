"""How a model runs on PyTorch on this machine."""

from __future__ import annotations

import torch

from stenopool.engines.torch.linear import check_packages
from stenopool.engines.torch.parts import ATTENTIONS, FLASH
from stenopool.errors import EngineMissing, UnknownName
from stenopool.settings import settings

AUTO = "auto"


def chosen(device: str, attention: str) -> tuple[str, str, str]:
    """Device, precision and attention, as they were asked for or as the settings have them.

    Raises:
        EngineMissing: one of them is not there.
        UnknownName: no such attention.
    """
    if device == AUTO:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        raise EngineMissing(
            "PyTorch finds no CUDA device",
            do="Use `--device cpu`, or install a PyTorch build and a driver for CUDA",
        )
    attention = attention or settings().attention
    if attention not in ATTENTIONS:
        raise UnknownName(
            f"unknown attention: `{attention}`", do=f"Use one of: {', '.join(ATTENTIONS)}"
        )
    precision = settings().torch_precision
    if precision == AUTO:
        precision = "float16" if device == "cuda" else "float32"
    check_packages(device, precision)
    if attention == FLASH and (device == "cpu" or precision == "float32"):
        raise EngineMissing(
            f"Flash Attention 2 needs CUDA and 16 bits; this would be {device} and {precision}",
            do="Use `--attention sdpa`",
        )
    return device, precision, attention
