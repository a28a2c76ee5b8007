"""Linear layers: of floating point, with int8 weights, and with 4-bit weights.

In a decoder's step a few rows meet large weights, and what counts is how fast those are read. For
float32 on CPUs that depends on how the product is written down: see `_FewRows`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from stenopool.errors import EngineMissing

PAIR, FEW, MOST = 2, 4, 8  # rows
LARGE = 8  # times as many outputs as inputs: only the logits have so many

Linear = Callable[[Tensor], Tensor]

_LARGEST = 127
_PACKAGE = "bitsandbytes"


def check_packages(device: str, precision: str) -> None:
    """Say what is missing before any work is done.

    Raises:
        EngineMissing: the device has no layers of this precision, or the package for them is
            missing.
    """
    if precision not in ("int8", "int4") or (device == "cpu" and precision == "int8"):
        return
    if device == "cpu":
        raise EngineMissing(
            "PyTorch has no 4-bit products on CPUs", do="Use `STENO_TORCH_PRECISION=int8`"
        )
    try:
        import_module(_PACKAGE)
    except Exception as error:  # a broken install raises whatever its libraries do
        raise EngineMissing(
            f"{precision} weights on CUDA need {_PACKAGE}: {error!s:.200}",
            do=f"Run `pip install {_PACKAGE}`, or unset `STENO_TORCH_PRECISION`",
        ) from error


def linear(
    weight: Tensor, bias: Tensor | None, device: str, dtype: torch.dtype, precision: str
) -> Linear:
    """The linear layer of a weight, (out, in).

    Args:
        dtype: of what goes in and comes out.
        precision: of the weight.

    Raises:
        EngineMissing: see `check_packages`.
    """
    check_packages(device, precision)
    bias = None if bias is None else bias.to(device, dtype)
    if precision in ("int8", "int4") and device != "cpu":
        return _bits_and_bytes(weight, bias, device, dtype, precision)
    if precision == "int8":
        return _Int8Weights(weight, bias)
    placed = weight.to(device, dtype)
    if device == "cpu" and dtype == torch.float32:
        return _FewRows(placed, bias)
    return lambda x: functional.linear(x, placed, bias)


class _FewRows:
    """float32 on CPUs, where a few rows meet large weights.

    Written as usual, MKL copies the weights first on CPUs that are not Intel's, and for one row it
    has a slow kernel of its own. With the weights on the left it reads them where they lie; a
    single row goes twice. On Intel's it does that as usual. From three rows on oneDNN is faster
    yet, with weights that it has laid out for itself: as that takes their room again, it is for
    the largest only. Milliseconds of the logits of `base`, one core of a busy machine of
    AMD (Zen 5), and two cores of a quiet one of Intel (Sapphire Rapids or later):

    | rows | 1 | 2 | 3 | 4 | 6 | 8 |
    |---|---|---|---|---|---|---|
    | AMD, as usual | 10.8 | 25.6 | 39.5 | 20.7 | 22.1 | 23.1 |
    | AMD, weights on the left | 5.7 | 5.7 | 7.6 | 10.4 | 12.1 | 13.2 |
    | AMD, laid out by oneDNN | 9.5 | 9.7 | 7.5 | 6.8 | 7.4 | 10.2 |
    | Intel, as usual | 3.9 | 4.3 | 4.6 | 5.0 | 5.6 | 8.0 |
    | Intel, weights on the left | 6.9 | 7.0 | 7.0 | 6.5 | 6.6 | 6.7 |
    | Intel, laid out by oneDNN | 4.0 | 4.1 | 4.3 | 4.5 | 4.8 | 5.2 |
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight, self._bias = weight, bias
        self._laid_out = _laid_out(weight) if weight.shape[0] > LARGE * weight.shape[1] else None

    def __call__(self, x: Tensor) -> Tensor:
        rows = x.numel() // x.shape[-1]
        if PAIR < rows <= MOST and self._laid_out is not None:
            ops: Any = torch.ops.mkldnn
            found: Tensor = ops._linear_pointwise(
                x.reshape(rows, -1), self._laid_out, self._bias, "none", [], ""
            )
            return found.view(*x.shape[:-1], -1)
        if rows > MOST or _intel():
            return functional.linear(x, self._weight, self._bias)
        flat = x.reshape(rows, -1)
        # Joined, not expanded: rows at the same place in memory would be multiplied one by one.
        product = (self._weight @ (flat if rows > 1 else torch.cat((flat, flat))).t()).t()[:rows]
        if self._bias is not None:
            product = product + self._bias
        return product.reshape(*x.shape[:-1], -1)


@cache
def _intel() -> bool:
    """Whether MKL runs on a CPU of its own maker; unknown to older versions of PyTorch."""
    capabilities: Callable[[], dict[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    return "Intel" in str(capabilities().get("cpu_name"))


def _laid_out(weight: Tensor) -> Tensor | None:
    """As oneDNN reads it fastest; `None` where this PyTorch cannot. Its compiler does the same."""
    try:
        ops: Any = torch.ops.mkldnn
        found: Tensor = ops._reorder_linear_weight(weight, FEW)
    except (AttributeError, RuntimeError):
        return None
    return found


class _Int8Weights:
    """int8 weights on CPUs, one scale for each row of them; products are of bfloat16.

    Only the weights: PyTorch's products of int8 with int8 take tensors that it will do without.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        floating = weight.float()
        scales = floating.abs().amax(1).clamp(min=1e-8) / _LARGEST
        self._weight = (floating / scales[:, None]).round().to(torch.int8)
        self._scales, self._bias = scales.bfloat16(), bias

    def __call__(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1]).bfloat16()
        product = torch._weight_int8pack_mm(flat, self._weight, self._scales).to(x.dtype)
        if self._bias is not None:
            product = product + self._bias
        return product.reshape(*x.shape[:-1], -1)


def _bits_and_bytes(
    weight: Tensor, bias: Tensor | None, device: str, dtype: torch.dtype, precision: str
) -> Linear:
    """Layers of bitsandbytes (Dettmers et al. 2022 and 2023) on CUDA."""
    library: Any = import_module(_PACKAGE).nn
    size = (weight.shape[1], weight.shape[0], bias is not None)
    layer: Any
    if precision == "int4":
        layer = library.Linear4bit(*size, compute_dtype=dtype, quant_type="nf4")
        layer.weight = library.Params4bit(weight.cpu(), requires_grad=False, quant_type="nf4")
    else:
        layer = library.Linear8bitLt(*size, has_fp16_weights=False)
        layer.weight = library.Int8Params(
            weight.cpu().half(), requires_grad=False, has_fp16_weights=False
        )
    if bias is not None:
        layer.bias = torch.nn.Parameter(bias, requires_grad=False)
    found: Linear = layer.to(device)
    return found
